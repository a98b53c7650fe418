//! Copying a tree of an image: owners, modes, times, extended attributes, holes, links between its files.
//!
//! Every name is opened relative to the directory that it was read from, and no link is followed, so nothing in the tree
//! leads out of it. The target is nobody else's yet.

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

use super::attributes::{copy_attributes, times};

/// Deeper trees are refused: each level holds two descriptors.
const MAX_DEPTH: usize = 256;

/// Larger trees are refused: a volume's first content is copied while somebody waits for a container.
const MAX_NODES: u64 = 1 << 20;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Copies what is in a directory, and the directory's own attributes, into an empty one.
pub(super) fn tree(from: OwnedFd, to: OwnedFd) -> io::Result<()> {
    let root = to.try_clone()?;
    let mut copy = Copy { root, linked: HashMap::new(), nodes: 0 };
    let mut pending = vec![Level::open(from, to, PathBuf::new())?];
    while let Some(level) = pending.last_mut() {
        match level.entries.read() {
            Some(entry) => {
                let entry = entry?;
                let name = entry.file_name().to_owned();
                if matches!(name.to_bytes(), b"." | b"..") {
                    continue;
                }
                if let Some(below) = copy.node(level, &name)? {
                    if pending.len() >= MAX_DEPTH {
                        return Err(io::Error::other(format!("it is deeper than {MAX_DEPTH} directories")));
                    }
                    pending.push(below);
                }
            }
            None => {
                // Last, for making what is in it changes a directory's time.
                copy_attributes(&level.from, &level.to)?;
                pending.pop();
            }
        }
    }
    Ok(())
}

/// A directory that is being copied.
struct Level {
    entries: Dir,
    from: OwnedFd,
    to: OwnedFd,
    /// Where it is in the target.
    path: PathBuf,
}

impl Level {
    fn open(from: OwnedFd, to: OwnedFd, path: PathBuf) -> io::Result<Self> {
        Ok(Self { entries: Dir::read_from(&from)?, from, to, path })
    }
}

struct Copy {
    root: OwnedFd,
    /// Files with several names, by device and inode: where the first copy is.
    linked: HashMap<(u64, u64), PathBuf>,
    nodes: u64,
}

impl Copy {
    /// Copies one node; a directory is made, and given back to be gone through.
    fn node(&mut self, level: &Level, name: &CString) -> io::Result<Option<Level>> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(io::Error::other(format!("it has more than {MAX_NODES} files")));
        }
        let stat = rustix::fs::statat(&level.from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let path = level.path.join(OsStr::from_bytes(name.to_bytes()));
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            rustix::fs::mkdirat(&level.to, name, Mode::from_raw_mode(0o700))?;
            let from = rustix::fs::openat(&level.from, name, DIRECTORY, Mode::empty())?;
            let to = rustix::fs::openat(&level.to, name, DIRECTORY, Mode::empty())?;
            return Level::open(from, to, path).map(Some);
        }
        if stat.st_nlink > 1 && self.link(level, name, (&stat, &path))? {
            return Ok(None);
        }
        match kind {
            FileType::RegularFile => file(level, name)?,
            _ => other(level, name, &stat)?,
        }
        Ok(None)
    }

    /// Links a file to its copy under another name, if there is one already.
    fn link(&mut self, level: &Level, name: &CString, (stat, path): (&Stat, &Path)) -> io::Result<bool> {
        match self.linked.get(&(stat.st_dev, stat.st_ino)) {
            Some(first) => {
                rustix::fs::linkat(&self.root, first, &level.to, name, AtFlags::empty())?;
                Ok(true)
            }
            None => {
                self.linked.insert((stat.st_dev, stat.st_ino), path.to_owned());
                Ok(false)
            }
        }
    }
}

fn file(level: &Level, name: &CString) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let from = rustix::fs::openat(&level.from, name, flags, Mode::empty())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let to = rustix::fs::openat(&level.to, name, flags, Mode::from_raw_mode(0o600))?;
    let (mut from, mut to) = (File::from(from), File::from(to));
    content(&mut from, &mut to)?;
    copy_attributes(&from.into(), &to.into())
}

/// Copies what is written of a file and leaves its holes holes: an image may have a file of a tebibyte without a byte in it.
fn content(from: &mut File, to: &mut File) -> io::Result<()> {
    let length = from.metadata()?.len();
    let mut at = 0;
    while at < length {
        let begin = match rustix::fs::seek(from.as_fd(), rustix::fs::SeekFrom::Data(at)) {
            Ok(begin) => begin,
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let end = rustix::fs::seek(from.as_fd(), rustix::fs::SeekFrom::Hole(begin))?;
        from.seek(SeekFrom::Start(begin))?;
        to.seek(SeekFrom::Start(begin))?;
        io::copy(&mut (&*from).take(end - begin), to)?;
        at = end;
    }
    to.set_len(length)
}

/// A symbolic link, device, pipe or socket.
fn other(level: &Level, name: &CString, stat: &Stat) -> io::Result<()> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind == FileType::Symlink {
        let target = rustix::fs::readlinkat(&level.from, name, Vec::new())?;
        rustix::fs::symlinkat(&target, &level.to, name)?;
    } else {
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        rustix::fs::mknodat(&level.to, name, kind, mode, stat.st_rdev)?;
    }
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(&level.to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if kind != FileType::Symlink {
        // The mask took bits from it when it was made, and the new owner others.
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        rustix::fs::chmodat(&level.to, name, mode, AtFlags::empty())?;
    }
    Ok(rustix::fs::utimensat(&level.to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        rustix::fs::open(path, DIRECTORY, Mode::empty()).unwrap()
    }

    fn copied(make: impl FnOnce(&Path)) -> (tempfile::TempDir, io::Result<()>) {
        let dir = tempfile::tempdir().unwrap();
        for name in ["from", "to"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        make(&dir.path().join("from"));
        let outcome = tree(open(&dir.path().join("from")), open(&dir.path().join("to")));
        (dir, outcome)
    }

    #[test]
    fn a_copy_is_what_the_tree_was() {
        let (dir, outcome) = copied(|from| {
            std::fs::create_dir(from.join("sub")).unwrap();
            std::fs::write(from.join("sub/file"), "content").unwrap();
            std::fs::hard_link(from.join("sub/file"), from.join("other-name")).unwrap();
            symlink("/etc/passwd", from.join("out")).unwrap();
            symlink("../../..", from.join("sub/up")).unwrap();
            std::fs::set_permissions(from.join("sub/file"), PermissionsExt::from_mode(0o4755)).unwrap();
            std::fs::set_permissions(from, PermissionsExt::from_mode(0o1777)).unwrap();
            let sparse = File::create(from.join("sparse")).unwrap();
            sparse.set_len(1 << 40).unwrap();
        });
        outcome.unwrap();
        let to = dir.path().join("to");
        assert_eq!(std::fs::read_to_string(to.join("sub/file")).unwrap(), "content");
        let file = std::fs::metadata(to.join("sub/file")).unwrap();
        assert_eq!((file.mode() & 0o7777, file.nlink()), (0o4755, 2));
        assert_eq!(file.ino(), std::fs::metadata(to.join("other-name")).unwrap().ino());
        assert_eq!(std::fs::read_link(to.join("out")).unwrap(), Path::new("/etc/passwd"));
        assert_eq!(std::fs::read_link(to.join("sub/up")).unwrap(), Path::new("../../.."));
        let sparse = std::fs::metadata(to.join("sparse")).unwrap();
        assert_eq!((sparse.len(), sparse.blocks()), (1 << 40, 0), "a hole stays one");
        let root = std::fs::metadata(&to).unwrap();
        assert_eq!(root.mode() & 0o7777, 0o1777);
        assert_eq!(root.mtime(), std::fs::metadata(dir.path().join("from")).unwrap().mtime());
    }

    #[test]
    fn a_tree_without_an_end_is_refused() {
        let (_dir, outcome) = copied(|from| {
            let deep: PathBuf = std::iter::repeat_n("d", MAX_DEPTH + 1).collect();
            std::fs::create_dir_all(from.join(deep)).unwrap();
        });
        assert!(outcome.unwrap_err().to_string().contains("deeper than 256"));
    }
}
