//! Qualified names of devices: `vendor.com/class=name` (SPEC.md, "Kind" and "Device name").

use std::fmt;

/// A qualified name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    /// Vendor and class, `vendor.com/class`.
    pub(super) kind: String,
    /// The device among those of its kind.
    pub(super) device: String,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.kind, self.device)
    }
}

impl Name {
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let parts = text.split_once('=').filter(|(kind, device)| is_kind(kind) && is_device(device));
        let (kind, device) = parts
            .ok_or_else(|| format!("\"{}\" is not of the form vendor/class=name", text.escape_debug()))?;
        Ok(Self { kind: kind.to_owned(), device: device.to_owned() })
    }
}

/// Whether a text is a vendor and a class: a letter, then letters, digits, `_`, `-` and `.`, a letter or digit at the end, each.
pub(super) fn is_kind(text: &str) -> bool {
    let part = |text: &str| text.starts_with(|c: char| c.is_ascii_alphabetic()) && is_made_of(text, "_-.");
    text.split_once('/').is_some_and(|(vendor, class)| part(vendor) && part(class))
}

/// Whether a text can be the name of a device.
pub(super) fn is_device(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && is_made_of(text, "_-.:")
}

fn is_made_of(text: &str, further: &str) -> bool {
    text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || further.contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_a_vendor_a_class_and_a_device() {
        for text in ["vendor.com/class=name", "v/c=0", "nvidia.com/gpu=GPU-1:0", "a-b.c_d/e.f=all"] {
            assert_eq!(Name::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "", "name", "v/c", "v/c=", "=n", "/c=n", "v/=n", "1v/c=n", "v/c=n=m", "v/c=-n", "v/c=n-",
            "v/c/d=n",
        ] {
            assert!(Name::parse(text).is_err(), "{text:?}");
        }
        assert!(Name::parse("v/c=n m").is_err() && Name::parse("v/c=../n").is_err());
    }
}
