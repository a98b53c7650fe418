//! `[images]`: how images are kept.

use std::ops::RangeInclusive;
use std::time::Duration;

use image_service::layers::{LayerForm, LayerSettings, LoopDevices, Verity};
use image_service::{CareSettings, CollectSettings, Limits, Reference};
use serde::{Deserialize, Serialize};

use super::fault::must;
use super::{Fault, Faults};
use crate::adapters;

/// The keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ImagesConfig {
    /// References of images that kubelet must not collect.
    pub(crate) pinned: Vec<String>,
    /// How many pulls are carried out at once; the next wait for their turn, in order. Those of the same image count once.
    pub(crate) max_pulls: u32,
    /// In which form layers are kept that are pulled from now on; those that are there stay as they are.
    pub(crate) layers: Form,
    /// Whether the kernel is to check images of layers whenever they are read, on filesystems that can (fs-verity).
    pub(crate) verity: bool,
    /// Whether threads that unpack, check or delete what strangers wrote give up all that they don't need for it.
    pub(crate) confined: bool,
    /// Days in which every layer is looked at once, in search of damage. 0 for never: then only on demand, and when a mount fails.
    pub(crate) check_days: u32,
    /// Bytes a second that are read for that, at most.
    pub(crate) check_rate: u64,
    /// Whether layers that are damaged or missing are fetched again without being asked, as the node.
    pub(crate) repair: bool,
    /// Percent of the file system of images above which those that nothing uses are removed, down to five less. 0 for never: kubelet
    /// collects by itself.
    pub(crate) collect_above: u8,
    /// Seconds since its last use for which an image is left alone by that.
    pub(crate) collect_min_age: u64,
}

/// Forms of layers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Form {
    /// EROFS images where this machine can mount them, else directories.
    #[default]
    Auto,
    /// EROFS images; the daemon doesn't start where it can't mount them.
    Erofs,
    /// Directories.
    Directory,
}

/// More would hold more documents in memory than a node has use for.
const PULLS: RangeInclusive<u32> = 1..=1_024;
/// Slower, a layer of some gigabytes would take days.
const LEAST_RATE: u64 = 64 << 10;
/// Below this, a system that takes some of the disk itself would leave no image.
const LEAST_FULL: u8 = 10;
const DAY: Duration = Duration::from_secs(24 * 3600);

impl Default for ImagesConfig {
    fn default() -> Self {
        let CareSettings { period, bytes_per_second, repair } = CareSettings::default();
        let days = period.map_or(0, |period| period.as_secs() / DAY.as_secs());
        let check_days = u32::try_from(days).unwrap_or(u32::MAX);
        let collect = CollectSettings::default();
        Self {
            pinned: Vec::new(),
            max_pulls: u32::try_from(Limits::default().pulls).unwrap_or(u32::MAX),
            layers: Form::Auto,
            verity: true,
            confined: true,
            check_days,
            check_rate: bytes_per_second,
            repair,
            collect_above: collect.above.unwrap_or_default(),
            collect_min_age: collect.min_age.as_secs(),
        }
    }
}

impl ImagesConfig {
    /// What the image service is told of the form of layers.
    pub(crate) fn layers(&self) -> LayerSettings {
        let form = match self.layers {
            Form::Auto => LayerForm::Auto,
            Form::Erofs => LayerForm::Erofs,
            Form::Directory => LayerForm::Directory,
        };
        let loop_devices = Some(LoopDevices::new(sandbox::attach_loop_device));
        let verity = self.verity.then(|| Verity::new(sandbox::enable_verity));
        let confinement = self.confined.then(adapters::confinement);
        LayerSettings { form, loop_devices, verity, confinement, ..LayerSettings::default() }
    }

    /// What it is told of how much pulls may do.
    pub(crate) fn limits(&self) -> Limits {
        let pulls = usize::try_from(self.max_pulls).unwrap_or(usize::MAX);
        Limits { pulls, ..Limits::default() }
    }

    /// What it is told of looking for damage.
    pub(crate) fn care(&self) -> CareSettings {
        let period = (self.check_days > 0).then(|| DAY * self.check_days);
        CareSettings { period, bytes_per_second: self.check_rate, repair: self.repair }
    }

    /// When it is to remove images that nothing uses.
    pub(crate) fn collect(&self) -> CollectSettings {
        let above = (self.collect_above > 0).then_some(self.collect_above);
        CollectSettings { above, min_age: Duration::from_secs(self.collect_min_age) }
    }

    /// Checks every value that can be judged without touching the machine.
    pub(super) fn check(&self) -> Result<(), Faults> {
        let (rate, above) = (self.check_rate, self.collect_above);
        let is_bad = |name: &&String| name.parse::<Reference>().is_err();
        Faults::all([
            must(PULLS.contains(&self.max_pulls), || {
                Fault::value("images.max_pulls", "must be 1 to 1024", self.max_pulls)
            }),
            must(rate >= LEAST_RATE, || {
                Fault::value("images.check_rate", "must be at least 65536 bytes a second", rate)
            }),
            must(above == 0 || (LEAST_FULL..=99).contains(&above), || {
                let why = "must be a percentage from 10 to 99, or 0 for never";
                Fault::value("images.collect_above", why, above)
            }),
            self.pinned.iter().find(is_bad).map_or(Ok(()), |bad| {
                Err(Fault::value("images.pinned", "must be references of images", bad).into())
            }),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    #[test]
    fn a_check_can_be_switched_off_and_cannot_take_for_ever() {
        let of = |text: &str| toml::from_str::<Config>(&format!("[images]\n{text}")).unwrap().images;
        assert_eq!(of("").care().period, CareSettings::default().period);
        assert_eq!(of("check_days = 0").care().period, None);
        assert_eq!(of("check_days = 7").care().period, Some(DAY * 7));
        assert_eq!(of("layers = \"directory\"").layers().form, LayerForm::Directory);
        assert!(!of("repair = false").care().repair);
        assert!(of("check_rate = 1000").check().unwrap_err().to_string().contains("images.check_rate"));
        assert!(of("check_rate = 65536").check().is_ok());
    }

    #[test]
    fn what_is_collected_and_what_is_not() {
        let of = |text: &str| toml::from_str::<Config>(&format!("[images]\n{text}")).unwrap().images;
        assert_eq!(of("").collect().above, None);
        let set = of("collect_above = 85\ncollect_min_age = 7");
        assert_eq!((set.collect().above, set.collect().min_age), (Some(85), Duration::from_secs(7)));
        for (text, key) in [
            ("collect_above = 9", "images.collect_above"),
            ("collect_above = 100", "images.collect_above"),
            ("pinned = [\"good/name:v1\", \"Bad Ref\"]", "images.pinned"),
        ] {
            assert!(of(text).check().unwrap_err().to_string().contains(key), "{text}");
        }
        assert!(of("collect_above = 10\npinned = [\"good/name:v1\"]").check().is_ok());
    }
}
