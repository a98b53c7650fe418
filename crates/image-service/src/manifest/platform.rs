//! Platforms of images, in Go's words (OCI image-spec, "Image Index", `platform`).

use std::fmt;

use serde::Deserialize;

/// An operating system and a processor.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
}

impl Platform {
    /// Linux on a processor.
    pub(crate) fn linux(architecture: &str) -> Platform {
        Platform { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: None }
    }

    /// This machine.
    pub(crate) fn host() -> Platform {
        Platform::linux(match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        })
    }

    /// How well an image for `offered` runs here, 0 being best; nothing if it doesn't. The lowest level of a processor is
    /// what an image without a variant is for; of the higher ones we take what this processor has.
    pub(crate) fn rank(&self, offered: &Platform) -> Option<u8> {
        let same = |ours: &str, theirs: &str| ours.eq_ignore_ascii_case(theirs);
        if !same(&self.os, &offered.os) || !same(&self.architecture, normal(&offered.architecture)) {
            return None;
        }
        let variant = offered.variant.as_deref().unwrap_or_default();
        match (self.architecture.as_str(), variant) {
            (_, "") | ("amd64", "v1") | ("arm64", "v8" | "8") => Some(0),
            ("amd64", level @ ("v2" | "v3")) if has_level(level) => Some(1),
            _ => None,
        }
    }

    /// Whether an image whose configuration states these runs here. An empty text states nothing.
    pub(crate) fn runs(&self, os: &str, architecture: &str) -> bool {
        let fits = |ours: &str, theirs: &str| theirs.is_empty() || ours.eq_ignore_ascii_case(theirs);
        fits(&self.os, os) && fits(&self.architecture, normal(architecture))
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

/// Names that some builders use instead of Go's.
fn normal(architecture: &str) -> &str {
    match architecture {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Whether this processor has a level of x86-64 (System V ABI, AMD64 supplement, section 3.1.1).
#[cfg(target_arch = "x86_64")]
fn has_level(level: &str) -> bool {
    let v2 = is_x86_feature_detected!("sse4.2") && is_x86_feature_detected!("popcnt");
    let v3 = || {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("fma")
    };
    v2 && (level == "v2" || v3())
}

#[cfg(not(target_arch = "x86_64"))]
fn has_level(_level: &str) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_that_need_more_than_the_processor_has_do_not_fit() {
        let offered = |architecture: &str, variant: &str| Platform {
            variant: Some(variant.to_owned()),
            ..Platform::linux(architecture)
        };
        let amd64 = Platform::linux("amd64");
        assert_eq!(amd64.rank(&offered("x86_64", "")), Some(0));
        assert_eq!(amd64.rank(&offered("amd64", "v1")), Some(0));
        assert_eq!(amd64.rank(&offered("amd64", "v9")), None);
        let arm64 = Platform::linux("arm64");
        assert_eq!(arm64.rank(&offered("arm64", "v8")), Some(0));
        assert_eq!(arm64.rank(&offered("arm64", "v9")), None);
        assert_eq!(arm64.rank(&offered("arm", "v8")), None);
        let windows = Platform { os: "windows".to_owned(), ..Platform::linux("amd64") };
        assert_eq!(amd64.rank(&windows), None);
    }

    #[test]
    fn a_configuration_may_leave_its_platform_out() {
        let amd64 = Platform::linux("amd64");
        assert!(amd64.runs("", "") && amd64.runs("linux", "amd64") && amd64.runs("Linux", "x86_64"));
        assert!(!amd64.runs("linux", "arm64") && !amd64.runs("windows", "amd64"));
    }
}
