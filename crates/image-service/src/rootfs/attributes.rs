//! Attributes of directories that no layer has described at the top.
//!
//! Overlay shows a directory with the attributes that it has in the topmost layer. Two kinds of directories have none
//! there that anybody chose: the root (the container's own upper directory is always topmost), and directories that a
//! layer's archive uses without describing them (`tmp/x` and no `tmp/`), which would turn a lower layer's 1777 into 0755.
//! Both get a directory in the container's upper directory with the attributes of the topmost layer that describes them.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use crate::layers::Layer;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
const OPAQUE: &str = "trusted.overlay.opaque";

/// A layer's tree, and what its archive didn't describe.
struct View<'a> {
    dir: &'a OwnedFd,
    implied: BTreeSet<&'a str>,
}

/// Gives the upper directory `upper` what it needs so that the layers' attributes show. `layers` come from the lowest
/// upwards, `lowers` are the directories of the topmost of them, from the top downwards.
pub(super) fn copy(upper: &Path, layers: &[Layer], lowers: &[OwnedFd]) -> io::Result<()> {
    let upper = rustix::fs::open(upper, DIRECTORY, Mode::empty())?;
    let view = |(layer, dir)| {
        let layer: &Layer = layer;
        View { dir, implied: layer.record().implied_dirs.iter().map(String::as_str).collect() }
    };
    let views: Vec<View<'_>> = layers.iter().rev().zip(lowers).map(view).collect();
    rustix::fs::fchmod(&upper, Mode::from_raw_mode(0o755))?;
    for path in views.iter().flat_map(|view| &view.implied).copied().chain([""]).collect::<BTreeSet<_>>() {
        if let Some(Found { dir, above }) = described(&views, path)?
            && (above || path.is_empty())
        {
            copy_dir(&upper, &views, path, &dir)?;
        }
    }
    Ok(())
}

/// The directory at a path in the topmost layer that describes it.
struct Found {
    dir: OwnedFd,
    /// Whether layers above have the directory too, without describing it.
    above: bool,
}

fn described(views: &[View<'_>], path: &str) -> io::Result<Option<Found>> {
    let mut above = false;
    for view in views {
        let look = look(view.dir, path)?;
        if let Some(dir) = look.dir {
            if !view.implied.contains(path) {
                return Ok(Some(Found { dir, above }));
            }
            above = true;
        }
        if look.hides {
            break;
        }
    }
    Ok(None)
}

/// What one layer has at a path.
struct Look {
    dir: Option<OwnedFd>,
    /// Whether it hides what the layers below have there.
    hides: bool,
}

fn look(root: &OwnedFd, path: &str) -> io::Result<Look> {
    let mut hides = false;
    let mut here = rustix::fs::openat(root, ".", DIRECTORY, Mode::empty())?;
    for part in path.split('/').filter(|part| !part.is_empty()) {
        match rustix::fs::openat(&here, part, DIRECTORY, Mode::empty()) {
            Ok(dir) => here = dir,
            Err(Errno::NOENT) => return Ok(Look { dir: None, hides }),
            // A whiteout or another file in the directory's place.
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Look { dir: None, hides: true }),
            Err(errno) => return Err(errno.into()),
        }
        hides |= is_opaque(&here)?;
    }
    Ok(Look { dir: Some(here), hides })
}

fn is_opaque(dir: &OwnedFd) -> io::Result<bool> {
    let mut value = [0u8; 1];
    match rustix::fs::fgetxattr(dir, OPAQUE, &mut value) {
        Ok(_) => Ok(value == *b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Makes `path` in the upper directory with the attributes of `source`. Directories on the way get those that they
/// show without it: of the topmost layer that describes them, or else of the topmost that has them.
fn copy_dir(upper: &OwnedFd, views: &[View<'_>], path: &str, source: &OwnedFd) -> io::Result<()> {
    let mut parents = path.match_indices('/').map(|(end, _)| &path[..end]);
    parents.try_for_each(|parent| -> io::Result<()> {
        if exists(upper, parent)? {
            return Ok(());
        }
        let seen = match described(views, parent)? {
            Some(found) => Some(found.dir),
            None => views.iter().find_map(|view| look(view.dir, parent).ok()?.dir),
        };
        match seen {
            Some(seen) => make(upper, parent, &seen),
            None => Ok(rustix::fs::mkdirat(upper, parent, Mode::from_raw_mode(0o755))?),
        }
    })?;
    make(upper, path, source)
}

fn exists(upper: &OwnedFd, path: &str) -> io::Result<bool> {
    match rustix::fs::statat(upper, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn make(upper: &OwnedFd, path: &str, source: &OwnedFd) -> io::Result<()> {
    let name = if path.is_empty() { "." } else { path };
    match rustix::fs::mkdirat(upper, name, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let dir = rustix::fs::openat2(upper, name, DIRECTORY, Mode::empty(), BENEATH)?;
    copy_attributes(source, &dir)
}

/// Gives a file or directory the owner, mode, extended attributes and modification time of another.
pub(super) fn copy_attributes(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let stat = rustix::fs::fstat(from)?;
    rustix::fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    for name in attribute_names(from)? {
        if name.starts_with(b"trusted.overlay.") {
            continue;
        }
        let mut value = Vec::with_capacity(65_536);
        rustix::fs::fgetxattr(from, &name[..], spare_capacity(&mut value))?;
        match rustix::fs::fsetxattr(to, &name[..], &value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(rustix::fs::futimens(to, &times(&stat))?)
}

fn attribute_names(dir: impl AsFd) -> io::Result<Vec<Vec<u8>>> {
    // XATTR_LIST_MAX (linux/limits.h): one call suffices.
    let mut list = Vec::with_capacity(65_536);
    match rustix::fs::flistxattr(dir, spare_capacity(&mut list)) {
        Ok(_) => {}
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(errno) => return Err(errno.into()),
    }
    Ok(list.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
}

pub(super) fn times(stat: &Stat) -> Timestamps {
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0) };
    Timestamps { last_access: time, last_modification: time }
}
