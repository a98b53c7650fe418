//! Layers whose ids are mapped: clones of their mounts that are attached nowhere.
//!
//! The kernel's word for it (mount_setattr(2)) is the caller's to say, who has the user namespace.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Gid, Mode, OFlags, StatVfsMountFlags, Uid};

use crate::error::Error;
use crate::mounting::{Failure, Stage, clone_mount, reopen};

/// Maps the ids of a detached mount.
#[derive(Clone)]
pub struct IdMap(Arc<Map>);

type Map = dyn Fn(BorrowedFd<'_>) -> io::Result<()> + Send + Sync;

impl IdMap {
    /// One that maps by calling `map`.
    pub fn new(map: impl Fn(BorrowedFd<'_>) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self(Arc::new(map))
    }

    pub(super) fn map(&self, mount: &OwnedFd) -> io::Result<()> {
        (self.0)(mount.as_fd())
    }
}

impl std::fmt::Debug for IdMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdMap").finish_non_exhaustive()
    }
}

/// Clones of the mounts of directories, with mapped ids. Before Linux 6.15 only what is attached in the namespace of the
/// thread can be cloned: images of layers are so in `stage`.
pub(super) fn mapped(dirs: &[&OwnedFd], stage: Option<&Stage>, ids: &IdMap) -> Result<Vec<OwnedFd>, Failure> {
    let failed = |cause| (MAPPING, cause);
    match stage {
        None => dirs.iter().map(|dir| map_clone(dir, ids)).collect::<io::Result<_>>().map_err(failed),
        Some(stage) => stage.within(|| {
            let one = |dir: &&OwnedFd| map_clone(&reopen(dir)?, ids);
            dirs.iter().map(one).collect::<io::Result<_>>().map_err(failed)
        }),
    }
}

/// A clone of the mount of one directory, with mapped ids.
pub(super) fn map_clone(dir: &OwnedFd, ids: &IdMap) -> io::Result<OwnedFd> {
    let clone = clone_mount(dir.as_fd())?;
    ids.map(&clone).map(|()| clone)
}

/// Gives a directory to whom root is mapped to: the owner that a directory of root's, `roots`, has when it is mapped.
pub(super) fn give_to_root(dir: &Path, roots: &Path, ids: &IdMap) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let roots = rustix::fs::open(roots, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&map_clone(&roots, ids)?)?;
    Ok(rustix::fs::chown(dir, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?)
}

/// What fails here, in an error's words.
pub(super) const MAPPING: &str = "map the ids of the layers of";

pub(super) fn failed(container: &str, cause: io::Error) -> Error {
    Error::RootfsMount { container: container.to_owned(), action: MAPPING, cause }
}

/// Inodes and blocks below which overlay's working directory is taken to have lacked room: it makes a directory there, and some files to
/// try the filesystem with, one at a time.
const WORK_INODES: u64 = 8;

/// Overlay becomes read-only, without a word, where it can't use its working directory.
pub(super) fn check_writable(root: &OwnedFd, container: &str) -> Result<(), Error> {
    let stat = rustix::fs::fstatvfs(root).map_err(|errno| failed(container, errno.into()))?;
    if !stat.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    // A filesystem that makes inodes as they are needed (btrfs) tells of none.
    let lacks_inodes = stat.f_files > 0 && stat.f_favail < WORK_INODES;
    Err(if lacks_inodes || stat.f_bavail < WORK_INODES {
        let cause = rustix::io::Errno::NOSPC.into();
        Error::NoSpace { what: format!("the root filesystem of container \"{container}\""), cause }
    } else {
        failed(container, io::ErrorKind::ReadOnlyFilesystem.into())
    })
}
