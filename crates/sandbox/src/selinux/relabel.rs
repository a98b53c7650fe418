//! Giving files the context of those who are to use them.
//!
//! Trees are walked by descriptor and never through links or other mounts. What is the system's is never relabelled, whatever
//! name it is given under (CVE-2021-43816).

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags, XattrFlags, fstat, openat, openat2, stat};
use rustix::io::Errno;

use crate::error::Error;

/// The attribute that a context is in.
const ATTRIBUTE: &str = "security.selinux";

/// The system's, with all below.
const TREES: [&str; 14] = [
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/proc",
    "/sbin",
    "/sys",
    "/usr",
    "/var/lib/selinux",
    "/run/systemd",
];

/// The system's, but not everything below.
const DIRECTORIES: [&str; 18] = [
    "/",
    "/home",
    "/lost+found",
    "/media",
    "/mnt",
    "/opt",
    "/root",
    "/run",
    "/srv",
    "/tmp",
    "/var",
    "/var/cache",
    "/var/lib",
    "/var/lib/kubelet",
    "/var/log",
    "/var/run",
    "/var/spool",
    "/var/tmp",
];

/// How deep a tree may be: two descriptors each.
const DEEPEST: usize = 256;

/// Why something was not relabelled.
#[derive(Debug)]
pub(crate) enum Failed {
    /// It is the system's.
    System(PathBuf),
    /// The file, and what the system said.
    File(PathBuf, io::Error),
    /// It was asked to stop.
    Stopped,
}

impl Failed {
    /// As the failure of a mount of a request's.
    pub(crate) fn of_mount(self, at: usize) -> Error {
        match self {
            Self::System(path) => {
                let why = format!("\"{}\" is the system's, which is never relabelled", path.display());
                Error::refused(format!("mounts[{at}].selinux_relabel"), why)
            }
            other => other.into_step(),
        }
    }

    /// As the failure of a step.
    pub(crate) fn into_step(self) -> Error {
        let (path, cause) = match self {
            Self::File(path, cause) => (path, cause),
            Self::System(path) => (path, io::Error::other("it is the system's")),
            Self::Stopped => (PathBuf::new(), io::Error::other("nobody waits for it")),
        };
        Error::step("relabelling the file", path.display().to_string(), cause)
    }
}

/// Relabels a host path for a container, with all below it when it is a directory.
///
/// # Errors
/// [`Failed`]. What was relabelled before stays so: a retry goes on from there.
pub(crate) fn volume(path: &Path, label: &str, stop: &AtomicBool) -> Result<(), Failed> {
    let failed = |errno: Errno| Failed::File(path.to_owned(), errno.into());
    // Links on the way there are the host's own; where they lead to is what counts.
    let place = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    let real = std::fs::read_link(name(&place)).map_err(|error| Failed::File(path.to_owned(), error))?;
    if is_system(&real) || is_system_file(&place).map_err(failed)? {
        return Err(Failed::System(real));
    }
    tree(place.as_fd(), &real, (label, stop), 0)
}

/// Relabels what is this daemon's own.
///
/// # Errors
/// [`Failed`].
pub(crate) fn own(path: &Path, label: &str) -> Result<(), Failed> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = openat(CWD, path, flags, Mode::empty());
    let place = place.map_err(|errno| Failed::File(path.to_owned(), errno.into()))?;
    tree(place.as_fd(), path, (label, &AtomicBool::new(false)), 0)
}

fn is_system(real: &Path) -> bool {
    TREES.iter().any(|tree| real.starts_with(tree)) || DIRECTORIES.iter().any(|one| real == Path::new(one))
}

/// Whether it is one of the directories under another name, such as a bind mount.
fn is_system_file(place: &OwnedFd) -> Result<bool, Errno> {
    let found = fstat(place)?;
    let is_it = |known: &&str| {
        stat(*known).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (found.st_dev, found.st_ino))
    };
    Ok(TREES.iter().chain(&DIRECTORIES).any(is_it))
}

fn tree(
    place: BorrowedFd<'_>,
    path: &Path,
    (label, stop): (&str, &AtomicBool),
    depth: usize,
) -> Result<(), Failed> {
    if stop.load(Ordering::Relaxed) {
        return Err(Failed::Stopped);
    }
    let failed = |errno: Errno| Failed::File(path.to_owned(), errno.into());
    if !one(place, label).map_err(failed)? {
        return Ok(());
    }
    if FileType::from_raw_mode(fstat(place).map_err(failed)?.st_mode) != FileType::Directory {
        return Ok(());
    }
    if depth == DEEPEST {
        return Err(failed(Errno::LOOP));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(place, ".", flags, Mode::empty()).map_err(failed)?;
    for entry in Dir::read_from(&directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        match below(&directory, name) {
            Ok(found) => tree(found.as_fd(), &path.join(name), (label, stop), depth + 1)?,
            // Gone meanwhile, or another mount: that has its own entry among the mounts, or is none of the container's.
            Err(Errno::NOENT | Errno::XDEV) => {}
            Err(errno) => return Err(Failed::File(path.join(name), errno.into())),
        }
    }
    Ok(())
}

fn below(directory: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    openat2(directory, name, flags, Mode::empty(), resolve)
}

/// Labels a single file of any kind. `false` when its filesystem keeps no labels, and so those below have none either.
fn one(place: BorrowedFd<'_>, label: &str) -> Result<bool, Errno> {
    // By its name among this process's descriptors: a place is not open for reading, and a device must not be.
    let name = name(place);
    let mut now = [0; 512];
    let length = match rustix::fs::getxattr(&name, ATTRIBUTE, &mut now) {
        Ok(length) => length,
        Err(Errno::NODATA | Errno::RANGE) => 0,
        Err(Errno::NOTSUP) => return Ok(false),
        Err(errno) => return Err(errno),
    };
    let now = now.get(..length).unwrap_or_default();
    if now.strip_suffix(b"\0").unwrap_or(now) == label.as_bytes() {
        return Ok(true);
    }
    match rustix::fs::setxattr(&name, ATTRIBUTE, label.as_bytes(), XattrFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOTSUP) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn name(place: impl AsFd) -> String {
    format!("/proc/self/fd/{}", place.as_fd().as_raw_fd())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const LABEL: &str = "system_u:object_r:container_file_t:s0:c1,c2";

    fn label(path: &Path) -> Option<String> {
        let mut bytes = [0; 512];
        let length = rustix::fs::lgetxattr(path, ATTRIBUTE, &mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes[..length]).trim_end_matches('\0').to_owned())
    }

    /// On a filesystem that keeps attributes by root, on a kernel that has no policy to object.
    fn can_label(directory: &Path) -> bool {
        let set = rustix::fs::setxattr(directory, ATTRIBUTE, b"a_u:b_r:c_t:s0", XattrFlags::empty());
        if let Err(errno) = set {
            println!("skipped: labels can't be set here: {errno}");
        }
        set.is_ok()
    }

    #[test]
    fn a_tree_is_labelled_and_nothing_that_its_links_lead_to() {
        let directory = tempfile::tempdir().unwrap();
        let (tree, outside) = (directory.path().join("tree"), directory.path().join("outside"));
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::create_dir(&outside).unwrap();
        for file in [tree.join("file"), tree.join("a/b/file"), outside.join("file")] {
            fs::write(file, "").unwrap();
        }
        symlink(&outside, tree.join("a/link")).unwrap();
        symlink(outside.join("file"), tree.join("a/file-link")).unwrap();
        rustix::fs::mknodat(CWD, tree.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        if !can_label(&tree) {
            return;
        }
        volume(&tree, LABEL, &AtomicBool::new(false)).unwrap();
        for path in ["", "a", "a/b", "file", "a/b/file", "fifo", "a/link", "a/file-link"] {
            assert_eq!(label(&tree.join(path)).as_deref(), Some(LABEL), "{path}");
        }
        assert_eq!(label(&outside), None);
        assert_eq!(label(&outside.join("file")), None);
    }

    #[test]
    fn what_is_the_systems_is_left_alone_under_every_name() {
        let stop = AtomicBool::new(false);
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("innocent");
        symlink("/etc", &link).unwrap();
        let cases =
            ["/", "/etc", "/etc/hosts", "/usr/../etc/passwd", "/tmp", "/proc/self", "/dev/null", "/var/lib"];
        for path in cases.map(Path::new).into_iter().chain([&*link, &*link.join("hosts")]) {
            let outcome = volume(path, LABEL, &stop);
            assert!(matches!(outcome, Err(Failed::System(_))), "{}: {outcome:?}", path.display());
        }
        assert!(
            !is_system(Path::new("/var/lib/kubelet/pods/1/volumes")) && !is_system(Path::new("/etcetera"))
        );
    }

    #[test]
    fn it_stops_when_it_is_told_to() {
        let directory = tempfile::tempdir().unwrap();
        let outcome = volume(directory.path(), LABEL, &AtomicBool::new(true));
        assert!(matches!(outcome, Err(Failed::Stopped)), "{outcome:?}");
        assert_eq!(label(directory.path()), None);
    }
}
