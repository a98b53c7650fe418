//! Platforms of images, in Go's words (OCI image-spec, "Image Index", `platform`), and which of them run here.
//!
//! | this machine | runs, the best first |
//! |---|---|
//! | amd64 | amd64 of the highest level that the processor has (`v4` to `v1`; none is `v1`), then 386 |
//! | arm64 | arm64 (`v8`, which none is too), then arm `v8`, `v7` (which none is too), `v6`, `v5` |
//!
//! What needs features of an operating system (`os.features`) doesn't run: none have a meaning for Linux. A version of one
//! (`os.version`) has none either, but what does without is preferred.

use std::fmt;

use serde::Deserialize;

use super::json::Keys;

/// How much worse the fallback of the last column's "then" is than anything before it.
const FALLBACK: u8 = 16;

/// An operating system and a processor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
    #[serde(rename = "os.version")]
    os_version: Option<String>,
    #[serde(rename = "os.features")]
    os_features: Option<Vec<String>>,
    /// Of this machine: the level of its processor, where there are several.
    #[serde(skip)]
    level: u8,
}

impl Keys for Platform {
    const KEYS: &'static [&'static str] =
        &["os", "architecture", "variant", "os.version", "os.features", "features"];
}

impl Platform {
    /// Linux on a processor, of the lowest level.
    pub(crate) fn linux(architecture: &str) -> Platform {
        let (os, architecture) = ("linux".to_owned(), architecture.to_owned());
        Platform { os, architecture, level: 1, ..Platform::default() }
    }

    /// This machine.
    pub(crate) fn host() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Platform { level: processor_level(), ..Platform::linux(architecture) }
    }

    /// How well an image for `offered` runs here, 0 being best; nothing if it doesn't.
    pub(crate) fn rank(&self, offered: &Platform) -> Option<u8> {
        if !self.os.eq_ignore_ascii_case(&offered.os) {
            return None;
        }
        if offered.os_features.as_ref().is_some_and(|features| !features.is_empty()) {
            return None;
        }
        let has_version = offered.os_version.as_ref().is_some_and(|version| !version.is_empty());
        let variant = offered.variant.as_deref().unwrap_or_default();
        let rank = self.processor_rank(&normal(&offered.architecture), variant)?;
        Some(rank * 2 + u8::from(has_version))
    }

    fn processor_rank(&self, architecture: &str, variant: &str) -> Option<u8> {
        match (self.architecture.as_str(), architecture) {
            ("amd64", "amd64") => {
                let level = match variant {
                    "" | "v1" | "1" => 1,
                    "v2" | "2" => 2,
                    "v3" | "3" => 3,
                    "v4" | "4" => 4,
                    _ => return None,
                };
                self.level.checked_sub(level)
            }
            ("amd64", "386") => Some(FALLBACK),
            ("arm64", "arm64") => matches!(variant, "" | "v8" | "8" | "v8.0").then_some(0),
            ("arm64", "arm") => match variant {
                "v8" | "8" => Some(FALLBACK),
                "" | "v7" | "7" => Some(FALLBACK + 1),
                "v6" | "6" => Some(FALLBACK + 2),
                "v5" | "5" => Some(FALLBACK + 3),
                _ => None,
            },
            (ours, theirs) => (ours.eq_ignore_ascii_case(theirs) && variant.is_empty()).then_some(0),
        }
    }

    /// Whether an image whose configuration states these runs here. An empty text states nothing.
    pub(crate) fn runs(&self, os: &str, architecture: &str) -> bool {
        self.is_of_system(os)
            && (architecture.is_empty() || self.processor_rank(&normal(architecture), "").is_some())
    }

    /// Whether an image for this operating system does, if the processor is let out of account.
    pub(crate) fn is_of_system(&self, os: &str) -> bool {
        os.is_empty() || self.os.eq_ignore_ascii_case(os)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_deref() {
            Some(variant) if !variant.is_empty() => write!(f, "/{variant}"),
            _ => Ok(()),
        }
    }
}

/// An architecture's name in Go's words; some builders use others.
fn normal(architecture: &str) -> String {
    let lower = architecture.to_ascii_lowercase();
    match lower.as_str() {
        "x86_64" | "x86-64" => "amd64".to_owned(),
        "aarch64" => "arm64".to_owned(),
        "i386" | "i486" | "i586" | "i686" => "386".to_owned(),
        "armhf" | "armel" => "arm".to_owned(),
        _ => lower,
    }
}

/// The level of this processor, 1 to 4 (System V ABI, AMD64 supplement, section 3.1.1).
#[cfg(target_arch = "x86_64")]
fn processor_level() -> u8 {
    let v2 = is_x86_feature_detected!("cmpxchg16b")
        && is_x86_feature_detected!("popcnt")
        && is_x86_feature_detected!("sse3")
        && is_x86_feature_detected!("sse4.1")
        && is_x86_feature_detected!("sse4.2")
        && is_x86_feature_detected!("ssse3");
    let v3 = || {
        is_x86_feature_detected!("avx")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("movbe")
    };
    let v4 = || {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512cd")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
    };
    match (v2, v2 && v3()) {
        (false, _) => 1,
        (true, false) => 2,
        (true, true) => 3 + u8::from(v4()),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn processor_level() -> u8 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(architecture: &str, variant: &str) -> Platform {
        Platform { variant: Some(variant.to_owned()), ..Platform::linux(architecture) }
    }

    /// Those that run here, the best first.
    fn order(machine: &Platform, offers: &[(&str, &str)]) -> Vec<String> {
        let ranked = offers.iter().map(|(architecture, variant)| offered(architecture, variant));
        let mut ranked: Vec<_> = ranked.filter_map(|offer| Some((machine.rank(&offer)?, offer))).collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.iter().map(|(_, offer)| offer.to_string()).collect()
    }

    #[test]
    fn the_highest_level_that_the_processor_has_is_the_best() {
        let offers = [
            ("386", ""),
            ("amd64", "v2"),
            ("amd64", "v4"),
            ("amd64", ""),
            ("amd64", "v3"),
            ("amd64", "v5"),
            ("arm", "v7"),
        ];
        let with = |level: u8| Platform { level, ..Platform::linux("amd64") };
        assert_eq!(order(&with(1), &offers), ["linux/amd64", "linux/386"]);
        assert_eq!(order(&with(2), &offers), ["linux/amd64/v2", "linux/amd64", "linux/386"]);
        let all = ["linux/amd64/v4", "linux/amd64/v3", "linux/amd64/v2", "linux/amd64", "linux/386"];
        assert_eq!(order(&with(3), &offers), all[1..]);
        assert_eq!(order(&with(4), &offers), all);
    }

    #[test]
    fn arm64_runs_what_32_bits_there_are() {
        let offers = [
            ("arm", "v5"),
            ("arm", "v7"),
            ("arm64", "v9"),
            ("arm", "v6"),
            ("arm64", "v8"),
            ("arm", "v8"),
            ("arm", "v9"),
        ];
        let expected = ["linux/arm64/v8", "linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"];
        assert_eq!(order(&Platform::linux("arm64"), &offers), expected);
        assert_eq!(Platform::linux("arm64").rank(&offered("arm64", "")), Some(0));
        assert_eq!(Platform::linux("amd64").rank(&offered("x86_64", "v1")), Some(0));
    }

    #[test]
    fn systems_are_linux_without_conditions() {
        let amd64 = Platform::linux("amd64");
        let plain = offered("amd64", "");
        assert_eq!(amd64.rank(&Platform { os: "windows".to_owned(), ..plain.clone() }), None);
        let features = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(amd64.rank(&Platform { os_features: features(&["erofs"]), ..plain.clone() }), None);
        assert_eq!(amd64.rank(&Platform { os_features: features(&[]), ..plain.clone() }), Some(0));
        let versioned = Platform { os_version: Some("6.1".to_owned()), ..plain.clone() };
        assert!(amd64.rank(&versioned) > amd64.rank(&plain));
    }

    #[test]
    fn a_configuration_may_leave_its_platform_out() {
        let amd64 = Platform::linux("amd64");
        assert!(amd64.runs("", "") && amd64.runs("linux", "amd64") && amd64.runs("Linux", "x86_64"));
        assert!(amd64.runs("linux", "386") && Platform::linux("arm64").runs("linux", "arm"));
        assert!(!amd64.runs("linux", "arm64") && !amd64.runs("windows", "amd64"));
        assert!(amd64.is_of_system("Linux") && amd64.is_of_system("") && !amd64.is_of_system("windows"));
    }
}
