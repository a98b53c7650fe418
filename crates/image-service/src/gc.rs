//! Getting rid of trees: an answer at once, the disk space a little later.
//!
//! A tree is removed by renaming it into a trash directory of the same filesystem, which takes microseconds whatever its
//! size. A thread of low priority then deletes what is there, and so it does with what an earlier run left.
//! Not here: the decision what to remove (`layers`, `rootfs`).

use std::cell::Cell;
use std::convert::Infallible;
use std::ffi::{CStr, CString, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::confinement::{Bounds, Confinement, Files};
use crate::error::Error;
use crate::layers::{make_private_dir, store};
use crate::names;
use crate::step;

/// Dropped once all is deleted that was in the trash before.
type Waiter = SyncSender<Infallible>;

/// A trash directory and the thread that empties it.
#[derive(Debug)]
pub(crate) struct Trash {
    path: PathBuf,
    wake: Mutex<Option<Sender<Option<Waiter>>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Trash {
    /// Opens the trash directory `path`, making it where it lacks, and begins to delete what is in it, on a thread that can
    /// reach nothing else.
    pub(crate) fn open(path: &Path, confinement: Option<&Confinement>) -> Result<Trash, Error> {
        make_private_dir(path)?;
        let dir =
            rustix::fs::open(path, DIRECTORY, Mode::empty()).map_err(|e| store("open", path, e.into()))?;
        let (wake, woken) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let bounds = Bounds::below(path, confinement);
        let reaper =
            Reaper { dir, path: path.to_owned(), stop: Arc::clone(&stop), bounds: Cell::new(Some(bounds)) };
        let thread = std::thread::Builder::new().name("trash".to_owned()).spawn(move || reaper.run(&woken));
        let thread = Some(thread.map_err(|cause| store("start the thread that empties", path, cause))?);
        Ok(Trash { path: path.to_owned(), wake: Mutex::new(Some(wake)), stop, thread })
    }

    /// Removes the tree or file `victim`: it is gone from its place when this returns. Nothing there is fine.
    ///
    /// Where a full disk has no room for even its new name, it is deleted where it is.
    pub(crate) fn discard(&self, victim: &Path) -> Result<(), Error> {
        step::at_once("discard")?;
        let target = self.path.join(names::unique());
        match rustix::fs::rename(victim, &target) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOSPC | Errno::DQUOT) => return self.delete_in_place(victim),
            Err(errno) => return Err(store("remove", victim, errno.into())),
        }
        self.wake(None);
        Ok(())
    }

    /// The same for what an earlier run has left: what can't be removed stays for the next one, and nobody does without images for it.
    pub(crate) fn discard_leftover(&self, victim: &Path) {
        if let Err(error) = self.discard(victim) {
            tracing::warn!(path = %victim.display(), %error, "what an earlier run has left stays until the next start");
        }
    }

    /// Waits until what is in the trash now has been deleted and its space is free, for so long at most.
    pub(crate) fn settle(&self, at_most: Duration) {
        let (waiter, deleted) = sync_channel(0);
        self.wake(Some(waiter));
        if let Err(RecvTimeoutError::Timeout) = deleted.recv_timeout(at_most) {
            tracing::debug!(trash = %self.path.display(), "deleting takes longer than anybody waits");
        }
    }

    fn wake(&self, waiter: Option<Waiter>) {
        if let Some(wake) = &*self.wake.lock().unwrap_or_else(PoisonError::into_inner) {
            // The thread ends only with this value, so somebody listens.
            let _ = wake.send(waiter);
        }
    }

    /// Deletes a tree before it returns. Its record, without which nobody takes it for whole, goes first.
    fn delete_in_place(&self, victim: &Path) -> Result<(), Error> {
        let failed = |cause| store("remove", victim, cause);
        let (Some(parent), Some(name)) = (victim.parent(), victim.file_name()) else {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        };
        let open = |path: &Path| rustix::fs::open(path, DIRECTORY, Mode::empty());
        forget_record(victim).map_err(failed)?;
        let dir = open(&self.path).map_err(|errno| failed(errno.into()))?;
        let parent = open(parent).map_err(|errno| failed(errno.into()))?;
        let name = CString::new(name.as_bytes()).map_err(|cause| failed(cause.into()))?;
        let reaper = Reaper { dir, path: self.path.clone(), stop: Arc::default(), bounds: Cell::default() };
        match reaper.delete(parent.as_fd(), &name) {
            Ok(()) | Err(Outcome::Stopped(Stopped)) => Ok(()),
            Err(Outcome::Failed(cause)) => Err(failed(cause)),
        }
    }
}

/// Removes the records from a directory, durably.
fn forget_record(dir: &Path) -> io::Result<()> {
    let opened = match rustix::fs::open(dir, DIRECTORY, Mode::empty()) {
        Err(Errno::NOTDIR) => return Ok(()),
        opened => opened?,
    };
    for name in names_in(opened.as_fd())? {
        if name.to_bytes().ends_with(b".json") {
            rustix::fs::unlinkat(&opened, &name, AtFlags::empty())?;
        }
    }
    Ok(rustix::fs::fsync(&opened)?)
}

impl Drop for Trash {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        *self.wake.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if let Some(thread) = self.thread.take() {
            // What is left is found at the next open.
            let _ = thread.join();
        }
    }
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Levels of directories that deletion goes into at once; each holds a descriptor. What lies deeper is first renamed
/// to the top of the trash: a container may nest its directories as deep as it likes.
const MAX_DEPTH: usize = 64;

/// What the thread works with.
struct Reaper {
    dir: OwnedFd,
    path: PathBuf,
    stop: Arc<AtomicBool>,
    /// Entered before the first deletion.
    bounds: Cell<Option<Bounds>>,
}

/// The trash is being closed.
struct Stopped;

impl Reaper {
    fn run(&self, woken: &Receiver<Option<Waiter>>) {
        // Deleting is nobody's hurry: on Linux this sets the niceness of the calling thread only. Refused is fine.
        let _ = rustix::process::setpriority_process(None, 19);
        let mut waiting: Vec<Waiter> = Vec::new();
        loop {
            match self.empty() {
                Ok(()) => {}
                Err(Outcome::Stopped(Stopped)) => return,
                Err(Outcome::Failed(cause)) => {
                    tracing::warn!(trash = %self.path.display(), %cause, "cannot empty the trash directory yet");
                }
            }
            waiting.clear();
            let Ok(waiter) = woken.recv() else { return };
            waiting.extend(waiter);
            while let Ok(waiter) = woken.try_recv() {
                waiting.extend(waiter);
            }
        }
    }

    /// Deletes everything in the trash. Trees put in meanwhile, by others or by flattening, are seen by the next round.
    fn empty(&self) -> Result<(), Outcome> {
        loop {
            let mut found = false;
            let mut failure = None;
            for name in names_in(self.dir.as_fd()).map_err(Outcome::Failed)? {
                found = true;
                self.confine().map_err(Outcome::Failed)?;
                match self.delete(self.dir.as_fd(), &name) {
                    Err(Outcome::Failed(cause)) => failure = Some(cause),
                    other => other?,
                }
            }
            match failure {
                Some(cause) => return Err(Outcome::Failed(cause)),
                None if found => {}
                None => return Ok(()),
            }
        }
    }

    /// Once; a thread that could not goes on trying, and deletes nothing meanwhile.
    fn confine(&self) -> io::Result<()> {
        let Some(bounds) = self.bounds.take() else { return Ok(()) };
        bounds.enter(Files::Deleted).inspect_err(|_| self.bounds.set(Some(bounds)))
    }

    fn delete(&self, parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Outcome> {
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(errno) => return Err(errno.into()),
        }
        self.delete_dir(parent, name, 0)
    }

    fn delete_dir(&self, parent: BorrowedFd<'_>, name: &CStr, depth: usize) -> Result<(), Outcome> {
        if depth >= MAX_DEPTH {
            let target = OsString::from(names::unique());
            return Ok(rustix::fs::renameat(parent, name, &self.dir, &*target)?);
        }
        let dir = rustix::fs::openat(parent, name, DIRECTORY, Mode::empty())?;
        let mut entries = Dir::read_from(&dir)?;
        while let Some(entry) = entries.read() {
            let entry = entry?;
            let child = entry.file_name();
            if matches!(child.to_bytes(), b"." | b"..") {
                continue;
            }
            if self.stop.load(Ordering::Relaxed) {
                return Err(Outcome::Stopped(Stopped));
            }
            if entry.file_type() == FileType::Directory {
                self.delete_dir(dir.as_fd(), child, depth + 1)?;
                continue;
            }
            match rustix::fs::unlinkat(&dir, child, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR) => self.delete_dir(dir.as_fd(), child, depth + 1)?,
                Err(errno) => return Err(errno.into()),
            }
        }
        match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Why emptying the trash ended early.
enum Outcome {
    Stopped(Stopped),
    Failed(io::Error),
}

impl From<Errno> for Outcome {
    fn from(errno: Errno) -> Outcome {
        Outcome::Failed(errno.into())
    }
}

fn names_in(dir: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    let mut entries = Dir::read_from(dir)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_can_be_deleted_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let trash = Trash::open(&dir.path().join("trash"), None).unwrap();
        let (tree, file) = (dir.path().join("tree"), dir.path().join("file"));
        std::fs::create_dir_all(tree.join("fs/a/b")).unwrap();
        for path in [tree.join("layer.json"), tree.join("fs/a/f"), file.clone()] {
            std::fs::write(path, "x").unwrap();
        }
        forget_record(&tree).unwrap();
        assert!(!tree.join("layer.json").exists() && tree.join("fs/a/f").exists());
        for victim in [&tree, &file] {
            trash.delete_in_place(victim).unwrap();
            assert!(!victim.exists());
        }
        assert!(trash.delete_in_place(&tree).is_err());
    }
}
