//! Limits of what a container writes: its directory (the writable layer, overlay's own, volumes that the image declares) is
//! a project of xfs, which counts it and refuses it more.
//!
//! The kernel's account is the only one: a project is free when nothing belongs to it, and whose it is stands at the
//! directory. So nothing is left over when this process is killed, and no list can be wrong.
//! What a container has written is measured all the same: outside of a user namespace the kernel lets the owner of a file give
//! it to another project.
//! Only xfs: ext4 has projects too, but lets whoever may use more resources pass their limits, and overlay writes as who
//! mounted it.

use std::fmt::Debug;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{CWD, Mode, OFlags};

use crate::error::Error;
use crate::layers::{make_private_dir, store};
use crate::names;
use crate::usage::Usage;

/// `statfs` of xfs (linux/magic.h, XFS_SUPER_MAGIC).
const XFS: i64 = 0x5846_5342;

/// The first project that a container gets, out of the way of what administrators number by hand and of kubelet's own, which
/// begin at 1048577.
const FIRST: u32 = 1 << 30;
/// Projects that are looked at in order, in search of a free one. They stay dense, since xfs keeps a block for each that
/// somebody ever had.
const IN_ORDER: u32 = 1 << 16;
/// Projects anywhere that are looked at when somebody has given a file to each of those.
const ANYWHERE: usize = 1 << 10;

/// The calls about projects, each for the filesystem of an open file or directory. Handed in by whoever opens the store,
/// since they have no safe form.
pub trait ProjectQuotas: Debug + Send + Sync {
    /// Whether projects are counted there, and refused more than they may have.
    fn is_enforced(&self, place: BorrowedFd<'_>) -> io::Result<bool>;
    /// The project that the directory hands on to what is made in it.
    fn of_directory(&self, directory: BorrowedFd<'_>) -> io::Result<Option<u32>>;
    /// Has the directory, and what is made in it from now on, belong to a project.
    fn give(&self, directory: BorrowedFd<'_>, project: u32) -> io::Result<()>;
    /// What a project takes.
    fn usage(&self, place: BorrowedFd<'_>, project: u32) -> io::Result<Usage>;
    /// Sets what it may take; zero is no limit.
    fn limit(&self, place: BorrowedFd<'_>, project: u32, most: Usage) -> io::Result<()>;
}

/// How much each container may write.
#[derive(Debug, Clone)]
pub struct WritableLimit {
    /// Disk space and inodes; zero is no limit.
    pub most: Usage,
    /// Who bounds it.
    pub quotas: Arc<dyn ProjectQuotas>,
}

impl WritableLimit {
    /// Tells whether containers can be limited in `dir`, or the nearest directory above it that is there.
    ///
    /// # Errors
    /// [`Error::Store`] says why not.
    pub fn check(&self, dir: &Path) -> Result<(), Error> {
        let failed = |cause| store("limit what containers write in", dir, cause);
        let there = dir.ancestors().find(|dir| dir.exists()).unwrap_or(dir);
        let opened = open(there).map_err(failed)?;
        self.check_opened(&opened).map_err(failed)
    }

    fn check_opened(&self, dir: &OwnedFd) -> io::Result<()> {
        let refused = |why: &str| Err(io::Error::new(io::ErrorKind::Unsupported, why.to_owned()));
        if rustix::fs::fstatfs(dir)?.f_type != XFS {
            return refused("it is not on xfs");
        }
        if !self.quotas.is_enforced(dir.as_fd())? {
            return refused(
                "its file system is not mounted with prjquota, or this kernel's xfs has no quotas",
            );
        }
        match self.quotas.of_directory(dir.as_fd())? {
            // Nothing could be renamed into it, or removed.
            Some(_) => refused("it belongs to a project of its own, whose id is inherited"),
            None => Ok(()),
        }
    }
}

/// Gives containers their limits; without one, does nothing.
#[derive(Debug)]
pub(super) struct Limiter {
    limit: Option<WritableLimit>,
    /// Held from finding a free project until something belongs to it.
    claims: Mutex<()>,
}

impl Limiter {
    /// For containers whose directories are in `dir`.
    ///
    /// # Errors
    /// As [`WritableLimit::check`].
    pub(super) fn new(limit: Option<WritableLimit>, dir: &Path) -> Result<Limiter, Error> {
        if let Some(limit) = &limit {
            limit.check(dir)?;
        }
        let limiter = Limiter { limit, claims: Mutex::default() };
        limiter.try_out(dir)?;
        Ok(limiter)
    }

    /// Limits a directory and removes it.
    fn try_out(&self, dir: &Path) -> Result<(), Error> {
        if self.limit.is_none() {
            return Ok(());
        }
        let trial = dir.join(format!(".new-{}", names::unique()));
        make_private_dir(&trial)?;
        let tried = self.apply(&trial);
        // What stays is removed with all that a crash leaves.
        let _ = std::fs::remove_dir(&trial);
        tried
    }

    /// Limits what will be made in the empty directory `dir`.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::NoSpace`].
    pub(super) fn apply(&self, dir: &Path) -> Result<(), Error> {
        let Some(limit) = &self.limit else { return Ok(()) };
        let claim = || {
            let dir = open(dir)?;
            let _claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
            limit.claim(dir.as_fd())
        };
        claim().map_err(|cause| store("limit what is written in", dir, cause))
    }

    /// An error of filling a container's directory, in words that tell its limit from a full disk.
    pub(super) fn explain(&self, error: Error, dir: &Path) -> Error {
        match (error, &self.limit) {
            (Error::NoSpace { what, cause }, Some(limit)) if limit.is_reached(dir) => {
                let Usage { bytes, inodes } = limit.most;
                let what =
                    format!("{what}, of the {bytes} bytes and {inodes} inodes that a container may write");
                Error::NoSpace { what, cause }
            }
            (error, _) => error,
        }
    }
}

impl WritableLimit {
    /// Has the empty directory belong to a project that nothing belongs to, with the limit. What was removed belongs to its
    /// project until its space is free.
    fn claim(&self, dir: BorrowedFd<'_>) -> io::Result<()> {
        let quotas = &*self.quotas;
        for project in (FIRST..FIRST + IN_ORDER).chain(std::iter::repeat_with(anywhere).take(ANYWHERE)) {
            if quotas.usage(dir, project)?.inodes > 0 {
                continue;
            }
            quotas.limit(dir, project, self.most)?;
            quotas.give(dir, project)?;
            // Another daemon on the same filesystem may have been as quick.
            if quotas.usage(dir, project)?.inodes == 1 {
                return Ok(());
            }
        }
        Err(io::Error::new(io::ErrorKind::QuotaExceeded, "all projects are in use"))
    }

    /// Whether the limit leaves a container nothing to speak of.
    fn is_reached(&self, dir: &Path) -> bool {
        let used = || {
            let dir = open(dir).ok()?;
            let project = self.quotas.of_directory(dir.as_fd()).ok()??;
            self.quotas.usage(dir.as_fd(), project).ok()
        };
        // A write that is refused leaves what it would have needed.
        let reached = |used: u64, most: u64| most > 0 && used >= most - most / 8;
        used().is_some_and(|used| {
            reached(used.bytes, self.most.bytes) || reached(used.inodes, self.most.inodes)
        })
    }
}

/// Any project but those that are looked at in order.
fn anywhere() -> u32 {
    let random = std::hash::RandomState::new().build_hasher().finish();
    let spread = u64::from(FIRST - IN_ORDER);
    u32::try_from(random % spread).map_or(FIRST, |offset| FIRST + IN_ORDER + offset)
}

fn open(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, dir, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    /// Projects as xfs has them: of directories by their inodes, and files that were given to them.
    #[derive(Debug, Default)]
    struct Kernel {
        directories: Mutex<HashMap<u64, u32>>,
        given: Mutex<HashMap<u32, u64>>,
        limits: Mutex<HashMap<u32, Usage>>,
    }

    fn inode(place: BorrowedFd<'_>) -> u64 {
        std::fs::File::from(place.try_clone_to_owned().unwrap()).metadata().unwrap().ino()
    }

    impl ProjectQuotas for Kernel {
        fn is_enforced(&self, _: BorrowedFd<'_>) -> io::Result<bool> {
            Ok(true)
        }

        fn of_directory(&self, directory: BorrowedFd<'_>) -> io::Result<Option<u32>> {
            Ok(self.directories.lock().unwrap().get(&inode(directory)).copied())
        }

        fn give(&self, directory: BorrowedFd<'_>, project: u32) -> io::Result<()> {
            assert!(self.limits.lock().unwrap().contains_key(&project), "limited before it is used");
            self.directories.lock().unwrap().insert(inode(directory), project);
            Ok(())
        }

        fn usage(&self, _: BorrowedFd<'_>, project: u32) -> io::Result<Usage> {
            let given = self.given.lock().unwrap().get(&project).copied().unwrap_or_default();
            let directories = self.directories.lock().unwrap();
            let inodes = given + directories.values().filter(|owner| **owner == project).count() as u64;
            Ok(Usage { bytes: inodes * 512, inodes })
        }

        fn limit(&self, _: BorrowedFd<'_>, project: u32, most: Usage) -> io::Result<()> {
            self.limits.lock().unwrap().insert(project, most);
            Ok(())
        }
    }

    const MOST: Usage = Usage { bytes: 1 << 20, inodes: 100 };

    fn limiter(kernel: &Arc<Kernel>) -> Limiter {
        let limit = WritableLimit { most: MOST, quotas: Arc::clone(kernel) as Arc<dyn ProjectQuotas> };
        Limiter { limit: Some(limit), claims: Mutex::default() }
    }

    #[test]
    fn each_directory_has_a_project_while_it_is_there() {
        let kernel = Arc::new(Kernel::default());
        let limiter = limiter(&kernel);
        let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
        std::thread::scope(|scope| {
            for dir in &dirs {
                scope.spawn(|| limiter.apply(dir.path()).unwrap());
            }
        });
        let projects = || {
            let mut projects: Vec<_> = kernel.directories.lock().unwrap().values().copied().collect();
            projects.sort_unstable();
            projects
        };
        assert_eq!(projects(), [FIRST, FIRST + 1, FIRST + 2]);
        assert!(kernel.limits.lock().unwrap().values().all(|most| *most == MOST));
        // What is free again is the next one's.
        kernel.directories.lock().unwrap().retain(|_, project| *project != FIRST + 1);
        limiter.apply(tempfile::tempdir().unwrap().path()).unwrap();
        assert_eq!(projects(), [FIRST, FIRST + 1, FIRST + 2]);
    }

    #[test]
    fn what_others_have_is_passed_over() {
        let kernel = Arc::new(Kernel::default());
        let limiter = limiter(&kernel);
        let dir = tempfile::tempdir().unwrap();
        // Somebody has given a file to each of those that are looked at first.
        kernel.given.lock().unwrap().extend((FIRST..FIRST + IN_ORDER).map(|project| (project, 1)));
        limiter.apply(dir.path()).unwrap();
        let project = kernel.of_directory(open(dir.path()).unwrap().as_fd()).unwrap().unwrap();
        assert!((FIRST + IN_ORDER..2 * FIRST).contains(&project), "{project}");
    }

    #[test]
    fn a_limit_is_told_from_a_full_disk() {
        let kernel = Arc::new(Kernel::default());
        let limiter = limiter(&kernel);
        let dir = tempfile::tempdir().unwrap();
        limiter.apply(dir.path()).unwrap();
        let full = || store("write", dir.path(), io::ErrorKind::StorageFull.into());
        assert!(!limiter.explain(full(), dir.path()).to_string().contains("may write"));
        kernel.given.lock().unwrap().insert(FIRST, MOST.inodes - 1);
        let said = limiter.explain(full(), dir.path()).to_string();
        assert!(said.ends_with("of the 1048576 bytes and 100 inodes that a container may write"), "{said}");
    }

    #[test]
    fn where_nothing_can_be_limited_it_says_why() {
        let limit = WritableLimit { most: MOST, quotas: Arc::new(Kernel::default()) };
        let refused = Limiter::new(Some(limit), Path::new("/proc/none/containers")).unwrap_err();
        let Error::Store { cause, path, .. } = &refused else { panic!("{refused:?}") };
        assert_eq!(
            (cause.to_string().as_str(), path.as_path()),
            ("it is not on xfs", Path::new("/proc/none/containers"))
        );
        assert!(Limiter::new(None, Path::new("/proc/none")).is_ok());
    }
}
