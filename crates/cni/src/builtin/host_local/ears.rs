//! Hearing what is changed in directories of addresses, by whatever process.
//!
//! The kernel tells of a change (inotify(7)) before who made it can give back the lock: who has the lock now hears of all of them.
//! One listener serves a process's directories, since a user has but 128 (`fs.inotify.max_user_instances`).

use std::collections::{HashMap, HashSet};
use std::io;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::inotify::{self, CreateFlags, Event, ReadFlags, WatchFlags};
use rustix::io::Errno;

static LISTENER: Mutex<Option<Listener>> = Mutex::new(None);

#[derive(Debug)]
struct Listener {
    inotify: OwnedFd,
    /// What has been heard of each watch, and not been asked for yet.
    heard: HashMap<i32, Heard>,
    /// How many have begun to listen so far.
    count: u64,
}

#[derive(Debug)]
struct Heard {
    /// Who listens. By two paths a directory has one watch, and what is told the one isn't told the other.
    by: u64,
    changed: HashSet<IpAddr>,
}

/// Hears of one directory.
#[derive(Debug)]
pub(super) struct Ears {
    watch: i32,
    number: u64,
    /// Device and inode: its path may lead to another by now.
    dir: (u64, u64),
}

impl Ears {
    /// Begins to listen.
    ///
    /// # Errors
    /// What the system says, where it lets nobody listen any more, for one.
    pub(super) fn prick(dir: &Path) -> io::Result<Ears> {
        let mut held = listener();
        let listener = match &mut *held {
            Some(listener) => listener,
            none => none.insert(Listener {
                inotify: inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?,
                heard: HashMap::new(),
                count: 0,
            }),
        };
        let changes = WatchFlags::CREATE | WatchFlags::MODIFY | WatchFlags::DELETE | WatchFlags::MOVE;
        let end = WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR;
        let watch = inotify::add_watch(&listener.inotify, dir, changes | end)?;
        listener.count += 1;
        let number = listener.count;
        listener.heard.insert(watch, Heard { by: number, changed: HashSet::new() });
        Ok(Ears { watch, number, dir: identity(dir)? })
    }

    /// Whether the path leads to the directory still.
    pub(super) fn are_at(&self, dir: &Path) -> bool {
        identity(dir).is_ok_and(|identity| identity == self.dir)
    }

    /// The addresses whose files have changed since this was asked last; `None` when those may not be all.
    pub(super) fn changed(&self) -> Option<HashSet<IpAddr>> {
        let mut held = listener();
        let listener = held.as_mut()?;
        listener.listen();
        let heard = listener.heard.get_mut(&self.watch).filter(|heard| heard.by == self.number)?;
        Some(std::mem::take(&mut heard.changed))
    }
}

impl Drop for Ears {
    fn drop(&mut self) {
        let mut held = listener();
        let Some(listener) = &mut *held else { return };
        if listener.heard.get(&self.watch).is_some_and(|heard| heard.by == self.number) {
            listener.forget(self.watch);
        }
    }
}

impl Listener {
    /// Hears all that there is.
    fn listen(&mut self) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut ended = Vec::new();
        loop {
            match reader.next() {
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => self.heard.clear(),
                Ok(event) if is_end(&event) => ended.push(event.wd()),
                Ok(event) => {
                    let name = event.file_name().and_then(|name| name.to_str().ok());
                    if let Some(heard) = self.heard.get_mut(&event.wd()) {
                        heard.changed.extend(name.and_then(|name| name.parse::<IpAddr>().ok()));
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    self.heard.clear();
                    break;
                }
            }
        }
        ended.into_iter().for_each(|watch| self.forget(watch));
    }

    fn forget(&mut self, watch: i32) {
        self.heard.remove(&watch);
        // It is gone already when its directory is.
        let _ = inotify::remove_watch(&self.inotify, watch);
    }
}

/// Whether nothing more will be heard of a directory, or another may be there in its place.
fn is_end(event: &Event<'_>) -> bool {
    let end = ReadFlags::IGNORED | ReadFlags::UNMOUNT | ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF;
    event.events().intersects(end)
}

fn listener() -> MutexGuard<'static, Option<Listener>> {
    LISTENER.lock().unwrap_or_else(PoisonError::into_inner)
}

fn identity(dir: &Path) -> io::Result<(u64, u64)> {
    let found = rustix::fs::stat(dir)?;
    Ok((found.st_dev, found.st_ino))
}
