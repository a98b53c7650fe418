//! JSON as a reader sees it who keeps every key, also one that stands there twice.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Json {
    Object(Vec<(String, Json)>),
    Array(Vec<Json>),
    Text(String),
    Other,
}

/// What this reader refuses though the grammar has it.
const ODD: [&str; 2] = ["number out of range", "hex escape"];

impl Json {
    /// None where a number is too large for this reader, or a half of a surrogate pair stands alone: both are JSON, and who passes
    /// over them need not mind.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Json> {
        match serde_json::from_slice(bytes) {
            Ok(json) => Some(json),
            Err(error) if ODD.iter().any(|odd| error.to_string().contains(odd)) => None,
            Err(error) => panic!("what is accepted is no JSON: {error}"),
        }
    }

    /// The values of a key, as Go's readers know keys: upper and lower case are the same to them.
    pub(crate) fn all(&self, key: &str) -> Vec<&Json> {
        let Json::Object(pairs) = self else { return Vec::new() };
        pairs.iter().filter(|(name, _)| folded(name) == folded(key)).map(|(_, value)| value).collect()
    }
}

/// Go folds two letters beyond ASCII onto ASCII's.
fn folded(name: &str) -> String {
    name.to_ascii_lowercase().replace('\u{17f}', "s").replace('\u{212a}', "k")
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Json::Object(pairs))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element()? {
            values.push(value);
        }
        Ok(Json::Array(values))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Json, E> {
        Ok(Json::Other)
    }
}
