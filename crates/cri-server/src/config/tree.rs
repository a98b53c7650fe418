//! A configuration as it is written: values with the places that they stand at, and several of them laid over each other.
//!
//! Merging: tables are merged key by key, at any depth; of any other value (an array is one) the later takes the place of the
//! earlier as a whole. Nothing is appended, so that a file can take away what an earlier one says. Not here: what the keys mean.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where a value was said.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// In a file.
    File {
        /// Its path.
        path: Arc<Path>,
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
    },
    /// With a flag of the command line.
    CommandLine,
}

/// A value, and its place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Table(Table),
    /// What TOML has and no key of ours takes: its name.
    Other(&'static str),
}

/// Keys, the places that they stand at, and their values.
pub(crate) type Table = BTreeMap<String, (Place, Node)>;

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::CommandLine => f.write_str("the command line"),
        }
    }
}

/// Positions in the text of a file.
struct Text<'a> {
    path: Arc<Path>,
    text: &'a str,
}

/// Reads a file's text.
///
/// # Errors
/// Every place at which it isn't TOML, and why.
pub(crate) fn parse(path: &Path, text: &str) -> Result<Table, Vec<(Place, String)>> {
    let source = Text { path: path.into(), text };
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(source.table(table.get_ref()));
    }
    let place = |error: &toml::de::Error| source.place(error.span().unwrap_or(0..0));
    Err(errors.iter().map(|error| (place(error), error.message().replace('\n', ", "))).collect())
}

impl Text<'_> {
    fn place(&self, span: Range<usize>) -> Place {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let last_line = before.rsplit('\n').next().unwrap_or_default();
        Place::File {
            path: Arc::clone(&self.path),
            line: before.matches('\n').count() + 1,
            column: last_line.chars().count() + 1,
        }
    }

    fn table(&self, table: &DeTable<'_>) -> Table {
        let entry = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
            let name: &std::borrow::Cow<'_, str> = key.get_ref();
            (name.clone().into_owned(), (self.place(key.span()), self.node(value)))
        };
        table.iter().map(entry).collect()
    }

    fn node(&self, value: &Spanned<DeValue<'_>>) -> Node {
        let read = match value.get_ref() {
            DeValue::Boolean(value) => Value::Bool(*value),
            DeValue::Integer(digits) => {
                let number = i64::from_str_radix(digits.as_str(), digits.radix());
                number.map_or(Value::Other("a number beyond 64 bits"), Value::Integer)
            }
            DeValue::Float(digits) => digits.as_str().parse().map_or(Value::Other("a number"), Value::Float),
            DeValue::String(text) => Value::Text(text.clone().into_owned()),
            DeValue::Array(items) => Value::List(items.iter().map(|item| self.node(item)).collect()),
            DeValue::Table(table) => Value::Table(self.table(table)),
            DeValue::Datetime(_) => Value::Other("a date or time"),
        };
        Node { place: self.place(value.span()), value: read }
    }
}

/// Lays a later table over an earlier one.
pub(crate) fn merge(earlier: &mut Table, later: Table) {
    for (key, (place, node)) in later {
        match (earlier.get_mut(&key), node) {
            (Some((_, Node { value: Value::Table(below), .. })), Node { value: Value::Table(above), .. }) => {
                merge(below, above);
            }
            (_, node) => {
                earlier.insert(key, (place, node));
            }
        }
    }
}

/// Sets the value of a key by its path, such as `network.builtin`, as a later table with nothing else in it would.
pub(crate) fn set(table: &mut Table, key: &str, value: Value) {
    let place = Place::CommandLine;
    let leaf = Node { place: place.clone(), value };
    let layer = key.rsplit('.').fold(leaf, |node, part| {
        let table = BTreeMap::from([(part.to_owned(), (place.clone(), node))]);
        Node { place: place.clone(), value: Value::Table(table) }
    });
    if let Value::Table(layer) = layer.value {
        merge(table, layer);
    }
}

/// Where the value of a key stands, or the nearest table around it; none where nothing of it was written.
pub(crate) fn place_of(table: &Table, path: &[String]) -> Option<Place> {
    let (first, rest) = path.split_first()?;
    let (_, node) = table.get(first)?;
    let deeper = match &node.value {
        Value::Table(below) => place_of(below, rest),
        _ => None,
    };
    Some(deeper.unwrap_or_else(|| node.place.clone()))
}

/// The parts of a key's path; those with dots in them are in quotes.
pub(crate) fn parts(key: &str) -> Vec<String> {
    let mut is_quoted = false;
    let part = |part: &str| part.replace('"', "");
    key.split(|c| {
        is_quoted ^= c == '"';
        c == '.' && !is_quoted
    })
    .map(part)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Table {
        parse(Path::new(name), text).unwrap()
    }

    fn at(name: &str, line: usize, column: usize) -> Option<Place> {
        Some(Place::File { path: Path::new(name).into(), line, column })
    }

    #[test]
    fn later_values_win_key_by_key_and_arrays_as_a_whole() {
        let mut table = read("a", "x = [1, 2]\n[t]\nkept = 1\nchanged = 1\n[t.u]\ndeep = 1");
        merge(&mut table, read("b", "x = [3]\n[t]\nchanged = 2\nu = { more = 1 }"));
        let place = |key: &str| place_of(&table, &parts(key));
        assert_eq!(place("x"), at("b", 1, 5));
        assert_eq!(place("t.kept"), at("a", 3, 8));
        assert_eq!(place("t.changed"), at("b", 3, 11));
        assert_eq!(place("t.u.deep"), at("a", 6, 8));
        assert_eq!(place("t.u.more"), at("b", 4, 14));
        assert_eq!(place("y"), None);
        let (_, node) = &table["x"];
        assert!(matches!(&node.value, Value::List(items) if items.len() == 1));
        set(&mut table, "t.kept", Value::Integer(7));
        assert_eq!(place_of(&table, &parts("t.kept")), Some(Place::CommandLine));
        assert_eq!(place_of(&table, &parts("t.changed")), at("b", 3, 11));
    }

    #[test]
    fn every_place_that_is_no_toml_is_told() {
        let wrong = parse(Path::new("a"), "ok = 1\nx = = 2\n[t\ny = \"é\" z").unwrap_err();
        let lines: Vec<String> = wrong.iter().map(|(place, _)| place.to_string()).collect();
        assert!(wrong.len() >= 3, "{wrong:?}");
        for line in ["a:2:", "a:3:", "a:4:"] {
            assert!(lines.iter().any(|place| place.starts_with(line)), "{lines:?}");
        }
    }

    #[test]
    fn a_part_of_a_path_may_have_dots() {
        assert_eq!(parts("a.\"b.c\".d"), ["a", "b.c", "d"]);
        assert_eq!(parts("a"), ["a"]);
    }
}
