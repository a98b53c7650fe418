//! Where protobuf ends: requests become the domain's values here, and the domain's values answers.
//!
//! Requests are parsed once, at the door; a field that can't be read is refused with its path. Whether the runtime can do what
//! a readable field asks for is the domain's to say.

pub(crate) mod addresses;
pub(crate) mod bandwidth;
pub(crate) mod container;
pub(crate) mod event;
pub(crate) mod filter;
pub(crate) mod image;
pub(crate) mod pod;
pub(crate) mod quantity;
pub(crate) mod resources;
pub(crate) mod security;
pub(crate) mod series;
pub(crate) mod signal;
pub(crate) mod stats;
pub(crate) mod status;

use std::collections::{BTreeMap, HashMap};

use sandbox::Error;

/// A map of the wire in the order of its keys.
fn sorted(map: HashMap<String, String>) -> BTreeMap<String, String> {
    map.into_iter().collect()
}

/// The same map for an answer.
fn unsorted(map: &BTreeMap<String, String>) -> HashMap<String, String> {
    map.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// What a request must have.
fn required<T>(value: Option<T>, field: &str) -> Result<T, Error> {
    value.ok_or_else(|| Error::refused(field, "is missing"))
}

/// An enumeration's value by its number.
fn known<T: TryFrom<i32>>(number: i32, field: &str) -> Result<T, Error> {
    T::try_from(number).map_err(|_| Error::refused(field, format!("{number} is not a value of the contract")))
}
