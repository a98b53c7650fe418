//! Working inside another network namespace: on a thread made for it, since a thread has one namespace at a time.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use crate::error::Error;

/// An open network namespace.
#[derive(Debug)]
pub(super) struct Namespace {
    file: File,
    path: PathBuf,
}

impl Namespace {
    /// Opens it.
    ///
    /// # Errors
    /// [`Error::Namespace`], also when something else is there.
    pub(super) fn open(path: &Path) -> Result<Namespace, Error> {
        let failed = |source| Error::Namespace { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let kind = fstatfs(&file).map_err(|errno| failed(errno.into()))?.filesystem_type();
        if kind != NSFS_MAGIC {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "not a namespace")));
        }
        Ok(Namespace { file, path: path.to_owned() })
    }

    /// Runs some work inside. Sockets that it opens stay in there for good.
    ///
    /// # Errors
    /// [`Error::Namespace`], and those of the work.
    pub(super) fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
        let failed = |source| Error::Namespace { path: self.path.clone(), source };
        thread::scope(|scope| {
            let inside = || {
                setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| failed(errno.into()))?;
                work()
            };
            let thread = thread::Builder::new().name("netns".into()).spawn_scoped(scope, inside);
            thread.map_err(failed)?.join().unwrap_or(Err(Error::CutShort))
        })
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
