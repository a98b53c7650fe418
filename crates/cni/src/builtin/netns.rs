//! Working inside another network namespace: on a thread made for it, since a thread has one namespace at a time.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
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

    /// Sees that it isn't the calling thread's own: what would be done there would be done to the host.
    ///
    /// # Errors
    /// [`Error::OwnNamespace`], [`Error::Namespace`].
    pub(super) fn refuse_own(&self) -> Result<(), Error> {
        let failed = |source| Error::Namespace { path: self.path.clone(), source };
        let own = fs::metadata("/proc/thread-self/ns/net").map_err(failed)?;
        let this = self.file.metadata().map_err(failed)?;
        if (own.dev(), own.ino()) == (this.dev(), this.ino()) {
            return Err(Error::OwnNamespace { path: self.path.clone() });
        }
        Ok(())
    }

    /// Opens the one that is to be detached. `None`: it is gone, and what was in it with it.
    ///
    /// # Errors
    /// [`Error::Namespace`], [`Error::OwnNamespace`].
    pub(super) fn open_if_there(path: Option<&Path>) -> Result<Option<Namespace>, Error> {
        let Some(path) = path else { return Ok(None) };
        match Namespace::open(path) {
            Err(Error::Namespace { source, .. }) if is_gone(&source) => Ok(None),
            namespace => {
                let namespace = namespace?;
                namespace.refuse_own()?;
                Ok(Some(namespace))
            }
        }
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

/// No such file; an empty file is what is left where a namespace was mounted.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidInput
    )
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
