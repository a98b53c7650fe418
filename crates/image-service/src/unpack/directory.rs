//! Layers as plain directories, whiteouts and opaque directories in overlay's own notation.
//!
//! Whatever hides a name of the layers below becomes a character device 0:0 or the attribute
//! `trusted.overlay.opaque=y` (Linux, Documentation/filesystems/overlayfs.rst). Attributes of that namespace in the
//! archive itself are dropped: with them an image could make overlay look into directories it names.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::entry::{Entry, Kind, Time};
use super::tree::{self, Missing, Place, Tree};
use super::{Content, Fault, MAX_IMPLIED, Replaced, Stored, TOO_MANY_IMPLIED, Target, TreePath};
use crate::layers::Unpacked;
use crate::names;
use crate::usage::{self, Usage};

/// Blocks that sizes are rounded up to in the usage of a layer, in bytes: what ext4, xfs and btrfs use by default.
const DISK_BLOCK: u64 = 4096;

/// A layer's directory being filled.
pub(crate) struct DirectoryTarget {
    tree: Tree,
    /// Where files and directories go that a later entry replaces: the recipe of the archive needs what is in them.
    aside: OwnedFd,
    /// What has gone there since somebody asked.
    replaced: Vec<Replaced>,
    /// What directories get at the end: times, which each new entry in them changes; modes and attributes, which new
    /// entries would inherit.
    directories: BTreeMap<TreePath, Attributes>,
    directory_paths: usize,
    usage: Usage,
    /// Something was taken away again, so that `usage` has to be read from the disk.
    recount: bool,
    opaque_root: bool,
    /// User and group that new files belong to.
    creator: (u32, u32),
}

#[derive(Debug)]
struct Attributes {
    mode: u32,
    mtime: Time,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl DirectoryTarget {
    /// A target that fills the empty directory `root`; `aside` is a directory of the same filesystem that gets what was
    /// replaced, and keeps it. The calling thread must have an umask of its own that is 0
    /// ([`own_umask`]), so that modes come out as they are written.
    pub(crate) fn new(root: OwnedFd, aside: OwnedFd) -> DirectoryTarget {
        DirectoryTarget {
            tree: Tree::new(root),
            aside,
            replaced: Vec::new(),
            directories: BTreeMap::new(),
            directory_paths: 0,
            usage: Usage { bytes: DISK_BLOCK, inodes: 1 },
            recount: false,
            opaque_root: false,
            creator: (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
        }
    }

    fn place(&mut self, path: &TreePath, missing: Missing) -> io::Result<(Place, Vec<u8>)> {
        // The root has no parent; every caller has dealt with it.
        let (parent, name) = path.split().ok_or(Errno::INVAL)?;
        let name = name.to_vec();
        Ok((self.tree.place(parent, missing)?, name))
    }

    fn create(&mut self, path: &TreePath, entry: &Entry, content: &mut Content<'_>) -> Result<Stored, Fault> {
        let failed = |cause: io::Error| Fault::create(&entry.name, cause);
        if path.is_root() {
            return match entry.kind {
                Kind::Directory => self.root(entry).map_err(failed).map(|()| Stored::Nothing),
                _ => Err(Fault::refused(&entry.name, "the layer's root must be a directory")),
            };
        }
        let (place, name) = self.place(path, Missing::Create).map_err(failed)?;
        match &entry.kind {
            Kind::Regular { .. } => return self.file(&place, &name, entry, content),
            Kind::HardLink(source) => {
                return self.hard_link(&place, &name, entry, source).map(|()| Stored::Nothing);
            }
            Kind::Directory => {
                return self.directory(&place, &name, entry).map_err(failed).map(|()| Stored::Nothing);
            }
            Kind::Symlink(target) => {
                if target.is_empty() || target.contains(&0) {
                    return Err(Fault::refused(&entry.name, "its link has no valid target"));
                }
                self.make(&place, &name, || rustix::fs::symlinkat(&target[..], &place, &name[..]))
            }
            Kind::CharDevice { major, minor } => {
                self.node(&place, &name, FileType::CharacterDevice, (*major, *minor))
            }
            Kind::BlockDevice { major, minor } => {
                self.node(&place, &name, FileType::BlockDevice, (*major, *minor))
            }
            Kind::Fifo => self.node(&place, &name, FileType::Fifo, (0, 0)),
        }
        .map_err(failed)?;
        self.count(0);
        set_attributes_by_name(&place, &name, entry).map_err(failed).map(|()| Stored::Nothing)
    }

    fn count(&mut self, content: u64) {
        self.usage += Usage { bytes: content.next_multiple_of(DISK_BLOCK), inodes: 1 };
    }

    /// Creates something at a name; if there is something already, in its place.
    fn make<T>(
        &mut self,
        place: &Place,
        name: &[u8],
        create: impl Fn() -> rustix::io::Result<T>,
    ) -> io::Result<T> {
        match create() {
            Err(Errno::EXIST) => {
                self.remove(place, name)?;
                Ok(create()?)
            }
            made => Ok(made?),
        }
    }

    /// Takes away what an earlier entry of this layer made.
    fn remove(&mut self, place: &Place, name: &[u8]) -> io::Result<()> {
        self.recount = true;
        // It may be a link that the last path went through.
        self.tree.forget();
        let path = place.path_of(name);
        let stat = rustix::fs::statat(place, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_size > 0 {
            return self.put_aside(place, name, path);
        }
        match rustix::fs::unlinkat(place, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(errno) => return Err(errno.into()),
        }
        let below = |other: &TreePath| {
            let rest = other.as_bytes().strip_prefix(path.as_bytes());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        self.directories.retain(|other, _| !below(other));
        self.tree.implied.retain(|other| !below(other));
        // Aside, whole: deleting it could take as many descriptors as it has levels.
        self.put_aside(place, name, path)
    }

    /// Keeps what has content, for the recipe of the archive. A file that has other names in the layer counts this one among
    /// its links from then on: a copy of its own would let an archive of a few headers fill the disk.
    fn put_aside(&mut self, place: &Place, name: &[u8], path: TreePath) -> io::Result<()> {
        let aside = names::unique();
        rustix::fs::renameat(place, name, &self.aside, &aside)?;
        self.replaced.push(Replaced { path, name: aside });
        Ok(())
    }

    fn node(
        &mut self,
        place: &Place,
        name: &[u8],
        kind: FileType,
        (major, minor): (u32, u32),
    ) -> io::Result<()> {
        let device = rustix::fs::makedev(major, minor);
        self.make(place, name, || rustix::fs::mknodat(place, name, kind, Mode::from_raw_mode(0o600), device))
    }

    fn file(
        &mut self,
        place: &Place,
        name: &[u8],
        entry: &Entry,
        content: &mut Content<'_>,
    ) -> Result<Stored, Fault> {
        let failed = |cause: io::Error| Fault::create(&entry.name, cause);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let file = self.make(place, name, || rustix::fs::openat(place, name, flags, mode)).map_err(failed)?;
        let stored = copy(&file, entry, content)?;
        self.count(stored);
        set_attributes(file.as_fd(), entry, self.creator).map_err(failed)?;
        Ok(if stored == 0 { Stored::Nothing } else { Stored::File(place.path_of(name)) })
    }

    fn hard_link(&mut self, place: &Place, name: &[u8], entry: &Entry, source: &[u8]) -> Result<(), Fault> {
        let refused = |reason| Fault::refused(&entry.name, reason);
        let failed = |cause: io::Error| Fault::create(&entry.name, cause);
        let source =
            TreePath::parse(source).map_err(|_| refused("it is a hard link to a path outside the layer"))?;
        let missing = "it is a hard link to a file that the layer doesn't have";
        if source.is_root() {
            return Err(refused(missing));
        }
        let (from, from_name) = match self.place(&source, Missing::Fail) {
            Ok(found) => found,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Err(refused(missing)),
            Err(cause) => return Err(failed(cause)),
        };
        if from.path_of(&from_name) == place.path_of(name) {
            return Err(refused("it is a hard link to itself"));
        }
        let is_dir = |stat: rustix::fs::Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        match rustix::fs::statat(&from, &from_name[..], AtFlags::SYMLINK_NOFOLLOW).map(is_dir) {
            Ok(false) => {}
            Ok(true) => return Err(refused("it is a hard link to a directory")),
            Err(Errno::NOENT) => return Err(refused(missing)),
            Err(errno) => return Err(failed(errno.into())),
        }
        let link = || rustix::fs::linkat(&from, &from_name[..], place, name, AtFlags::empty());
        // The file's attributes are those of its first entry: a link has none of its own.
        self.make(place, name, link).map_err(failed)
    }

    fn directory(&mut self, place: &Place, name: &[u8], entry: &Entry) -> io::Result<()> {
        let make = || rustix::fs::mkdirat(place, name, Mode::from_raw_mode(0o700));
        match make() {
            Ok(()) => self.count(DISK_BLOCK),
            Err(Errno::EXIST) => {
                let stat = rustix::fs::statat(place, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    let hides = tree::is_whiteout(place, name)?;
                    self.remove(place, name)?;
                    make()?;
                    if hides {
                        // What the layers below have at this name was hidden, and stays so.
                        tree::set_opaque(place, name)?;
                    }
                }
            }
            Err(errno) => return Err(errno.into()),
        }
        chown_by_name(place, name, entry)?;
        self.later(place.path_of(name), entry)
    }

    fn root(&mut self, entry: &Entry) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        let empty = AtFlags::EMPTY_PATH;
        rustix::fs::chownat(self.tree.root(), "", Some(uid), Some(gid), empty)?;
        self.later(TreePath::default(), entry)
    }

    /// Keeps a directory's attributes for the end.
    fn later(&mut self, path: TreePath, entry: &Entry) -> io::Result<()> {
        self.tree.implied.remove(&path);
        self.directory_paths += path.as_bytes().len();
        if self.directory_paths > tree::MAX_PATHS {
            return Err(tree::too_many_paths());
        }
        let attributes = Attributes { mode: entry.mode, mtime: entry.mtime, xattrs: entry.xattrs.clone() };
        self.directories.insert(path, attributes);
        Ok(())
    }

    fn finish_directory(&self, path: &TreePath, attributes: &Attributes) -> io::Result<()> {
        let Some(dir) = self.tree.open_dir(path)? else { return Ok(()) };
        rustix::fs::fchmod(&dir, Mode::from_raw_mode(attributes.mode))?;
        set_xattrs(&attributes.xattrs, |name, value| {
            rustix::fs::fsetxattr(&dir, name, value, XattrFlags::empty())
        })?;
        Ok(rustix::fs::futimens(&dir, &times(attributes.mtime))?)
    }
}

impl Target for DirectoryTarget {
    fn add(&mut self, path: &TreePath, entry: &Entry, content: &mut Content<'_>) -> Result<Stored, Fault> {
        self.create(path, entry, content)
    }

    fn whiteout(&mut self, path: &TreePath) -> Result<(), Fault> {
        let failed = |cause: io::Error| Fault::create(path.as_bytes(), cause);
        let (place, name) = self.place(path, Missing::Create).map_err(failed)?;
        let mode = Mode::from_raw_mode(0);
        match rustix::fs::mknodat(&place, &name[..], FileType::CharacterDevice, mode, 0) {
            Ok(()) => {
                self.count(0);
                Ok(())
            }
            // It is there in this layer too, and hides what is below: wholly if it is a directory.
            Err(Errno::EXIST) => match tree::set_opaque(&place, &name) {
                Err(cause) if cause.kind() != io::ErrorKind::NotADirectory => Err(failed(cause)),
                _ => Ok(()),
            },
            Err(errno) => Err(failed(errno.into())),
        }
    }

    fn opaque(&mut self, path: &TreePath) -> Result<(), Fault> {
        let failed = |cause: io::Error| Fault::create(path.as_bytes(), cause);
        if path.is_root() {
            // Overlay doesn't look at this mark on a layer's root; who mounts it leaves out the layers below.
            self.opaque_root = true;
            return Ok(());
        }
        let place = self.tree.place(path.as_bytes(), Missing::Create).map_err(failed)?;
        tree::set_opaque(&place, b".").map_err(failed)
    }

    fn replaced(&mut self) -> Vec<Replaced> {
        std::mem::take(&mut self.replaced)
    }

    fn finish(&mut self) -> Result<Unpacked, Fault> {
        let implied: usize = self.tree.implied.iter().map(|path| path.as_bytes().len()).sum();
        if implied > MAX_IMPLIED {
            return Err(TOO_MANY_IMPLIED);
        }
        // Those deeper down first: they sort after the ones above them.
        for (path, attributes) in self.directories.iter().rev() {
            self.finish_directory(path, attributes).map_err(|cause| Fault::create(path.as_bytes(), cause))?;
        }
        let implied = &self.tree.implied;
        let failed = |cause: io::Error| Fault::create(b"", cause);
        let usage =
            if self.recount { usage::of_dir(self.tree.root().as_fd()).map_err(failed)? } else { self.usage };
        let text = |path: &TreePath| String::from_utf8(path.as_bytes().to_vec()).ok();
        Ok(Unpacked {
            usage,
            opaque_root: self.opaque_root,
            implied_dirs: implied.iter().filter_map(text).collect(),
            checksums: Vec::new(),
        })
    }
}

/// Gives the calling thread an umask of its own, 0. Other threads keep the process's.
pub(crate) fn own_umask() -> io::Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
    rustix::process::umask(Mode::empty());
    Ok(())
}

/// Writes the content; returns how many bytes of it the archive had.
fn copy(file: &OwnedFd, entry: &Entry, content: &mut Content<'_>) -> Result<u64, Fault> {
    let failed = |cause: io::Error| Fault::create(&entry.name, cause);
    let (mut stored, mut end) = (0, 0);
    while let Some(part) = content.next_part()? {
        let (mut offset, mut bytes) = (part.offset, part.bytes);
        while !bytes.is_empty() {
            let count = match rustix::io::pwrite(file, bytes, offset) {
                Err(Errno::INTR) => continue,
                count => count.map_err(|errno| failed(errno.into()))?,
            };
            bytes = &bytes[count..];
            offset += count as u64;
        }
        stored += part.bytes.len() as u64;
        end = offset;
    }
    if let Kind::Regular { size, .. } = entry.kind
        && end < size
    {
        rustix::fs::ftruncate(file, size).map_err(|errno| failed(errno.into()))?;
    }
    Ok(stored)
}

/// Owner, mode, extended attributes, times: in this order, since changing the owner takes setuid and capabilities away.
fn set_attributes(file: BorrowedFd<'_>, entry: &Entry, creator: (u32, u32)) -> io::Result<()> {
    if (entry.uid, entry.gid) != creator {
        rustix::fs::fchown(file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))?;
    }
    if entry.mode & 0o7000 != 0 {
        rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode))?;
    }
    set_xattrs(&entry.xattrs, |name, value| rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()))?;
    Ok(rustix::fs::futimens(file, &times(entry.mtime))?)
}

/// The same for what can't be opened without effects: links, devices and pipes.
fn set_attributes_by_name(place: &Place, name: &[u8], entry: &Entry) -> io::Result<()> {
    chown_by_name(place, name, entry)?;
    if !matches!(entry.kind, Kind::Symlink(_)) {
        rustix::fs::chmodat(place, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
    }
    if !entry.xattrs.is_empty() {
        // There is no setxattrat before Linux 6.13; through the parent's descriptor nothing else can be meant.
        let mut path = format!("/proc/self/fd/{}/", place.dir.as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        set_xattrs(&entry.xattrs, |name, value| {
            match rustix::fs::lsetxattr(&path[..], name, value, XattrFlags::empty()) {
                // The kernel has user attributes on files and directories only (xattr(7)).
                Err(Errno::PERM) if name.starts_with(b"user.") => Ok(()),
                set => set,
            }
        })?;
    }
    Ok(rustix::fs::utimensat(place, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn chown_by_name(place: &Place, name: &[u8], entry: &Entry) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    Ok(rustix::fs::chownat(place, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Sets attributes, without those that would speak to overlay or that belong to the host's security policy, and
/// without those that the filesystem doesn't know.
fn set_xattrs(
    xattrs: &[(Vec<u8>, Vec<u8>)],
    set: impl Fn(&[u8], &[u8]) -> rustix::io::Result<()>,
) -> io::Result<()> {
    for (name, value) in xattrs {
        if name.starts_with(b"trusted.overlay.") || name == b"security.selinux" {
            continue;
        }
        match set(name, value) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Modification time; the access time is set to the same, so that a layer doesn't depend on when it was unpacked.
fn times(mtime: Time) -> Timestamps {
    let time = Timespec { tv_sec: mtime.seconds, tv_nsec: i64::from(mtime.nanoseconds) };
    Timestamps { last_access: time, last_modification: time }
}
