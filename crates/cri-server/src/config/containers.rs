//! `[containers]`: how much containers may write.

use std::sync::Arc;

use image_service::Usage;
use image_service::rootfs::WritableLimit;
use serde::{Deserialize, Serialize};

use super::Faults;
use super::fault::none_or_at_least;
use crate::adapters::Projects;

/// The keys. Both want the daemon's root on xfs, mounted with `prjquota`: it doesn't start where they can't be held to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ContainersConfig {
    /// Bytes that a container may write to its root filesystem and the volumes that its image declares. 0 for no limit.
    pub(crate) writable_bytes: u64,
    /// Files, directories and other nodes that it may make there. 0 for no limit.
    pub(crate) writable_inodes: u64,
}

/// What a container's directory holds before it has written anything takes some of both.
const LEAST_BYTES: u64 = 1 << 20;
const LEAST_INODES: u64 = 100;

impl ContainersConfig {
    /// For the image service.
    pub(crate) fn writable(&self) -> Option<WritableLimit> {
        let most = Usage { bytes: self.writable_bytes, inodes: self.writable_inodes };
        (most != Usage::default()).then(|| WritableLimit { most, quotas: Arc::new(Projects) })
    }

    /// Checks every value that can be judged without touching the machine.
    pub(super) fn check(&self) -> Result<(), Faults> {
        let limits = [
            (
                "containers.writable_bytes",
                self.writable_bytes,
                LEAST_BYTES,
                "must be 0 for none, or at least 1048576",
            ),
            (
                "containers.writable_inodes",
                self.writable_inodes,
                LEAST_INODES,
                "must be 0 for none, or at least 100",
            ),
        ];
        Faults::all(limits.into_iter().map(none_or_at_least))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    #[test]
    fn a_limit_is_none_or_enough_to_begin_with() {
        let of = |text: &str| toml::from_str::<Config>(&format!("[containers]\n{text}")).unwrap().containers;
        assert!(of("").writable().is_none());
        let most = of("writable_bytes = 1048576").writable().unwrap().most;
        assert_eq!(most, Usage { bytes: 1 << 20, inodes: 0 });
        let most = of("writable_inodes = 100").writable().unwrap().most;
        assert_eq!(most, Usage { bytes: 0, inodes: 100 });
        for (text, key) in
            [("writable_bytes = 1048575", "writable_bytes"), ("writable_inodes = 99", "writable_inodes")]
        {
            assert!(of(text).check().unwrap_err().to_string().contains(key), "{text}");
        }
    }
}
