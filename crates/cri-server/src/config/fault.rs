//! What is wrong with values: each with its key, all of them at once.
//!
//! Not here: in which file and line a value stands (see `load`), and what is no value of the right type (see `read`).

use std::fmt;
use std::path::Path;

use thiserror::Error;

/// A value that can't be honoured.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{key}: {why}")]
pub(crate) struct Fault {
    /// The key's path.
    pub(crate) key: String,
    /// What it must be and is not.
    pub(crate) why: String,
}

/// All that is wrong with a configuration, or a part of one. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Faults(Vec<Fault>);

impl Fault {
    /// What the key's value must be, and what it is.
    pub(crate) fn value(key: &str, must: &str, is: impl fmt::Display) -> Self {
        Self { key: key.to_owned(), why: format!("{must}, not \"{is}\"") }
    }
}

impl Faults {
    /// What is wrong of all these.
    ///
    /// # Errors
    /// Unless nothing is.
    pub(crate) fn all(checks: impl IntoIterator<Item = Result<(), Self>>) -> Result<(), Self> {
        let wrong: Vec<Fault> =
            checks.into_iter().filter_map(Result::err).flat_map(|faults| faults.0).collect();
        if wrong.is_empty() { Ok(()) } else { Err(Self(wrong)) }
    }

    /// Each of them.
    pub(crate) fn into_each(self) -> Vec<Fault> {
        self.0
    }
}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self(vec![fault])
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for fault in &self.0 {
            write!(f, "{separator}configuration key {fault}")?;
            separator = "\n";
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Checks one value.
pub(super) fn must(holds: bool, fault: impl FnOnce() -> Fault) -> Result<(), Faults> {
    if holds { Ok(()) } else { Err(fault().into()) }
}

/// Checks a limit that is 0 for none: its key, its value, the least that makes sense, and what it must be.
pub(super) fn none_or_at_least(
    (key, value, least, why): (&'static str, u64, u64, &'static str),
) -> Result<(), Faults> {
    must(!(1..least).contains(&value), || Fault::value(key, why, value))
}

/// Checks a path that must not depend on where the daemon was started.
pub(super) fn absolute(key: &str, path: &Path) -> Result<(), Faults> {
    must(path.is_absolute(), || Fault::value(key, "must be an absolute path", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_wrong_is_told() {
        let wrong = |key: &str| absolute(key, Path::new("x"));
        let faults = Faults::all([wrong("a"), Ok(()), wrong("b")]).unwrap_err();
        assert_eq!(
            faults.to_string(),
            "configuration key a: must be an absolute path, not \"x\"\n\
             configuration key b: must be an absolute path, not \"x\""
        );
        Faults::all([Ok(()), Ok(())]).unwrap();
    }
}
