//! Identities of pods and containers: 64 lower-case hexadecimal digits, drawn at random.
//!
//! Not here: names (see `name`) and the lookup by prefix (see `registry`).

use std::fmt;
use std::sync::Arc;

use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

/// Digits of an id: 32 random bytes, as users of other runtimes know them.
pub const ID_LENGTH: usize = 64;

/// A text that is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not an id of {ID_LENGTH} lower-case hexadecimal digits")]
pub struct InvalidId(String);

fn random_digits() -> String {
    let mut bytes = [0_u8; ID_LENGTH / 2];
    let mut filled = 0;
    // A short read only happens when a signal arrives before the pool is ready; the loop then asks for the rest.
    while filled < bytes.len() {
        filled += getrandom(&mut bytes[filled..], GetRandomFlags::empty()).unwrap_or(0);
    }
    bytes.iter().fold(String::with_capacity(ID_LENGTH), |mut digits, byte| {
        for nibble in [byte >> 4, byte & 15] {
            digits.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
        }
        digits
    })
}

fn is_id(text: &str) -> bool {
    text.len() == ID_LENGTH && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// A fresh id.
            pub fn random() -> Self {
                Self(random_digits().into())
            }

            /// The digits.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                if is_id(&text) { Ok(Self(text.into())) } else { Err(InvalidId(text)) }
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id_type!(
    /// The id of a pod sandbox.
    PodId
);
id_type!(
    /// The id of a container.
    ContainerId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_ids_are_ids_and_differ() {
        let (one, two) = (PodId::random(), PodId::random());
        assert_ne!(one, two);
        assert_eq!(PodId::try_from(one.to_string()), Ok(one));
    }

    #[test]
    fn what_is_not_64_lower_hex_digits_is_refused() {
        for text in ["", "abc", &"A".repeat(64), &"0".repeat(65), "../../../etc"] {
            assert!(ContainerId::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
