//! Reading JSON so that nobody else reads something else in it, and not more of it than is useful.
//!
//! Many readers of these documents (scanners, registries, other runtimes) are written in Go, whose library takes a key for
//! the one that it knows if they differ in nothing but letter case; the last of several counts. `{"layers":[A],"Layers":[B]}`
//! is A to one and B to the other: what was scanned isn't what runs (the class of CVE-2021-41190). Here a key that we
//! read must be written exactly so, and once.
//! Not here: what the documents mean.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, StringDeserializer};
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

/// What is read from an object with these keys.
pub(crate) trait Keys {
    /// Keys that this type reads, or that others may read in its place.
    const KEYS: &'static [&'static str];
}

/// A `T` that was written as an object (a list with its values in order would do for the library), with its keys as they
/// should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de> + Keys> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de> + Keys> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let exact = Exact { map, keys: T::KEYS };
        T::deserialize(MapAccessDeserializer::new(exact)).map(Object)
    }
}

/// An object's entries, with their keys looked at.
struct Exact<A> {
    map: A,
    keys: &'static [&'static str],
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Exact<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let Some(key) = self.map.next_key::<String>()? else { return Ok(None) };
        if let Some(meant) = self.keys.iter().find(|known| key != **known && is_alike(&key, known)) {
            return Err(A::Error::custom(format_args!(
                "its key \"{meant}\" is written in other letter case"
            )));
        }
        seed.deserialize(StringDeserializer::new(key)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

/// Whether Go's library takes `key` for `known`: letter case aside, with two letters beyond ASCII whose other case is in it
/// (encoding/json, `foldName`).
fn is_alike(key: &str, known: &str) -> bool {
    let fold = |c: char| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    };
    key.chars().map(fold).eq(known.chars().map(fold))
}

/// The first of a list's items, at most `MOST`, and how many there are: what comes after them is read over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bounded<T, const MOST: usize> {
    pub(super) items: Vec<T>,
    pub(super) count: usize,
}

impl<T, const MOST: usize> Bounded<T, MOST> {
    /// All items.
    ///
    /// # Errors
    /// The reason why there are too many; `name` is what they are.
    pub(super) fn all(self, name: &str) -> Result<Vec<T>, String> {
        match self.count > MOST {
            true => Err(format!("it has {} {name} where {MOST} are the most", self.count)),
            false => Ok(self.items),
        }
    }
}

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for Bounded<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_seq(BoundedVisitor(PhantomData))
    }
}

struct BoundedVisitor<T, const MOST: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for BoundedVisitor<T, MOST> {
    type Value = Bounded<T, MOST>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while items.len() < MOST {
            let Some(item) = list.next_element()? else {
                let count = items.len();
                return Ok(Bounded { items, count });
            };
            items.push(item);
        }
        let mut count = MOST;
        while list.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(Bounded { items, count })
    }
}

/// The first of an object's entries, at most `MOST`, and how many there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BoundedMap<T, const MOST: usize> {
    entries: BTreeMap<String, T>,
    count: usize,
}

impl<T, const MOST: usize> BoundedMap<T, MOST> {
    /// All entries.
    ///
    /// # Errors
    /// The reason why there are too many; `name` is what they are.
    pub(super) fn all(self, name: &str) -> Result<BTreeMap<String, T>, String> {
        Bounded::<_, MOST> { items: Vec::<()>::new(), count: self.count }.all(name).map(|_| self.entries)
    }
}

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for BoundedMap<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(BoundedMapVisitor(PhantomData))
    }
}

struct BoundedMapVisitor<T, const MOST: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for BoundedMapVisitor<T, MOST> {
    type Value = BoundedMap<T, MOST>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = BTreeMap::new();
        let mut count = 0;
        while count < MOST {
            let Some((key, value)) = map.next_entry()? else { return Ok(BoundedMap { entries, count }) };
            entries.insert(key, value);
            count += 1;
        }
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(BoundedMap { entries, count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Thing {
        size: Option<u64>,
        #[serde(rename = "kind")]
        _kind: Option<String>,
    }

    impl Keys for Thing {
        const KEYS: &'static [&'static str] = &["size", "kind"];
    }

    fn read(text: &str) -> Result<Object<Thing>, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn keys_are_exact_or_unknown() {
        assert_eq!(read(r#"{"other":1,"size":2,"SIZES":3,"other":4,"é":5}"#).unwrap().0.size, Some(2));
        for text in [
            r#"{"Size":1}"#,
            r#"{"size":1,"SIZE":2}"#,
            "{\"\u{17f}ize\":1}",
            "{\"\u{212a}ind\":1}",
            r#"{"\u0053ize":1}"#,
        ] {
            assert!(read(text).unwrap_err().contains("other letter case"), "{text}");
        }
        assert!(read(r#"{"size":1,"size":1}"#).unwrap_err().contains("duplicate field `size`"));
        assert!(read(r#"{"size":1,"s\u0069ze":1}"#).unwrap_err().contains("duplicate field `size`"));
        for text in ["[1,null]", "1", "\"size\"", "null", ""] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_too_much_is_counted_and_not_kept() {
        let read = |text: &str| serde_json::from_str::<Bounded<u8, 3>>(text).unwrap();
        assert!(read("[]").all("numbers").unwrap().is_empty());
        assert_eq!(read("[1,2,3]").all("numbers").unwrap(), [1, 2, 3]);
        let many = read("[1,2,3,4,{}]");
        assert_eq!(many.items.len(), 3);
        assert_eq!(many.all("numbers").unwrap_err(), "it has 5 numbers where 3 are the most");
        assert!(serde_json::from_str::<Bounded<u8, 3>>("[1,2,3,4").is_err());
    }
}
