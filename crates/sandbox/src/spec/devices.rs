//! Devices of the host that a container gets: their nodes and the rules that let them be opened.
//!
//! The only part of `spec` that looks at the host: a path says nothing about which device it is.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use runtime::identity::Identity;
use runtime::spec::oci;

use crate::container::config::Device;
use crate::error::Error;

/// Nodes of one directory that a request may bring in.
const MOST_NODES: usize = 4096;

/// A device of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostDevice {
    /// Where it is in the container.
    pub(crate) path: PathBuf,
    pub(crate) kind: oci::LinuxDeviceType,
    pub(crate) major: i64,
    pub(crate) minor: i64,
    pub(crate) mode: u32,
    /// `None` for whom the container runs as.
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    /// Some of `r`, `w`, `m`.
    pub(crate) permissions: String,
}

impl HostDevice {
    /// The node to make.
    pub(crate) fn node(&self) -> oci::LinuxDevice {
        let mut node = oci::LinuxDevice::default();
        node.set_path(self.path.clone())
            .set_typ(self.kind)
            .set_major(self.major)
            .set_minor(self.minor)
            .set_file_mode(Some(self.mode & 0o7777))
            .set_uid(self.uid)
            .set_gid(self.gid);
        node
    }

    /// The device at a path of the host.
    ///
    /// # Errors
    /// Those of the filesystem, and one for what is no device node.
    pub(crate) fn look(path: &Path) -> std::io::Result<Self> {
        let found = node_at(path, &std::fs::metadata(path)?);
        found.ok_or_else(|| std::io::Error::other("is not a device"))
    }
}

/// Looks the asked devices up; a directory stands for all device nodes in and below it.
///
/// # Errors
/// [`Error::Refused`] for a path that is missing or no device, or permissions that are none.
pub(crate) fn gather(asked: &[Device]) -> Result<Vec<HostDevice>, Error> {
    let mut found = Vec::new();
    for (at, device) in asked.iter().enumerate() {
        let refuse = |field: &str, why: String| Error::refused(format!("devices[{at}].{field}"), why);
        if !device.container_path.is_absolute() {
            return Err(refuse(
                "container_path",
                format!("\"{}\" is not an absolute path", device.container_path.display()),
            ));
        }
        if device.permissions.is_empty() || !device.permissions.chars().all(|c| "rwm".contains(c)) {
            return Err(refuse(
                "permissions",
                format!("\"{}\" is not made of \"r\", \"w\" and \"m\"", device.permissions),
            ));
        }
        let before = found.len();
        collect(&device.host_path, &device.container_path, (&device.permissions, &mut found))
            .map_err(|error| refuse("host_path", format!("\"{}\": {error}", device.host_path.display())))?;
        if found.len() == before {
            return Err(refuse("host_path", format!("\"{}\" is not a device", device.host_path.display())));
        }
    }
    Ok(found)
}

/// All devices of the host but terminals and what the runtime makes itself, for privileged containers.
pub(crate) fn all() -> Vec<HostDevice> {
    let mut found = Vec::new();
    let skipped = ["/dev/pts", "/dev/shm", "/dev/fd", "/dev/mqueue", "/dev/console", "/dev/ptmx"];
    for entry in std::fs::read_dir("/dev").into_iter().flatten().flatten() {
        let path = entry.path();
        let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        if is_link || skipped.iter().any(|skipped| path == Path::new(skipped)) {
            continue;
        }
        // A node that vanishes while it is looked at belongs to hardware that is being pulled out.
        let _vanished = collect(&path, &path, ("rwm", &mut found));
    }
    found
}

/// Gives devices without an owner to whom the container runs as.
pub(crate) fn own(devices: &mut [HostDevice], identity: &Identity) {
    for device in devices {
        device.uid.get_or_insert(identity.uid);
        device.gid.get_or_insert(identity.gid);
    }
}

fn collect(
    host: &Path,
    inside: &Path,
    (permissions, found): (&str, &mut Vec<HostDevice>),
) -> std::io::Result<()> {
    if found.len() >= MOST_NODES {
        return Err(std::io::Error::other(format!("has more than {MOST_NODES} nodes")));
    }
    let metadata = std::fs::metadata(host)?;
    let kind = metadata.file_type();
    if kind.is_dir() {
        for entry in std::fs::read_dir(host)? {
            let entry = entry?;
            if !entry.file_type()?.is_symlink() {
                collect(&entry.path(), &inside.join(entry.file_name()), (permissions, found))?;
            }
        }
        return Ok(());
    }
    if let Some(device) = node_at(host, &metadata) {
        found.push(HostDevice { path: inside.to_owned(), permissions: permissions.to_owned(), ..device });
    }
    Ok(())
}

fn node_at(path: &Path, metadata: &std::fs::Metadata) -> Option<HostDevice> {
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => oci::LinuxDeviceType::C,
        kind if kind.is_block_device() => oci::LinuxDeviceType::B,
        _ => return None,
    };
    let number = metadata.rdev();
    Some(HostDevice {
        path: path.to_owned(),
        kind,
        major: i64::from(rustix::fs::major(number)),
        minor: i64::from(rustix::fs::minor(number)),
        mode: metadata.mode(),
        uid: Some(metadata.uid()),
        gid: Some(metadata.gid()),
        permissions: "rwm".to_owned(),
    })
}

/// Default devices and what may be done with them (config-linux.md, "Allowed Device list" and the default devices):
/// null, zero, full, random, urandom, tty, console, ptmx, and all of devpts. Any node may be made, none opened.
const DEFAULT_RULES: [(oci::LinuxDeviceType, Option<i64>, Option<i64>, &str); 11] = [
    (oci::LinuxDeviceType::C, None, None, "m"),
    (oci::LinuxDeviceType::B, None, None, "m"),
    (oci::LinuxDeviceType::C, Some(1), Some(3), "rwm"),
    (oci::LinuxDeviceType::C, Some(1), Some(5), "rwm"),
    (oci::LinuxDeviceType::C, Some(1), Some(7), "rwm"),
    (oci::LinuxDeviceType::C, Some(1), Some(8), "rwm"),
    (oci::LinuxDeviceType::C, Some(1), Some(9), "rwm"),
    (oci::LinuxDeviceType::C, Some(5), Some(0), "rwm"),
    (oci::LinuxDeviceType::C, Some(5), Some(1), "rwm"),
    (oci::LinuxDeviceType::C, Some(5), Some(2), "rwm"),
    (oci::LinuxDeviceType::C, Some(136), None, "rwm"),
];

/// The rules of a container: everything is forbidden but the defaults and its own devices; a privileged one may do all.
pub(crate) fn rules(devices: &[HostDevice], privileged: bool) -> Vec<oci::LinuxDeviceCgroup> {
    if privileged {
        return vec![rule(true, (oci::LinuxDeviceType::A, None, None), "rwm")];
    }
    let nothing = rule(false, (oci::LinuxDeviceType::A, None, None), "rwm");
    let defaults = DEFAULT_RULES
        .into_iter()
        .map(|(kind, major, minor, access)| rule(true, (kind, major, minor), access));
    // A pipe has no number that a rule could be about.
    let numbered = devices.iter().filter(|device| device.kind != oci::LinuxDeviceType::P);
    let own = numbered.map(|d| rule(true, (d.kind, Some(d.major), Some(d.minor)), &d.permissions));
    std::iter::once(nothing).chain(defaults).chain(own).collect()
}

fn rule(
    allow: bool,
    (kind, major, minor): (oci::LinuxDeviceType, Option<i64>, Option<i64>),
    access: &str,
) -> oci::LinuxDeviceCgroup {
    let mut rule = oci::LinuxDeviceCgroup::default();
    rule.set_allow(allow)
        .set_typ(Some(kind))
        .set_major(major)
        .set_minor(minor)
        .set_access(Some(access.to_owned()));
    rule
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(host: &str, permissions: &str) -> Result<Vec<HostDevice>, Error> {
        gather(&[Device {
            host_path: host.into(),
            container_path: "/dev/x".into(),
            permissions: permissions.to_owned(),
        }])
    }

    #[test]
    fn a_device_keeps_its_numbers_under_its_new_name() {
        let found = ask("/dev/null", "rw").expect("a device");
        let node = found[0].node();
        assert_eq!((node.path().as_path(), node.major(), node.minor()), (Path::new("/dev/x"), 1, 3));
        let rules = rules(&found, false);
        assert_eq!(rules.last().and_then(|rule| rule.access().clone()), Some("rw".to_owned()));
        assert!(!rules[0].allow(), "everything else is forbidden first");
    }

    #[test]
    fn what_is_missing_or_no_device_is_refused_by_name() {
        for (host, permissions) in
            [("/nonexistent", "rwm"), ("/etc/passwd", "rwm"), ("/dev/null", "x"), ("/dev/null", "")]
        {
            assert!(matches!(ask(host, permissions), Err(Error::Refused { .. })), "{host} {permissions}");
        }
    }
}
