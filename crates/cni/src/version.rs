//! The versions of the CNI specification that are understood, and what each of them can do.

use std::fmt;

/// A published version of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 0.1.0: a result has `ip4` and `ip6`.
    V0_1_0,
    /// 0.2.0: adds VERSION.
    V0_2_0,
    /// 0.3.0: network configuration lists; a result has `interfaces` and `ips`.
    V0_3_0,
    /// 0.3.1: a configuration's wording only.
    V0_3_1,
    /// 0.4.0: CHECK, and `prevResult` for CHECK and DEL.
    V0_4_0,
    /// 1.0.0: `ips` lose `version`, single configurations are gone.
    V1_0_0,
    /// 1.1.0: GC and STATUS, details of interfaces and routes.
    V1_1_0,
}

pub(crate) const ALL: [Version; 7] = [
    Version::V0_1_0,
    Version::V0_2_0,
    Version::V0_3_0,
    Version::V0_3_1,
    Version::V0_4_0,
    Version::V1_0_0,
    Version::V1_1_0,
];

impl Version {
    /// The version of that name; `None` for one that isn't published or understood.
    #[must_use]
    pub fn parse(text: &str) -> Option<Version> {
        ALL.into_iter().find(|version| version.as_str() == text)
    }

    /// The name as it stands in `cniVersion`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Version::V0_1_0 => "0.1.0",
            Version::V0_2_0 => "0.2.0",
            Version::V0_3_0 => "0.3.0",
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }

    /// Whether CHECK exists and DEL gets `prevResult`.
    pub(crate) fn has_check(self) -> bool {
        self >= Version::V0_4_0
    }

    /// Whether GC and STATUS exist.
    pub(crate) fn has_gc_and_status(self) -> bool {
        self >= Version::V1_1_0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_versions_are_one_to_one() {
        for version in ALL {
            assert_eq!(Version::parse(version.as_str()), Some(version));
        }
        assert_eq!(Version::parse("1.2.0"), None);
        assert_eq!(Version::parse(""), None);
    }
}
