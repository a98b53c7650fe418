//! Noticing that directories change, by inotify: no polling, and no event for each of the many steps of a change.
//!
//! A directory that doesn't exist yet is waited for by watching the nearest one above it. One that is reached through links
//! is watched together with the directories that those are in: a link may be made to lead elsewhere. What changed isn't
//! told: the listener looks for itself.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout_at};

use crate::error::Error;

/// Changes come in bursts (write, rename, chmod): they are one when no longer apart than this …
const QUIET: Duration = Duration::from_millis(50);
/// … but a directory that never rests is looked at after this.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many links are followed on the way to a directory (path_resolution(7): the kernel gives up after 40).
const MOST_LINKS: usize = 40;

/// A watch on some directories.
#[derive(Debug)]
pub(crate) struct Watch {
    inotify: AsyncFd<OwnedFd>,
    dirs: Vec<PathBuf>,
    watched: Vec<i32>,
}

impl Watch {
    /// Begins to watch. Has to be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Watch`], where the process has too many watches, for one.
    pub(crate) fn new(dirs: Vec<PathBuf>) -> Result<Watch, Error> {
        let first = dirs.first().cloned().unwrap_or_default();
        let failed = |source: io::Error| Error::Watch { path: first.clone(), source };
        let inotify =
            inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        #[expect(deprecated, reason = "its successor is unsafe, and an OwnedFd keeps what that asks for")]
        let inotify = AsyncFd::new(inotify).map_err(failed)?;
        let mut watch = Watch { inotify, dirs, watched: Vec::new() };
        watch.arm()?;
        Ok(watch)
    }

    /// Returns after a change has come to rest. Look at the directories then: no change after that look is missed.
    ///
    /// Cancel safe but for a change that is just being waited out.
    ///
    /// # Errors
    /// [`Error::Watch`].
    pub(crate) async fn changed(&mut self) -> Result<(), Error> {
        let failed = |path: &Path, source: io::Error| Error::Watch { path: path.to_owned(), source };
        let path = self.dirs.first().cloned().unwrap_or_default();
        self.drain().await.map_err(|error| failed(&path, error))?;
        let patience = Instant::now() + PATIENCE;
        loop {
            let rest = (Instant::now() + QUIET).min(patience);
            match timeout_at(rest, self.drain()).await {
                Ok(more) => more.map_err(|error| failed(&path, error))?,
                Err(_quiet) => break,
            }
            if Instant::now() >= patience {
                break;
            }
        }
        // Directories may have come or gone: before the listener looks, so that nothing falls between.
        self.arm()?;
        // That a watch was given up is an event, too; what else has come until now the listener is about to see.
        match drain_now(self.inotify.get_ref()) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(failed(&path, error)),
            _ => Ok(()),
        }
    }

    /// Waits for events and forgets them.
    async fn drain(&self) -> io::Result<()> {
        loop {
            let mut ready = self.inotify.readable().await?;
            let drained = ready.try_io(|inotify| drain_now(inotify.get_ref()));
            if let Ok(outcome) = drained {
                return outcome;
            }
        }
    }

    fn arm(&mut self) -> Result<(), Error> {
        let mut watched = Vec::new();
        for dir in &self.dirs {
            watched.push(watch_nearest(self.inotify.get_ref(), dir)?);
            for above in places_of_links(dir) {
                watched.push(watch_nearest(self.inotify.get_ref(), &above)?);
            }
        }
        for stale in self.watched.iter().filter(|stale| !watched.contains(stale)) {
            // It is gone already when its directory is.
            let _ = inotify::remove_watch(self.inotify.get_ref(), *stale);
        }
        self.watched = watched;
        Ok(())
    }
}

/// Reads until there is nothing; an error of that kind when there was nothing at all.
fn drain_now(inotify: impl AsFd) -> io::Result<()> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(inotify, &mut buffer);
    let mut any = false;
    loop {
        match reader.next() {
            Ok(_) => any = true,
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) if any => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The directories that links on the way to a directory are in.
fn places_of_links(dir: &Path) -> Vec<PathBuf> {
    let mut places = Vec::new();
    let mut follow = vec![dir.to_owned()];
    let mut links = 0;
    while let Some(path) = follow.pop() {
        for part in path.ancestors() {
            let (Ok(target), Some(place)) = (std::fs::read_link(part), part.parent()) else { continue };
            links += 1;
            if links > MOST_LINKS {
                return places;
            }
            follow.push(place.join(target));
            places.push(place.to_owned());
        }
    }
    places
}

fn watch_nearest(inotify: &OwnedFd, dir: &Path) -> Result<i32, Error> {
    let events = WatchFlags::CREATE
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::ATTRIB
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::DELETE
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR;
    let mut at = Some(dir);
    while let Some(path) = at {
        match inotify::add_watch(inotify, path, events) {
            Ok(watch) => return Ok(watch),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {
                at = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            }
            Err(error) => return Err(Error::Watch { path: path.to_owned(), source: error.into() }),
        }
    }
    let source = io::Error::from(io::ErrorKind::NotFound);
    Err(Error::Watch { path: dir.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use tokio::time::timeout;

    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn files_that_come_and_go_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(vec![dir.path().to_owned()]).unwrap();
        fs::write(dir.path().join("a"), "1").unwrap();
        timeout(SOON, watch.changed()).await.unwrap().unwrap();
        fs::remove_file(dir.path().join("a")).unwrap();
        timeout(SOON, watch.changed()).await.unwrap().unwrap();
    }

    /// Waits for a change, and sees that it was told once.
    async fn changed_once(watch: &mut Watch) {
        timeout(SOON, watch.changed()).await.unwrap().unwrap();
        let again = timeout(QUIET * 4, watch.changed()).await;
        assert!(again.is_err(), "told twice");
    }

    #[tokio::test]
    async fn a_burst_of_changes_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(vec![dir.path().to_owned()]).unwrap();
        for n in 0..200 {
            let (beside, path) = (dir.path().join(".tmp"), dir.path().join(format!("{}.conf", n % 5)));
            fs::write(&beside, n.to_string()).unwrap();
            fs::rename(&beside, &path).unwrap();
        }
        changed_once(&mut watch).await;
    }

    #[tokio::test]
    async fn links_that_are_swapped_are_noticed_wherever_they_are() {
        use std::os::unix::fs::symlink;
        let top = tempfile::tempdir().unwrap();
        let path = |name: &str| top.path().join(name);
        let swap = |target: &str, link: &str| {
            symlink(target, path(".beside")).unwrap();
            fs::rename(path(".beside"), path(link)).unwrap();
        };
        for dir in ["one", "two", "maps/1", "maps/2"] {
            fs::create_dir_all(path(dir)).unwrap();
        }
        // The directory itself is a link to a link.
        swap("one", "current");
        swap("current", "net.d");
        // What is in it is one, as with a volume of a ConfigMap.
        symlink("../maps/..data/net.conf", path("one/10-net.conf")).unwrap();
        let mut watch = Watch::new(vec![path("net.d"), path("maps")]).unwrap();
        swap("1", "maps/..data");
        changed_once(&mut watch).await;
        swap("2", "maps/..data");
        changed_once(&mut watch).await;
        swap("two", "current");
        changed_once(&mut watch).await;
        fs::write(path("two/20-net.conf"), "1").unwrap();
        changed_once(&mut watch).await;
        swap("one", "net.d");
        changed_once(&mut watch).await;
    }

    #[tokio::test]
    async fn a_directory_is_waited_for_and_may_come_again() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("etc/net.d");
        let mut watch = Watch::new(vec![dir.clone()]).unwrap();
        for _ in 0..2 {
            fs::create_dir_all(&dir).unwrap();
            timeout(SOON, watch.changed()).await.unwrap().unwrap();
            fs::write(dir.join("a"), "1").unwrap();
            timeout(SOON, watch.changed()).await.unwrap().unwrap();
            fs::remove_dir_all(top.path().join("etc")).unwrap();
            timeout(SOON, watch.changed()).await.unwrap().unwrap();
        }
    }
}
