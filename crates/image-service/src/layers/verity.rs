//! fs-verity: the kernel compares what is read of an image with hashes from when it was written, so that a byte that the disk
//! has changed reaches nobody. Where the filesystem has it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

/// How often it is tried while somebody has the file open for writing: a child of this process that is about to execute its
/// program has all that we had open.
const ATTEMPTS: u32 = 200;
const PAUSE: Duration = Duration::from_millis(5);

/// Has the kernel check an open file whenever it is read from then on. Handed in by whoever opens the store, since the call
/// has no safe form.
#[derive(Clone)]
pub struct Verity(Arc<Enable>);

type Enable = dyn Fn(BorrowedFd<'_>) -> io::Result<()> + Send + Sync;

impl Verity {
    /// By calling `enable` with a file that is open for reading.
    pub fn new(enable: impl Fn(BorrowedFd<'_>) -> io::Result<()> + Send + Sync + 'static) -> Verity {
        Verity(Arc::new(enable))
    }

    /// Seals the file at `path`, which this process has closed for writing, and has that reach the disk.
    pub(super) fn seal(&self, path: &Path) -> io::Result<()> {
        let file = File::open(path)?;
        self.enable(file.as_fd())?;
        file.sync_all()
    }

    /// The same for an open one, without that.
    pub(super) fn enable(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        for _ in 0..ATTEMPTS {
            match (self.0)(file) {
                Err(cause) if is_busy(&cause) => std::thread::park_timeout(PAUSE),
                done => return done,
            }
        }
        Err(Errno::TXTBSY.into())
    }
}

impl std::fmt::Debug for Verity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verity").finish_non_exhaustive()
    }
}

/// Whether a file only stays as it was: somebody has it open for writing, or it is larger than can be sealed.
pub(super) fn is_left(cause: &io::Error) -> bool {
    is_busy(cause) || Errno::from_io_error(cause) == Some(Errno::FBIG)
}

/// Whether somebody has it open for writing.
pub(super) fn is_busy(cause: &io::Error) -> bool {
    Errno::from_io_error(cause) == Some(Errno::TXTBSY)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// A kernel that says so the first times, as while a child is about to execute its program.
    fn busy(times: u32) -> (Verity, Arc<AtomicU32>) {
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        let enable = move |_: BorrowedFd<'_>| match count.fetch_add(1, Ordering::Relaxed) {
            asked if asked < times => Err(Errno::TXTBSY.into()),
            _ => Ok(()),
        };
        (Verity::new(enable), asked)
    }

    #[test]
    fn a_file_that_is_busy_for_a_moment_is_sealed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (verity, asked) = busy(3);
        verity.seal(file.path()).unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), 4);
        let (verity, _) = busy(u32::MAX);
        assert!(is_left(&verity.seal(file.path()).unwrap_err()));
    }
}
