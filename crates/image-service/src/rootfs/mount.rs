//! Mounting a container's root filesystem: an overlay that is attached to nothing.
//!
//! | kernel | how the layers are named |
//! |---|---|
//! | 6.13 and newer | `lowerdir+` by descriptor |
//! | 6.8 and newer | `lowerdir+` by path, through `/proc/self/fd` |
//! | older | `lowerdir=` in mount(2), in a mount namespace of a thread's own, cloned from there by `open_tree` |
//!
//! Layers with mapped ids are mounts of their own. Those that are attached nowhere can be named since 6.15; before that
//! each is attached over itself in the private mount namespace.
//!
//! Options: `index=off`, because a layer may come back under the same name after it was collected and an index would
//! call that stale; `metacopy=off` and `redirect_dir=off`, whatever the kernel's configuration says, because both make
//! overlay follow names found in attributes of the layers.
//! Not here: where the mount goes.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags,
};

use super::ids::{self, IdMap};
use super::{Durability, UPPER, WORK};
use crate::error::Error;

/// Options that every mount gets.
const OPTIONS: [(&str, &str); 3] = [("index", "off"), ("metacopy", "off"), ("redirect_dir", "off")];

/// Mounts overlays in the way that this kernel can.
#[derive(Debug)]
pub(super) struct Mounter {
    empty: PathBuf,
    durability: Durability,
    /// The first way that worked.
    way: OnceLock<Way>,
    /// The first that worked with mapped ids.
    mapped_way: OnceLock<Way>,
}

/// The layers of a root filesystem.
pub(super) struct Lowers<'a> {
    /// Their directories, from the top downwards.
    pub(super) plain: &'a [OwnedFd],
    /// How their ids are to be mapped.
    pub(super) ids: Option<&'a IdMap>,
}

/// How the kernel is told about layers; see the module's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Descriptors,
    Paths,
    PrivateNamespace,
}

/// The directories of one overlay.
struct Parts<'a> {
    lowers: Vec<&'a OwnedFd>,
    /// Clones of them with mapped ids, and how to map.
    mapped: Option<(Vec<OwnedFd>, &'a IdMap)>,
    /// The upper directory and overlay's own; a mount without them can't be written to.
    writable: Option<(OwnedFd, OwnedFd)>,
    /// A directory to mount on where the kernel wants one.
    dir: &'a Path,
    durability: Durability,
}

/// A step that failed, and why.
pub(super) type Failure = (&'static str, io::Error);

impl Mounter {
    pub(super) fn new(empty: PathBuf, durability: Durability) -> Mounter {
        Mounter { empty, durability, way: OnceLock::new(), mapped_way: OnceLock::new() }
    }

    /// Mounts `lowers` below the container's directory `dir`.
    pub(super) fn mount(&self, container: &str, dir: &Path, lowers: Lowers<'_>) -> Result<OwnedFd, Error> {
        let open = |name| open_place(&dir.join(name)).map_err(|cause| ("open a directory of", cause));
        let writable = || Ok((open(UPPER)?, open(WORK)?));
        let mounted = writable().and_then(|writable| self.overlay(dir, lowers, Some(writable)));
        mounted.map_err(|failure| error(container, failure))
    }

    /// Mounts `lowers` read-only for the container with the directory `dir`.
    pub(super) fn view(&self, container: &str, dir: &Path, lowers: Lowers<'_>) -> Result<OwnedFd, Error> {
        self.overlay(dir, lowers, None).map_err(|failure| error(container, failure))
    }

    fn overlay(
        &self,
        dir: &Path,
        lowers: Lowers<'_>,
        writable: Option<(OwnedFd, OwnedFd)>,
    ) -> Result<OwnedFd, Failure> {
        // Overlay takes no fewer directories: one below another, two where none is above them.
        let least = if writable.is_some() { 1 } else { 2 };
        let empty = match lowers.plain.len() < least {
            true => Some(open_place(&self.empty).map_err(|cause| ("open a directory of", cause))?),
            false => None,
        };
        let plain: Vec<&OwnedFd> = lowers.plain.iter().chain(&empty).collect();
        let mapped = match lowers.ids {
            Some(map) => {
                let mapped = ids::mapped(plain.iter().copied(), map);
                Some((mapped.map_err(|cause| (ids::MAPPING, cause))?, map))
            }
            None => None,
        };
        let known = if mapped.is_some() { &self.mapped_way } else { &self.way };
        let parts = Parts { lowers: plain, mapped, writable, dir, durability: self.durability };
        if let Some(way) = known.get() {
            return parts.mount(*way);
        }
        let mut outcome = parts.mount(Way::Descriptors).map(|fd| (Way::Descriptors, fd));
        for way in [Way::Paths, Way::PrivateNamespace] {
            outcome = match outcome {
                Err((_, cause)) if is_unknown(&cause) => parts.mount(way).map(|fd| (way, fd)),
                other => other,
            };
        }
        let (way, mount) = outcome?;
        let _ = known.set(way);
        Ok(mount)
    }
}

fn error(container: &str, (action, cause): Failure) -> Error {
    Error::RootfsMount { container: container.to_owned(), action, cause }
}

impl Parts<'_> {
    fn attributes(&self) -> MountAttrFlags {
        match self.writable {
            Some(_) => MountAttrFlags::empty(),
            None => MountAttrFlags::MOUNT_ATTR_RDONLY,
        }
    }

    fn mount(&self, way: Way) -> Result<OwnedFd, Failure> {
        match way {
            Way::Descriptors | Way::Paths => self.by_context(way),
            Way::PrivateNamespace => self.by_private_namespace(),
        }
    }

    fn by_context(&self, way: Way) -> Result<OwnedFd, Failure> {
        let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC);
        let context = context.map_err(|errno| ("open an overlay context for", errno.into()))?;
        let configured = self.configure(&context, way);
        configured.map_err(|errno| ("configure", explained(&context, errno)))?;
        let created = rustix::mount::fsconfig_create(&context);
        created.map_err(|errno| ("create", explained(&context, errno)))?;
        let mount = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, self.attributes());
        mount.map_err(|errno| ("mount", explained(&context, errno)))
    }

    fn configure(&self, context: &OwnedFd, way: Way) -> rustix::io::Result<()> {
        let set = |key: &str, dir: &OwnedFd| match way {
            Way::Descriptors => rustix::mount::fsconfig_set_fd(context, key, dir),
            Way::Paths | Way::PrivateNamespace => {
                rustix::mount::fsconfig_set_string(context, key, proc_path(dir))
            }
        };
        rustix::mount::fsconfig_set_string(context, "source", "overlay")?;
        match &self.mapped {
            Some((mapped, _)) => mapped.iter().try_for_each(|lower| set("lowerdir+", lower))?,
            None => self.lowers.iter().try_for_each(|lower| set("lowerdir+", lower))?,
        }
        if let Some((upper, work)) = &self.writable {
            set("upperdir", upper)?;
            set("workdir", work)?;
        }
        for (key, value) in OPTIONS {
            rustix::mount::fsconfig_set_string(context, key, value)?;
        }
        match self.durability {
            Durability::Volatile if self.writable.is_none() => Ok(()),
            Durability::Synced => Ok(()),
            Durability::Volatile => rustix::mount::fsconfig_set_flag(context, "volatile"),
        }
    }

    /// Mounts on a directory in a mount namespace that only a short-lived thread is in, and takes the mount from there.
    fn by_private_namespace(&self) -> Result<OwnedFd, Failure> {
        let failed = |errno: Errno| ("mount", errno.into());
        in_private_namespace(|| {
            // Overlay takes directories of the caller's own namespace only, so all are opened again here.
            let open = |dir: &OwnedFd| reopen(dir).map_err(|cause| ("open a directory of", cause));
            if let Some((_, map)) = &self.mapped {
                let attach = |lower| attach_mapped(lower, map);
                self.lowers
                    .iter()
                    .try_for_each(attach)
                    .map_err(|cause| ("map the ids of the layers of", cause))?;
            }
            let lowers = self.lowers.iter().map(|lower| open(lower)).collect::<Result<Vec<_>, _>>()?;
            let writable = match &self.writable {
                Some((upper, work)) => Some((open(upper)?, open(work)?)),
                None => None,
            };
            let options = options(&lowers, writable.as_ref(), self.durability);
            let options = std::ffi::CString::new(options).map_err(|cause| ("mount", cause.into()))?;
            let target = self.dir.join(WORK);
            let flags = if writable.is_some() { MountFlags::empty() } else { MountFlags::RDONLY };
            rustix::mount::mount("overlay", &target, "overlay", flags, &*options).map_err(failed)?;
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            rustix::mount::open_tree(CWD, &target, flags).map_err(failed)
        })
    }
}

/// Does work in a mount namespace that only a short-lived thread is in, from which nothing reaches the host's.
pub(super) fn in_private_namespace<T: Send>(
    work: impl FnOnce() -> Result<T, Failure> + Send,
) -> Result<T, Failure> {
    let in_thread = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
            .map_err(|errno| ("make a mount namespace for", errno.into()))?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private)
            .map_err(|errno| ("make a mount namespace for", errno.into()))?;
        work()
    };
    std::thread::scope(|scope| match scope.spawn(in_thread).join() {
        Ok(outcome) => outcome,
        Err(_) => Err(("mount", io::Error::other("the mounting thread failed"))),
    })
}

/// The options as one text, which must fit a page: enough for some 200 layers by these short paths.
fn options(lowers: &[OwnedFd], writable: Option<&(OwnedFd, OwnedFd)>, durability: Durability) -> String {
    let lowers: Vec<String> = lowers.iter().map(proc_path).collect();
    let mut text = format!("lowerdir={}", lowers.join(":"));
    if let Some((upper, work)) = writable {
        text += &format!(",upperdir={},workdir={}", proc_path(upper), proc_path(work));
    }
    for (key, value) in OPTIONS {
        text += &format!(",{key}={value}");
    }
    if durability == Durability::Volatile && writable.is_some() {
        text += ",volatile";
    }
    text
}

/// Puts a clone of a directory's mount with mapped ids over the directory, in the mount namespace of this thread.
fn attach_mapped(dir: &&OwnedFd, map: &IdMap) -> io::Result<()> {
    let here = reopen(dir)?;
    for clone in ids::mapped(std::iter::once(&here), map)? {
        let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(&clone, "", &here, "", both)?;
    }
    Ok(())
}

/// Opens the directory behind a descriptor by its path, in the mount namespace of this thread.
fn reopen(dir: &OwnedFd) -> io::Result<OwnedFd> {
    open_place(&std::fs::read_link(proc_path(dir))?)
}

/// A path to what a descriptor of this process is open on, without any byte that options would have to escape.
fn proc_path(dir: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", dir.as_raw_fd())
}

pub(super) fn open_place(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Whether this is a kernel's answer to a parameter that it doesn't know in this form. Before overlay took descriptors,
/// one opened only as a place was no descriptor to `fsconfig` (6.12: EBADF).
fn is_unknown(cause: &io::Error) -> bool {
    cause.kind() == io::ErrorKind::InvalidInput || cause.raw_os_error() == Some(Errno::BADF.raw_os_error())
}

/// The errno with what the kernel wrote about it into the context (fsopen(2): one message a read).
fn explained(context: impl AsFd, errno: Errno) -> io::Error {
    let mut messages = Vec::new();
    let mut buffer = [0u8; 1024];
    while let Ok(count) = rustix::io::read(&context, &mut buffer) {
        if count == 0 || messages.len() > 16 {
            break;
        }
        // A level and a space come first: "e overlay: …".
        let message = String::from_utf8_lossy(&buffer[..count]);
        messages.push(message.get(2..).unwrap_or(&message).trim().to_owned());
    }
    let plain = io::Error::from(errno);
    if messages.is_empty() {
        return plain;
    }
    io::Error::new(plain.kind(), format!("{plain}: {}", messages.join("; ")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;

    /// A process in a user namespace whose root is 5000 outside; killed when it goes.
    struct Users(std::process::Child);

    impl Drop for Users {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    fn users() -> (Users, IdMap) {
        let child = std::process::Command::new("unshare").args(["--user", "sleep", "100"]).spawn().unwrap();
        let path = format!("/proc/{}", child.id());
        let users = Users(child);
        let own = fs::read_link("/proc/self/ns/user").unwrap();
        while fs::read_link(format!("{path}/ns/user")).unwrap() == own {
            std::thread::yield_now();
        }
        for map in ["gid_map", "uid_map"] {
            fs::write(format!("{path}/{map}"), "0 5000 1000").unwrap();
        }
        let namespace = fs::File::open(format!("{path}/ns/user")).unwrap();
        (users, IdMap::new(move |mount| map_ids(mount, &namespace)))
    }

    #[allow(unsafe_code, reason = "a test; what is shipped is handed this call by its caller")]
    fn map_ids(mount: std::os::fd::BorrowedFd<'_>, namespace: &fs::File) -> io::Result<()> {
        let attributes = libc::mount_attr {
            attr_set: libc::MOUNT_ATTR_IDMAP,
            attr_clr: 0,
            propagation: 0,
            userns_fd: u64::try_from(namespace.as_raw_fd()).unwrap(),
        };
        let size = size_of::<libc::mount_attr>();
        let (call, flags) = (libc::SYS_mount_setattr, libc::AT_EMPTY_PATH);
        // SAFETY: both pointers live through the call, which reads a C string and as many bytes as it is told.
        let returned = unsafe {
            libc::syscall(call, mount.as_raw_fd(), c"".as_ptr(), flags, &raw const attributes, size)
        };
        if returned == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Mapped ids show in every way, also in the one of older kernels, and what is written is the users'.
    #[test]
    fn mapped_ids_show_in_all_ways() {
        use std::os::unix::fs::MetadataExt;
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let (_users, map) = users();
        let dir = tempfile::tempdir().unwrap();
        for name in ["upper", "work", "a", "b"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("a/roots"), "a").unwrap();
        fs::write(dir.path().join("b/users"), "b").unwrap();
        std::os::unix::fs::chown(dir.path().join("b/users"), Some(33), Some(34)).unwrap();
        for way in [Way::Descriptors, Way::Paths, Way::PrivateNamespace] {
            let [a, b] = ["a", "b"].map(|name| open_place(&dir.path().join(name)).unwrap());
            let parts = Parts {
                mapped: Some((ids::mapped([&b, &a].into_iter(), &map).unwrap(), &map)),
                lowers: vec![&b, &a],
                writable: Some((
                    open_place(&dir.path().join("upper")).unwrap(),
                    open_place(&dir.path().join("work")).unwrap(),
                )),
                dir: dir.path(),
                durability: Durability::Synced,
            };
            let mount = match parts.mount(way) {
                Ok(mount) => mount,
                Err((_, cause)) if way != Way::PrivateNamespace && is_unknown(&cause) => {
                    println!("skipped: this kernel can't name a layer that is attached nowhere");
                    continue;
                }
                Err(failure) => panic!("{way:?}: {failure:?}"),
            };
            ids::check_writable(&mount, "c").unwrap();
            let root = proc_path(&mount);
            let owner = |name: &str| {
                let meta = fs::metadata(format!("{root}/{name}")).unwrap();
                (meta.uid(), meta.gid())
            };
            assert_eq!([owner("roots"), owner("users")], [(5000, 5000), (5033, 5034)], "{way:?}");
            // Copied up with the owner that it shows.
            fs::write(format!("{root}/users"), "changed").unwrap();
            let upper = fs::metadata(dir.path().join("upper/users")).unwrap();
            assert_eq!((upper.uid(), upper.gid()), (5033, 5034), "{way:?}");
            fs::remove_file(dir.path().join("upper/users")).unwrap();
            assert_eq!(fs::metadata(dir.path().join("b/users")).unwrap().uid(), 33);
            let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
            assert!(!table.contains(dir.path().to_str().unwrap()), "{way:?}: {table}");
        }
    }

    /// Every way shows the same files and leaves the mount table as it was.
    #[test]
    fn all_ways_mount_the_same() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        for name in ["upper", "work", "a", "b"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("a/from-a"), "a").unwrap();
        fs::write(dir.path().join("a/both"), "a").unwrap();
        fs::write(dir.path().join("b/both"), "b").unwrap();
        for way in [Way::Descriptors, Way::Paths, Way::PrivateNamespace] {
            let [a, b] = ["a", "b"].map(|name| open_place(&dir.path().join(name)).unwrap());
            let parts = Parts {
                lowers: vec![&b, &a],
                mapped: None,
                writable: Some((
                    open_place(&dir.path().join("upper")).unwrap(),
                    open_place(&dir.path().join("work")).unwrap(),
                )),
                dir: dir.path(),
                durability: Durability::Synced,
            };
            let mount = match parts.mount(way) {
                Ok(mount) => mount,
                Err((_, cause)) if way == Way::Descriptors && is_unknown(&cause) => {
                    println!("skipped: this kernel has no lowerdir+ by descriptor");
                    continue;
                }
                Err(failure) => panic!("{way:?}: {failure:?}"),
            };
            let root = proc_path(&mount);
            let names: BTreeSet<_> =
                fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(names, BTreeSet::from(["both".into(), "from-a".into()]), "{way:?}");
            assert_eq!(fs::read_to_string(format!("{root}/both")).unwrap(), "b", "{way:?}");
            drop(mount);
            let view = Parts { writable: None, ..parts }.mount(way).unwrap();
            let root = proc_path(&view);
            assert_eq!(fs::read_to_string(format!("{root}/both")).unwrap(), "b", "{way:?}");
            let refused = fs::write(format!("{root}/new"), "").unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem, "{way:?}");
            let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
            assert!(!table.contains(dir.path().to_str().unwrap()), "{way:?}: {table}");
        }
    }
}
