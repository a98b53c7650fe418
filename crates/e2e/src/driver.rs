//! Who makes the cgroups of the nodes under test: the daemon itself or, at its wish, systemd.
//!
//! Not here: the layout of cgroups, which is the host's to choose.

use std::process::Command;

/// A cgroup driver, as the daemon's configuration and kubelet's call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupDriver {
    /// The daemon makes directories.
    Cgroupfs,
    /// The daemon asks systemd for scopes below slices.
    Systemd,
}

impl CgroupDriver {
    /// The driver of this run: `KNARR_E2E_CGROUP_DRIVER`, or cgroupfs.
    ///
    /// # Panics
    /// When the variable names no driver.
    pub fn of_this_run() -> Self {
        match std::env::var("KNARR_E2E_CGROUP_DRIVER").as_deref() {
            Err(_) | Ok("cgroupfs") => Self::Cgroupfs,
            Ok("systemd") => Self::Systemd,
            Ok(other) => panic!("KNARR_E2E_CGROUP_DRIVER is \"{other}\", which is no driver"),
        }
    }

    /// Its value in the daemon's configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cgroupfs => "cgroupfs",
            Self::Systemd => "systemd",
        }
    }

    /// What a pod's `cgroup_parent` looks like for a cgroup that only one node has. A slice's name has no dashes: each
    /// would mean one more slice above it (systemd.slice(5)).
    pub fn parent(self, slot: u8) -> String {
        match self {
            Self::Cgroupfs => format!("/knarr-e2e-{}-{slot}", std::process::id()),
            Self::Systemd => format!("knarr_e2e_{}_{slot}.slice", std::process::id()),
        }
    }

    /// Ends what the driver keeps of a parent when all pods are gone: kubelet would, for its slices.
    pub fn forget(self, parent: &str) {
        if self == Self::Systemd {
            // A slice that was never made is none to be stopped.
            let _ = Command::new("systemctl").args(["--quiet", "stop", parent]).output();
        }
    }
}
