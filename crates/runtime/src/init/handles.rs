//! Descriptors of the host that a child takes along before it loses sight of it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, fstatfs, openat, openat2};
use rustix::io::Errno;

use crate::{FailedStep, Failure, FailureKind};

/// The host's procfs. Kernel parameters and security labels are written through it and never through the
/// /proc of a container, where a volume may lie in the way (CVE-2025-52881).
#[derive(Debug)]
pub(crate) struct Procfs {
    root: OwnedFd,
}

/// Inode number of procfs' root (linux/proc_ns.h, PROC_ROOT_INO).
const PROC_ROOT_INODE: u64 = 1;

impl AsFd for Procfs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

impl Procfs {
    pub(crate) fn open() -> Result<Self, Failure> {
        let failed = |errno| Failure::system(FailedStep::Prepare, errno, "/proc");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = openat(CWD, "/proc", flags, Mode::empty()).map_err(failed)?;
        if !is_procfs(&root).map_err(failed)? || fstat(&root).map_err(failed)?.st_ino != PROC_ROOT_INODE {
            return Err(Failure {
                kind: FailureKind::Unsafe,
                step: FailedStep::Prepare,
                errno: None,
                subject: "/proc".to_owned(),
            });
        }
        Ok(Self { root })
    }

    /// Whether there is something below it.
    pub(super) fn has(&self, path: &str) -> Result<bool, Errno> {
        match self.open_file(path, OFlags::PATH) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Writes a file below it, as one write.
    pub(crate) fn write(&self, path: &str, value: &[u8]) -> Result<(), Errno> {
        let file = self.open_file(path, OFlags::WRONLY)?;
        rustix::io::retry_on_intr(|| rustix::io::write(&file, value)).map(drop)
    }

    fn open_file(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        // `self` is a symbolic link, but not a magic one.
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    /// Opens one of the caller's namespaces; these are magic links.
    pub(crate) fn namespace(&self, name: &str) -> Result<OwnedFd, Errno> {
        openat(&self.root, format!("self/ns/{name}"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    }

    /// Device and inode of the running executable.
    pub(crate) fn executable(&self) -> Result<(u64, u64), Errno> {
        let stat = rustix::fs::statat(&self.root, "self/exe", rustix::fs::AtFlags::empty())?;
        Ok((stat.st_dev, stat.st_ino))
    }
}

pub(super) fn is_procfs(place: impl AsFd) -> Result<bool, Errno> {
    Ok(fstatfs(place)?.f_type == rustix::fs::PROC_SUPER_MAGIC)
}
