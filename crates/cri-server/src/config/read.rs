//! From a merged tree to the configuration: the types of values and the names of keys, through serde, with the path of what is wrong.
//!
//! serde ends at the first thing that it can't take. What it couldn't is taken out then and the rest read again, so that all of it
//! is told at once. Not here: files (see `load`), and what values mean (the sections).

use std::fmt;

use serde::de::value::StringDeserializer;
use serde::de::{
    self, Deserialize, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;

use super::tree::{Node, Place, Table, Value};

/// Something that can't be taken.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// The path of it, the innermost first while it is on its way out.
    path: Vec<Step>,
    pub(crate) why: String,
    /// The key is not known; those that are.
    pub(crate) known: Option<&'static [&'static str]>,
}

/// A step into a value.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Item(usize),
}

/// Something that can't be taken, and where it stands.
#[derive(Debug)]
pub(crate) struct Misfit {
    pub(crate) place: Place,
    pub(crate) key: String,
    pub(crate) refusal: Refusal,
}

/// Reads a tree. What can't be taken of it is told, and has its default.
pub(crate) fn read<T: for<'de> Deserialize<'de>>(mut tree: Table) -> (Option<T>, Vec<Misfit>) {
    let mut misfits = Vec::new();
    loop {
        match T::deserialize(Fields { table: &tree }) {
            Ok(read) => return (Some(read), misfits),
            Err(mut refusal) => {
                refusal.path.reverse();
                let Some(place) = take_out(&mut tree, &refusal) else { return (None, misfits) };
                misfits.push(Misfit { place, key: shown(&refusal.path), refusal });
            }
        }
    }
}

/// Removes what a refusal is about; gives its place. `None` when it isn't there, which would be our own mistake.
fn take_out(tree: &mut Table, refusal: &Refusal) -> Option<Place> {
    let (last, way) = refusal.path.split_last()?;
    let mut steps = way.iter();
    let Some(Step::Key(first)) = steps.next() else {
        let Step::Key(key) = last else { return None };
        return tree.remove(key).map(|entry| place(entry, refusal));
    };
    let mut node = &mut tree.get_mut(first)?.1;
    for step in steps {
        node = match (&mut node.value, step) {
            (Value::Table(table), Step::Key(key)) => &mut table.get_mut(key)?.1,
            (Value::List(items), Step::Item(at)) => items.get_mut(*at)?,
            _ => return None,
        };
    }
    match (&mut node.value, last) {
        (Value::Table(table), Step::Key(key)) => table.remove(key).map(|entry| place(entry, refusal)),
        (Value::List(items), Step::Item(at)) if *at < items.len() => Some(items.remove(*at).place),
        _ => None,
    }
}

/// A key that isn't known is where it stands itself, anything else where the value does.
fn place((key, node): (Place, Node), refusal: &Refusal) -> Place {
    if refusal.known.is_some() { key } else { node.place }
}

fn shown(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) if key.contains('.') => text.push_str(&format!(".\"{key}\"")),
            Step::Key(key) => text.push_str(&format!(".{key}")),
            Step::Item(at) => text.push_str(&format!("[{at}]")),
        }
    }
    text
}

impl Refusal {
    fn at(mut self, step: Step) -> Self {
        self.path.push(step);
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for Refusal {}

impl de::Error for Refusal {
    fn custom<T: fmt::Display>(why: T) -> Self {
        Self { path: Vec::new(), why: why.to_string(), known: None }
    }

    fn invalid_type(is: Unexpected<'_>, must: &dyn de::Expected) -> Self {
        Self::custom(format!("must be {}, not {is}", plain(&must.to_string())))
    }

    fn invalid_value(is: Unexpected<'_>, must: &dyn de::Expected) -> Self {
        Self::invalid_type(is, must)
    }

    fn unknown_variant(variant: &str, known: &'static [&'static str]) -> Self {
        let known: Vec<String> = known.iter().map(|name| format!("\"{name}\"")).collect();
        Self::custom(format!("must be one of {}, not \"{variant}\"", known.join(", ")))
    }

    fn unknown_field(_: &str, known: &'static [&'static str]) -> Self {
        Self { known: Some(known), ..Self::custom("there is no such key") }
    }

    fn missing_field(field: &'static str) -> Self {
        Self::custom(format!("lacks the key \"{field}\""))
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::custom(format!("has the key \"{field}\" twice"))
    }
}

/// What serde and Rust call a kind of value, in the words of TOML.
fn plain(expected: &str) -> String {
    let number = |bits: u32| format!("a number from 0 to {}", u64::MAX >> (64 - bits));
    match expected {
        "u8" => number(8),
        "u16" => number(16),
        "u32" => number(32),
        "u64" | "usize" => "a number from 0 on".to_owned(),
        "i64" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "path string" => "a string".to_owned(),
        "a sequence" => "an array".to_owned(),
        "a map" => "a table".to_owned(),
        _ if expected.starts_with("struct ") => "a table".to_owned(),
        _ if expected.contains("enum ") => "a string".to_owned(),
        other => other.to_owned(),
    }
}

/// A table, to be read.
struct Fields<'a> {
    table: &'a Table,
}

/// A value, to be read.
struct Element<'a>(&'a Node);

struct Entries<'a> {
    rest: std::collections::btree_map::Iter<'a, String, (Place, Node)>,
    /// The key that was given last, and its value.
    under_way: Option<(&'a str, &'a Node)>,
}

struct Items<'a> {
    rest: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
}

impl<'de> de::Deserializer<'de> for Fields<'_> {
    type Error = Refusal;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_map(Entries { rest: self.table.iter(), under_way: None })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de> de::Deserializer<'de> for Element<'_> {
    type Error = Refusal;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match &self.0.value {
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Integer(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(value) => visitor.visit_str(value),
            Value::List(items) => visitor.visit_seq(Items { rest: items.iter().enumerate() }),
            Value::Table(table) => Fields { table }.deserialize_any(visitor),
            Value::Other(name) => Err(de::Error::invalid_type(Unexpected::Other(name), &visitor)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_some(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        let Value::Text(name) = &self.0.value else { return self.deserialize_any(visitor) };
        let name: StringDeserializer<Refusal> = name.clone().into_deserializer();
        visitor.visit_enum(name)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Refusal;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Refusal> {
        let Some((key, (_, node))) = self.rest.next() else { return Ok(None) };
        self.under_way = Some((key, node));
        let name: StringDeserializer<Refusal> = key.clone().into_deserializer();
        seed.deserialize(name).map(Some).map_err(|refusal| refusal.at(Step::Key(key.clone())))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Refusal> {
        let Some((key, node)) = self.under_way.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        seed.deserialize(Element(node)).map_err(|refusal| refusal.at(Step::Key(key.to_owned())))
    }
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Refusal;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Refusal> {
        let Some((at, node)) = self.rest.next() else { return Ok(None) };
        seed.deserialize(Element(node)).map(Some).map_err(|refusal| refusal.at(Step::Item(at)))
    }
}
