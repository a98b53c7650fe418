//! Finding places in a layer's directory without ever leaving it.
//!
//! All paths start at a descriptor of the layer's root. The usual case is one `openat2` that refuses symbolic links.
//! Where an archive puts a file behind a link of its own (`lib -> usr/lib`, then `lib/x`: images made of packages do),
//! the link is followed by hand, step by step, with the layer's root as `/`; so it may lead anywhere in the layer, and
//! nowhere else. Nobody else writes here, but should somebody: every step is relative to a descriptor and follows no link.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, XattrFlags};
use rustix::io::Errno;

use super::path::TreePath;

/// Overlay's mark of a directory that hides those below it (Linux, Documentation/filesystems/overlayfs.rst).
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";

/// Links on one path before it is taken for a loop; the kernel's own bound (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Directories on one path of those that are walked step by step, each of which holds a descriptor meanwhile.
const MAX_DEPTH: usize = 256;

/// Bytes of paths of directories that are kept until the layer's end, be it because their attributes are set then, or because no
/// entry has described them yet. Beyond that an archive isn't an image but an attack on the memory.
pub(super) const MAX_PATHS: usize = 256 * 1024 * 1024;

/// Flags of a descriptor that is only a place to start from.
const PLACE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How a path within the layer is walked by one call.
const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// A directory of the layer, with the path that it really has.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) dir: Rc<OwnedFd>,
    path: Rc<[u8]>,
}

impl Place {
    /// The real path of `name` in this directory.
    pub(crate) fn path_of(&self, name: &[u8]) -> TreePath {
        TreePath::join(&self.path, name)
    }
}

impl AsFd for Place {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// What to do about directories that a path needs and the layer lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Make them, 0755.
    Create,
    /// There's no such place.
    Fail,
}

/// The directory tree of one layer.
#[derive(Debug)]
pub(crate) struct Tree {
    root: Place,
    /// The parent of the last entry, which mostly is that of the next: archives are written directory by directory.
    last: Option<(Vec<u8>, Place)>,
    /// Directories that were made because a path needs them; the archive may still describe them later.
    pub(crate) implied: BTreeSet<TreePath>,
    /// Bytes of all paths that ever were among them.
    implied_bytes: usize,
}

impl Tree {
    pub(crate) fn new(root: OwnedFd) -> Tree {
        let root = Place { dir: Rc::new(root), path: Rc::from(&b""[..]) };
        Tree { root, last: None, implied: BTreeSet::from([TreePath::default()]), implied_bytes: 0 }
    }

    pub(crate) fn root(&self) -> &Place {
        &self.root
    }

    /// Forgets descriptors of directories that may have been replaced.
    pub(crate) fn forget(&mut self) {
        self.last = None;
    }

    /// The directory with the path `path`, which is a parent as [`TreePath::split`] gives it.
    pub(crate) fn place(&mut self, path: &[u8], missing: Missing) -> io::Result<Place> {
        if path.is_empty() {
            return Ok(self.root.clone());
        }
        if let Some((last, place)) = &self.last
            && last == path
        {
            return Ok(place.clone());
        }
        let place = match rustix::fs::openat2(&self.root, path, PLACE, Mode::empty(), BENEATH) {
            Ok(dir) => Place { dir: Rc::new(dir), path: Rc::from(path) },
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => {
                walk(self.root.clone(), path, |here, part| self.step(here, part, missing))?
            }
            Err(errno) => return Err(errno.into()),
        };
        self.last = Some((path.to_owned(), place.clone()));
        Ok(place)
    }

    /// Opens a directory by its real path for reading its attributes and setting them. None if it's no directory (any
    /// more).
    pub(crate) fn open_dir(&self, path: &TreePath) -> io::Result<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = if path.is_root() { b"." } else { path.as_bytes() };
        match rustix::fs::openat2(&self.root, name, flags, Mode::empty(), BENEATH) {
            Ok(dir) => Ok(Some(dir)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn imply(&mut self, path: TreePath) -> io::Result<()> {
        self.implied_bytes += path.as_bytes().len() + size_of::<TreePath>();
        if self.implied_bytes > MAX_PATHS {
            return Err(too_many_paths());
        }
        self.implied.insert(path);
        Ok(())
    }

    fn step(&mut self, here: &Place, part: &[u8], missing: Missing) -> io::Result<Step<Place>> {
        let down = |dir: OwnedFd| {
            let path = here.path_of(part);
            Step::Down(Place { dir: Rc::new(dir), path: Rc::from(path.as_bytes()) })
        };
        match rustix::fs::openat(here, part, PLACE, Mode::empty()) {
            Ok(dir) => return Ok(down(dir)),
            Err(Errno::NOENT) if missing == Missing::Create => {}
            Err(Errno::NOTDIR | Errno::LOOP) => match rustix::fs::readlinkat(here, part, Vec::new()) {
                Ok(target) => return Ok(Step::Link(target.into_bytes())),
                // The layer hides what was there and now has something of its own there.
                Err(Errno::INVAL) if missing == Missing::Create && is_whiteout(here, part)? => {
                    rustix::fs::unlinkat(here, part, AtFlags::empty())?;
                    rustix::fs::mkdirat(here, part, Mode::from_raw_mode(0o755))?;
                    self.imply(here.path_of(part))?;
                    let dir = rustix::fs::openat(here, part, PLACE | OFlags::RDONLY, Mode::empty())?;
                    set_opaque(here, part)?;
                    return Ok(down(dir));
                }
                Err(Errno::INVAL) => return Err(Errno::NOTDIR.into()),
                Err(errno) => return Err(errno.into()),
            },
            Err(errno) => return Err(errno.into()),
        }
        rustix::fs::mkdirat(here, part, Mode::from_raw_mode(0o755))?;
        self.imply(here.path_of(part))?;
        Ok(down(rustix::fs::openat(here, part, PLACE, Mode::empty())?))
    }
}

/// What a part of a path leads to.
pub(super) enum Step<P> {
    /// A directory.
    Down(P),
    /// A link to this path.
    Link(Vec<u8>),
}

/// Goes down from a layer's root part by part, through links within the layer, for which the root is `/`.
pub(super) fn walk<P: Clone>(
    root: P,
    path: &[u8],
    mut step: impl FnMut(&P, &[u8]) -> io::Result<Step<P>>,
) -> io::Result<P> {
    let mut ahead: VecDeque<Vec<u8>> = parts(path).map(<[u8]>::to_vec).collect();
    let mut trail = vec![root.clone()];
    let mut links = 0;
    while let Some(part) = ahead.pop_front() {
        if part == b".." {
            if trail.len() > 1 {
                trail.pop();
            }
            continue;
        }
        if trail.len() > MAX_DEPTH {
            return Err(Errno::NAMETOOLONG.into());
        }
        match step(trail.last().unwrap_or(&root), &part)? {
            Step::Down(place) => trail.push(place),
            Step::Link(target) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP.into());
                }
                if target.starts_with(b"/") {
                    trail.truncate(1);
                }
                for part in parts(&target).rev() {
                    ahead.push_front(part.to_vec());
                }
            }
        }
    }
    Ok(trail.pop().unwrap_or(root))
}

/// That there are more of them.
pub(super) fn too_many_paths() -> io::Error {
    io::Error::other("the paths of its directories take more than 256 MiB")
}

pub(super) fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."))
}

/// Whether there is overlay's mark of a hidden name: a character device 0:0.
pub(crate) fn is_whiteout(parent: impl AsFd, name: &[u8]) -> io::Result<bool> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => {
            Ok(FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0)
        }
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Marks the directory `name` of `parent` as hiding those of the layers below.
pub(crate) fn set_opaque(parent: impl AsFd, name: &[u8]) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    Ok(rustix::fs::fsetxattr(&dir, OPAQUE, b"y", XattrFlags::empty())?)
}
