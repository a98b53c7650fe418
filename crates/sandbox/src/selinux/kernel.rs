//! What the kernel and the policy that is loaded say, through selinuxfs.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstatfs, openat, openat2};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use super::context::Context;
use crate::error::Error;

/// Where selinuxfs is as a rule.
const SELINUXFS: &str = "/sys/fs/selinux";

/// Filesystem type of selinuxfs (linux/magic.h).
const SELINUXFS_MAGIC: u64 = 0xf97c_ff8c;

/// Says which policy a host has (selinux_config(5)).
const CONFIG: &str = "/etc/selinux/config";

/// The kernel's side of SELinux.
#[derive(Debug)]
pub(super) struct Kernel {
    selinuxfs: OwnedFd,
}

/// What containers are when nobody says otherwise.
#[derive(Debug, Clone)]
pub(super) struct Defaults {
    pub(super) process: Context,
    pub(super) file: Context,
    /// `None` in a policy that has nothing for it.
    pub(super) privileged: Option<Context>,
}

/// A policy and what it has for containers, or why there is none of use.
pub(super) type Found = Result<(Kernel, Defaults), String>;

/// Whether a policy is loaded: without one the kernel names every process alike.
pub(super) fn is_loaded() -> bool {
    let current = std::fs::read_to_string("/proc/self/attr/current").unwrap_or_default();
    // AppArmor's names look otherwise: they have no colons.
    Context::parse(&current).is_some()
}

impl Kernel {
    /// Finds it, and what the policy has for containers, or why there is nothing, in words.
    ///
    /// # Errors
    /// A policy is loaded and can't be asked. Going on without it would leave unconfined what was to be confined.
    pub(super) fn find() -> Result<Found, Error> {
        let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
        if !known.lines().any(|line| line.split_whitespace().next_back() == Some("selinuxfs")) {
            return Ok(Err("the kernel was booted without it".to_owned()));
        }
        if !is_loaded() {
            return Ok(Err("no policy is loaded".to_owned()));
        }
        let unanswered = |subject: String| {
            |cause: io::Error| Error::step("asking the SELinux policy that is loaded", subject, cause)
        };
        let kernel = Self { selinuxfs: selinuxfs().map_err(unanswered("selinuxfs".to_owned()))? };
        let mut defaults = Defaults::of_policy();
        if !kernel.has_levels() {
            defaults.process.level = None;
            defaults.file.level = None;
        }
        for context in [&defaults.process, &defaults.file] {
            let context = context.to_string();
            if !kernel.knows(&context).map_err(unanswered(context.clone()))? {
                return Ok(Err(format!("the policy does not know \"{context}\"")));
            }
        }
        let privileged = Context { kind: "spc_t".to_owned(), ..defaults.process.clone() };
        defaults.privileged = Some(privileged).filter(|one| kernel.knows(&one.to_string()).unwrap_or(false));
        Ok(Ok((kernel, defaults)))
    }

    /// Whether the policy has a context.
    ///
    /// # Errors
    /// When the kernel doesn't say.
    pub(super) fn knows(&self, context: &str) -> io::Result<bool> {
        let mut file = self.open("context", OFlags::RDWR)?;
        match file.write_all(context.as_bytes()) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) fn enforces(&self) -> bool {
        self.read("enforce") == "1"
    }

    fn has_levels(&self) -> bool {
        self.read("mls") == "1"
    }

    fn read(&self, name: &str) -> String {
        let mut text = String::new();
        let read = self.open(name, OFlags::RDONLY).and_then(|mut file| file.read_to_string(&mut text));
        if read.is_ok() { text.trim().to_owned() } else { String::new() }
    }

    fn open(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV;
        Ok(openat2(&self.selinuxfs, name, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?.into())
    }
}

/// The mounted one, or, where it isn't mounted, one that nobody else sees.
fn selinuxfs() -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if let Ok(mounted) = openat(CWD, SELINUXFS, flags, Mode::empty())
        && u64::try_from(fstatfs(&mounted)?.f_type) == Ok(SELINUXFS_MAGIC)
    {
        return Ok(mounted);
    }
    let context = fsopen("selinuxfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}

impl Defaults {
    /// What the policy's own files say for containers, else what the reference policy calls them.
    fn of_policy() -> Self {
        let config = std::fs::read_to_string(CONFIG).unwrap_or_default();
        let policy = setting(&config, "SELINUXTYPE").unwrap_or_else(|| "targeted".to_owned());
        let path = format!("/etc/selinux/{policy}/contexts/lxc_contexts");
        let contexts = std::fs::read_to_string(path).unwrap_or_default();
        let named = |name: &str| setting(&contexts, name).and_then(|text| Context::parse(&text));
        let known = |role: &str, kind: &str| Context {
            user: "system_u".to_owned(),
            role: role.to_owned(),
            kind: kind.to_owned(),
            level: Some("s0".to_owned()),
        };
        Self {
            process: named("process").unwrap_or_else(|| known("system_r", "container_t")),
            file: named("file").unwrap_or_else(|| known("object_r", "container_file_t")),
            privileged: None,
        }
    }
}

/// The value of a setting: `name = "value"` or `NAME=value`, one a line.
fn setting(text: &str, name: &str) -> Option<String> {
    let lines = text.lines().filter_map(|line| line.split_once('='));
    let mut found = lines.filter(|(key, _)| key.trim() == name);
    let (_, value) = found.next()?;
    Some(value.trim().trim_matches('"').to_owned()).filter(|value| !value.is_empty() && !value.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_the_files_write_them() {
        let lxc = "# comment\nprocess = \"system_u:system_r:container_t:s0\"\nfile=\"a:b:c:s0\"\n";
        assert_eq!(setting(lxc, "process").as_deref(), Some("system_u:system_r:container_t:s0"));
        assert_eq!(setting(lxc, "file").as_deref(), Some("a:b:c:s0"));
        assert_eq!(
            setting("#SELINUXTYPE=mls\nSELINUXTYPE=default\n", "SELINUXTYPE").as_deref(),
            Some("default")
        );
        assert_eq!(setting("SELINUXTYPE=../../tmp\n", "SELINUXTYPE"), None, "a name, not a path");
        assert_eq!(setting(lxc, "content"), None);
    }
}
