//! What the kernel says about AppArmor, through securityfs.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstatfs, openat, openat2};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use crate::error::Error;

/// Says whether the kernel was booted with it.
const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";

/// Where securityfs is as a rule.
const SECURITYFS: &str = "/sys/kernel/security";

/// Filesystem type of securityfs (linux/magic.h).
const SECURITYFS_MAGIC: u64 = 0x7363_6673;

/// The kernel's profiles.
#[derive(Debug)]
pub(super) struct Kernel {
    securityfs: OwnedFd,
    /// The profile of this process, as the kernel names it; `None` when it is unconfined.
    confinement: Option<String>,
}

impl Kernel {
    /// Finds it.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub(super) fn find() -> Result<Self, String> {
        match std::fs::read_to_string(ENABLED) {
            Ok(enabled) if enabled.trim() == "Y" => {}
            Ok(_) => return Err("the kernel was booted without it".to_owned()),
            Err(error) => return Err(format!("\"{ENABLED}\": {error}")),
        }
        let securityfs = securityfs().map_err(|error| format!("securityfs: {error}"))?;
        let kernel = Self { securityfs, confinement: confinement() };
        // Inside of a container of the host's it may be there and none of our business.
        kernel.profiles().map_err(|error| format!("the list of profiles: {error}"))?;
        Ok(kernel)
    }

    /// Whether a profile is loaded.
    ///
    /// # Errors
    /// [`Error::Step`] when the kernel doesn't say.
    pub(super) fn has(&self, name: &str) -> Result<bool, Error> {
        let profiles = self
            .profiles()
            .map_err(|cause| Error::step("reading the list of AppArmor profiles", SECURITYFS, cause))?;
        Ok(lists(&profiles, name))
    }

    /// The profile of this process.
    pub(super) fn confinement(&self) -> Option<&str> {
        self.confinement.as_deref()
    }

    fn profiles(&self) -> io::Result<String> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV;
        let file = openat2(&self.securityfs, "apparmor/profiles", flags, Mode::empty(), resolve)?;
        let mut text = String::new();
        File::from(file).read_to_string(&mut text).map(|_| text)
    }
}

/// Whether a list, of lines like `name (enforce)`, has a profile.
fn lists(profiles: &str, name: &str) -> bool {
    profiles.lines().filter_map(|line| line.rsplit_once(" (")).any(|(listed, _mode)| listed == name)
}

/// The mounted one, or, where it isn't mounted, one that nobody else sees.
fn securityfs() -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if let Ok(mounted) = openat(CWD, SECURITYFS, flags, Mode::empty())
        && u64::try_from(fstatfs(&mounted)?.f_type) == Ok(SECURITYFS_MAGIC)
    {
        return Ok(mounted);
    }
    let context = fsopen("securityfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)?)
}

fn confinement() -> Option<String> {
    // Kernels since 5.8 have a directory for each security module, older ones one file for all.
    let read = ["/proc/self/attr/apparmor/current", "/proc/self/attr/current"];
    let text = read.iter().find_map(|path| std::fs::read_to_string(path).ok())?;
    let label = text.trim_end_matches(['\n', '\0']);
    let name = label.rsplit_once(" (").map_or(label, |(name, _mode)| name);
    Some(name.to_owned()).filter(|name| name != "unconfined" && !name.contains(['"', '\n']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_found_by_its_whole_name() {
        let list = "knarr-default (enforce)\n/usr/bin/man (complain)\nman (1) tool (enforce)\n";
        for name in ["knarr-default", "/usr/bin/man", "man (1) tool"] {
            assert!(lists(list, name), "{name}");
        }
        for name in ["knarr", "knarr-default (enforce)", "man", "", "unconfined", "tool"] {
            assert!(!lists(list, name), "{name}");
        }
    }
}
