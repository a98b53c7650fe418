//! Disk space and inodes of things in the store.

use std::collections::HashSet;
use std::ffi::CStr;
use std::io;
use std::ops::{Add, AddAssign};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Disk space and inodes in use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Disk space in bytes.
    pub bytes: u64,
    /// Number of inodes: files, directories and other nodes.
    pub inodes: u64,
}

impl Add for Usage {
    type Output = Usage;

    fn add(self, other: Usage) -> Usage {
        Usage { bytes: self.bytes + other.bytes, inodes: self.inodes + other.inodes }
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Usage) {
        *self = *self + other;
    }
}

/// Directories deeper than this aren't looked into: each level of the walk holds a descriptor, and a container may nest
/// its directories as deep as it likes.
const MAX_DEPTH: usize = 256;

/// Usage of the tree at `path`, itself included, without crossing into other filesystems. What vanishes meanwhile isn't
/// counted, the tree as a whole among it. A file with several links counts once.
pub(crate) fn of_tree(path: &Path) -> io::Result<Usage> {
    of_tree_but(path, "")
}

/// The same without what has the name `but` directly in it.
pub(crate) fn of_tree_but(path: &Path, but: &str) -> io::Result<Usage> {
    match rustix::fs::open(path, DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT) => Ok(Usage::default()),
        opened => of_opened(opened?, but),
    }
}

/// Usage of a file or directory alone. One that isn't there uses nothing.
pub(crate) fn of_node(path: &Path) -> io::Result<Usage> {
    match rustix::fs::lstat(path) {
        Ok(found) => Ok(Usage { bytes: allocated(&found), inodes: 1 }),
        Err(Errno::NOENT) => Ok(Usage::default()),
        Err(errno) => Err(errno.into()),
    }
}

/// The same for the directory behind a descriptor of any kind.
pub(crate) fn of_dir(dir: BorrowedFd<'_>) -> io::Result<Usage> {
    of_opened(rustix::fs::openat(dir, ".", DIRECTORY, Mode::empty())?, "")
}

fn of_opened(root: OwnedFd, but: &str) -> io::Result<Usage> {
    let stat = rustix::fs::fstat(&root)?;
    let mut sum = Usage { bytes: allocated(&stat), inodes: 1 };
    let mut pending = vec![Dir::new(root)?];
    let mut linked = HashSet::new();
    while let (is_top, Some(dir)) = (pending.len() == 1, pending.last_mut()) {
        let Some(entry) = dir.read() else {
            pending.pop();
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") || is_top && name.to_bytes() == but.as_bytes() {
            continue;
        }
        let Ok(found) = rustix::fs::statat(dir.fd()?, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let is_dir = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
        if !is_dir && found.st_nlink > 1 && !linked.insert((found.st_dev, found.st_ino)) {
            continue;
        }
        sum += Usage { bytes: allocated(&found), inodes: 1 };
        if is_dir && found.st_dev == stat.st_dev && pending.len() < MAX_DEPTH {
            descend(&mut pending, name)?;
        }
    }
    Ok(sum)
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Goes into `name` of the last directory, unless it has just vanished.
fn descend(pending: &mut Vec<Dir>, name: &CStr) -> io::Result<()> {
    let Some(dir) = pending.last() else { return Ok(()) };
    match rustix::fs::openat(dir.fd()?, name, DIRECTORY, Mode::empty()) {
        Ok(child) => pending.push(Dir::new(child)?),
        Err(Errno::NOENT | Errno::NOTDIR) => {}
        Err(errno) => return Err(errno.into()),
    }
    Ok(())
}

/// Disk space of one node: `st_blocks` counts units of 512 bytes whatever the filesystem's block size (stat(2)).
fn allocated(stat: &rustix::fs::Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0) * 512
}
