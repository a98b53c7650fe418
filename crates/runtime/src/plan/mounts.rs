//! One entry of `mounts`: its target, its options, and the step or volume it becomes.
//!
//! Whether a target may be mounted on is decided by its name here and by what it turns out to be in `init`.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use super::build::refuse;
use super::{
    Access, AccessTime, Depth, FilesystemMount, IdMappings, MountAttributes, Propagation, Refusal, Source,
    Step,
};
use crate::spec::oci;

/// Files of /proc that may be replaced: what lxcfs provides, and two that FIPS and checkpoints need.
const PROC_FILES: &[&str] = &[
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// Options that are flags of a mount or say how it is made; others are the filesystem's own.
pub(crate) const OPTIONS: [&str; 30] = [
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "exec",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "rbind",
    "relatime",
    "ro",
    "rprivate",
    "rro",
    "rshared",
    "rslave",
    "runbindable",
    "rw",
    "shared",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "unbindable",
];

/// Kernel filesystems that can be mounted anew without a device or a server behind them.
const FILESYSTEMS: &[&str] = &["proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"];

/// Whether `path` (clean and absolute) may be a mount target although it lies on procfs.
pub(crate) fn is_replaceable_proc_file(path: &Path) -> bool {
    PROC_FILES.iter().any(|file| path == Path::new(file))
}

/// What an entry becomes.
pub(super) enum Slot {
    Source(Source, PathBuf),
    Step(Step),
}

pub(super) struct MountReader {
    /// Whether /dev/shm is the pod's.
    pub(super) pod_memory: bool,
}

pub(super) fn is_bind(mount: &oci::Mount) -> bool {
    mount.typ().as_deref() == Some("bind")
        || mount.options().iter().flatten().any(|option| option == "bind" || option == "rbind")
}

/// The clean target of entry `at`.
pub(super) fn target(at: usize, mount: &oci::Mount) -> Result<PathBuf, Refusal> {
    let field = || format!("mounts[{at}].destination");
    let target = clean(mount.destination(), field)?;
    if target == Path::new("/") {
        return Err(refuse(field(), "is the root itself"));
    }
    if target.starts_with("/proc") && target != Path::new("/proc") && !is_replaceable_proc_file(&target) {
        return Err(refuse(field(), format!("{target:?} is inside of \"/proc\"")));
    }
    if target == Path::new("/proc") && is_bind(mount) && !is_the_hosts_proc(mount) {
        return Err(refuse(field(), "\"/proc\" is procfs, which may not be covered by anything else"));
    }
    Ok(target)
}

/// Whether a source is procfs by its name. What is there in truth is looked at when it is mounted.
fn is_the_hosts_proc(mount: &oci::Mount) -> bool {
    let source = mount.source().as_deref().and_then(|source| clean(source, String::new).ok());
    source.is_some_and(|source| source == Path::new("/proc"))
}

/// `path` without `.`, `..` and doubled slashes, as cleaned by name alone: it is resolved inside the root
/// later.
pub(super) fn clean(path: &Path, field: impl Fn() -> String) -> Result<PathBuf, Refusal> {
    if !path.is_absolute() {
        return Err(refuse(field(), format!("{path:?} is not an absolute path")));
    }
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(refuse(field(), "contains a zero byte"));
    }
    let mut cleaned = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => cleaned.push::<&OsStr>(name),
            Component::ParentDir => {
                cleaned.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(cleaned)
}

impl MountReader {
    pub(super) fn read(&self, at: usize, mount: &oci::Mount, target: PathBuf) -> Result<Slot, Refusal> {
        let ids = IdMappings::read(mount.uid_mappings().as_deref(), mount.gid_mappings().as_deref());
        if let Some(ids) = &ids {
            let list = |name: &str| format!("mounts[{at}].{name}");
            ids.check((&list("uidMappings"), &list("gidMappings")))?;
        }
        let options = Options::read(at, mount)?;
        if is_bind(mount) {
            return bind(at, mount, options).map(|source| Slot::Source(Source { ids, ..source }, target));
        }
        if ids.is_some() {
            return Err(refuse(format!("mounts[{at}].uidMappings"), "is for bind mounts"));
        }
        let fstype = mount.typ().as_deref().unwrap_or_default();
        if !FILESYSTEMS.contains(&fstype) {
            return Err(refuse(format!("mounts[{at}].type"), format!("{fstype:?} is not supported")));
        }
        if fstype != "proc" && target == Path::new("/proc") {
            return Err(refuse(format!("mounts[{at}].type"), format!("{fstype:?} cannot be on \"/proc\"")));
        }
        let attributes = options.attributes;
        let is_pod_memory = self.pod_memory && fstype == "tmpfs" && target == Path::new("/dev/shm");
        Ok(Slot::Step(match fstype {
            "cgroup" | "cgroup2" => Step::Cgroups { target, attributes },
            _ if is_pod_memory => Step::AttachSharedMemory { target, attributes },
            _ => {
                let mut data = options.data;
                if let Some(source) = mount.source().as_ref().and_then(|source| source.to_str()) {
                    data.insert(0, ("source".to_owned(), Some(source.to_owned())));
                }
                let (fstype, propagation) = (fstype.to_owned(), options.propagation);
                Step::Mount(FilesystemMount { fstype, target, attributes, options: data, propagation })
            }
        }))
    }
}

fn bind(at: usize, mount: &oci::Mount, options: Options) -> Result<Source, Refusal> {
    let field = || format!("mounts[{at}].source");
    let path = mount.source().as_ref().ok_or_else(|| refuse(field(), "is missing"))?;
    if !path.is_absolute() {
        return Err(refuse(field(), format!("{path:?} is not an absolute path")));
    }
    if let Some((name, _)) = options.data.first() {
        return Err(refuse(
            format!("mounts[{at}].options"),
            format!("{name:?} does nothing on a bind mount"),
        ));
    }
    Ok(Source {
        path: path.clone(),
        depth: options.depth,
        attributes: options.attributes,
        propagation: options.propagation,
        ids: None,
    })
}

/// The options of an entry, sorted by what they are about.
struct Options {
    attributes: MountAttributes,
    depth: Depth,
    propagation: Propagation,
    data: Vec<(String, Option<String>)>,
}

impl Options {
    fn read(at: usize, mount: &oci::Mount) -> Result<Self, Refusal> {
        let mut read = Self {
            attributes: MountAttributes::default(),
            depth: Depth::Single,
            propagation: Propagation::Private,
            data: Vec::new(),
        };
        for option in mount.options().iter().flatten() {
            if option.contains('\0') {
                return Err(refuse(format!("mounts[{at}].options"), "contains a zero byte"));
            }
            read.take(option).map_err(|why| refuse(format!("mounts[{at}].options"), why))?;
        }
        Ok(read)
    }

    fn take(&mut self, option: &str) -> Result<(), String> {
        let flags = &mut self.attributes;
        match option {
            "defaults" => {}
            "ro" => flags.access = Access::ReadOnly,
            "rro" => flags.access = Access::RecursiveReadOnly,
            "rw" => flags.access = Access::ReadWrite,
            "nosuid" => flags.nosuid = true,
            "suid" => flags.nosuid = false,
            "nodev" => flags.nodev = true,
            "dev" => flags.nodev = false,
            "noexec" => flags.noexec = true,
            "exec" => flags.noexec = false,
            "nosymfollow" => flags.nosymfollow = true,
            "symfollow" => flags.nosymfollow = false,
            "relatime" => flags.atime = AccessTime::Relative,
            "noatime" => flags.atime = AccessTime::Never,
            "strictatime" => flags.atime = AccessTime::Strict,
            "norelatime" | "atime" | "nostrictatime" => flags.atime = AccessTime::Inherit,
            "nodiratime" => flags.nodiratime = true,
            "diratime" => flags.nodiratime = false,
            "bind" => self.depth = Depth::Single,
            "rbind" => self.depth = Depth::Recursive,
            "private" | "rprivate" => self.propagation = Propagation::Private,
            "slave" | "rslave" => self.propagation = Propagation::Slave,
            "shared" | "rshared" => self.propagation = Propagation::Shared,
            "unbindable" | "runbindable" => self.propagation = Propagation::Unbindable,
            "idmap" | "ridmap" | "tmpcopyup" | "remount" => {
                return Err(format!("{option:?} is not supported"));
            }
            _ => self.data.push(match option.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (option.to_owned(), None),
            }),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_that_are_told_are_no_filesystems() {
        for option in OPTIONS {
            let mut mount = oci::Mount::default();
            mount.set_options(Some(vec![option.to_owned()]));
            assert!(Options::read(0, &mount).unwrap().data.is_empty(), "{option}");
        }
        assert!(OPTIONS.is_sorted());
    }
}
