//! Who has which address: a directory for each network, laid out exactly as the reference plugin's, so that either can take
//! over from the other at any moment.
//!
//! | file | holds |
//! |---|---|
//! | `<address>` | container and interface, a line each, parted by CR LF; of old versions the container alone |
//! | `last_reserved_ip.<set>` | the address of that set handed out last |
//! | `lock` | nothing: flock(2) is held on it while anything is looked at or changed |
//!
//! An address is written beside and renamed, so that its file is never seen without its owner; one that is empty all the same
//! was left by a plugin cut short in writing, before anybody learnt of the address, and counts as free.
//!
//! Not here: whose they are, read and remembered (`holders`).

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::holders::{Holder, Holders, Memory, failed};
use crate::attachment::AttachmentId;
use crate::builtin::patience::Patience;
use crate::error::Error;
use crate::files::read_regular;

/// How long anybody waits for the lock, behind however many others. Another process holds it for milliseconds; one that is stopped
/// must not stop us.
const LOCK_DEADLINE: Duration = Duration::from_secs(20);
/// Others may read whose an address is, as with the reference plugin.
const MODE: u32 = 0o644;
/// More bytes than an address takes when it is written.
const ADDRESS: u64 = 64;
/// What an address is written into before it gets its name.
const BESIDE: &str = ".knarr";

/// The lock of each directory for the threads of this process, which so needn't ask again and again.
static WITHIN: LazyLock<Mutex<HashMap<PathBuf, Arc<Within>>>> = LazyLock::new(Mutex::default);

/// A mutex that is waited for a limited time.
#[derive(Debug, Default)]
struct Within {
    is_held: Mutex<bool>,
    freed: Condvar,
    /// Whose the addresses were when the last holder was done.
    memory: Mutex<Memory>,
}

/// Held until this goes.
#[derive(Debug)]
struct Held<'a>(&'a Within);

impl Within {
    /// `None` when it isn't free in time.
    fn hold(&self, patience: Duration) -> Option<Held<'_>> {
        let is_held = self.is_held.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.freed.wait_timeout_while(is_held, patience, |is_held| *is_held);
        let (mut is_held, _) = waited.unwrap_or_else(PoisonError::into_inner);
        (!std::mem::replace(&mut *is_held, true)).then(|| Held(self))
    }
}

impl Held<'_> {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        *self.0.is_held.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.0.freed.notify_one();
    }
}

/// The addresses of one network.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    within: Arc<Within>,
    patience: Duration,
}

/// The directory while nobody else looks at it or changes it.
#[derive(Debug)]
pub(super) struct Locked<'a> {
    dir: &'a Path,
    holders: Holders,
    _file: File,
    within: Held<'a>,
}

impl Store {
    /// That of a network, in its own directory; nothing is touched yet.
    pub(super) fn of(dir: PathBuf) -> Store {
        let mut within = WITHIN.lock().unwrap_or_else(PoisonError::into_inner);
        let within = Arc::clone(within.entry(dir.clone()).or_default());
        Store { dir, within, patience: LOCK_DEADLINE }
    }

    /// Locks the directory, making it if need be.
    ///
    /// # Errors
    /// [`Error::Record`].
    pub(super) fn lock(&self) -> Result<Locked<'_>, Error> {
        let made = DirBuilder::new().recursive(true).mode(0o755).create(&self.dir);
        made.map_err(|source| failed("make", &self.dir, source))?;
        self.lock_there()
    }

    /// Locks the directory; `None` when there is none, and so no address.
    ///
    /// # Errors
    /// [`Error::Record`].
    pub(super) fn lock_if_there(&self) -> Result<Option<Locked<'_>>, Error> {
        if self.dir.is_dir() { self.lock_there().map(Some) } else { Ok(None) }
    }

    fn lock_there(&self) -> Result<Locked<'_>, Error> {
        let begun = Instant::now();
        let path = self.dir.join("lock");
        let failed = |source| failed("lock", &path, source);
        let late = || failed(io::ErrorKind::TimedOut.into());
        let within = self.within.hold(self.patience).ok_or_else(late)?;
        let file = open_own(&path, 0o600).map_err(failed)?;
        let mut patience = Patience::new(self.patience.saturating_sub(begun.elapsed()));
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if patience.pause() => {}
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => return Err(late()),
                Err(errno) => return Err(failed(errno.into())),
            }
        }
        let memory = std::mem::take(&mut *within.memory());
        let holders = Holders::read(&self.dir, memory)?;
        Ok(Locked { dir: &self.dir, holders, _file: file, within })
    }
}

#[cfg(test)]
impl Store {
    /// What is remembered; nobody has the directory locked.
    pub(super) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.within.memory.lock().unwrap()
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        *self.within.memory() = std::mem::take(&mut self.holders).remember();
    }
}

impl Locked<'_> {
    /// Whether somebody has that address.
    pub(super) fn is_taken(&self, address: IpAddr) -> bool {
        self.holders.of.contains_key(&address)
    }

    /// The addresses that an attachment has.
    pub(super) fn owned<'s>(&'s self, id: &'s AttachmentId) -> impl Iterator<Item = IpAddr> + 's {
        let holds = |holder: &Option<Holder>| holder.as_ref().is_some_and(|holder| holder.is(id));
        self.holders.of.iter().filter(move |(_, holder)| holds(holder)).map(|(address, _)| *address)
    }

    /// Gives an address, which nobody is known to have, to an attachment. Returns whether it could: false where somebody turns
    /// out to have it.
    ///
    /// # Errors
    /// [`Error::Record`]; it isn't the attachment's then.
    pub(super) fn take(&mut self, address: IpAddr, id: &AttachmentId) -> Result<bool, Error> {
        let (beside, path) = (self.dir.join(BESIDE), self.dir.join(address.to_string()));
        // Left by who was cut short; or put there by somebody, to have us write to where it leads.
        let _ = fs::remove_file(&beside);
        let written = (OpenOptions::new().write(true).create_new(true).mode(MODE).open(&beside))
            .and_then(|mut file| file.write_all(format!("{}\r\n{}", id.container_id, id.ifname).as_bytes()));
        let failed = |source| failed("write", &path, source);
        let given = (written.map_err(failed))
            // Only now: to who has just changed a directory, NFS shows what others have done to it, not what it remembers.
            .and_then(|()| self.holders.is_free(self.dir, address))
            .and_then(|is_free| match is_free {
                true => fs::rename(&beside, &path).map(|()| true).map_err(failed),
                false => Ok(false),
            });
        if matches!(given, Ok(true)) {
            let (container_id, ifname) = (id.container_id.clone(), Some(id.ifname.clone()));
            self.holders.of.insert(address, Some(Holder { container_id, ifname }));
        } else {
            let _ = fs::remove_file(&beside);
        }
        given
    }

    /// Takes an address back.
    ///
    /// # Errors
    /// [`Error::Record`].
    pub(super) fn give_back(&mut self, address: IpAddr) -> Result<(), Error> {
        crate::files::remove(&self.dir.join(address.to_string()))?;
        self.holders.of.remove(&address);
        Ok(())
    }

    /// Takes back all that an attachment has.
    ///
    /// # Errors
    /// [`Error::Record`], of the first that can't be; the others are.
    pub(super) fn release(&mut self, id: &AttachmentId) -> Result<Vec<IpAddr>, Error> {
        self.retain(|holder| !holder.is(id))
    }

    /// Takes back all whose holder isn't kept; who can't be told is.
    ///
    /// # Errors
    /// [`Error::Record`], of the first that can't be; the others are.
    pub(super) fn retain(&mut self, keep: impl Fn(&Holder) -> bool) -> Result<Vec<IpAddr>, Error> {
        let is_gone = |holder: &Option<Holder>| holder.as_ref().is_some_and(|holder| !keep(holder));
        let gone = self.holders.of.iter().filter(|(_, holder)| is_gone(holder));
        let gone: Vec<IpAddr> = gone.map(|(address, _)| *address).collect();
        let mut failure = None;
        for address in &gone {
            failure = failure.or(self.give_back(*address).err());
        }
        failure.map_or(Ok(gone), Err)
    }

    /// The address of that set which was handed out last.
    pub(super) fn last(&self, set: usize) -> Option<IpAddr> {
        let text = read_regular(&self.last_path(set), ADDRESS).ok()?;
        String::from_utf8(text).ok()?.trim().parse().ok()
    }

    /// Notes it. Losing it costs the order only, and so must not cost the address.
    pub(super) fn remember_last(&self, set: usize, address: IpAddr) {
        let _ = open_own(&self.last_path(set), MODE).and_then(|mut file| {
            file.set_len(0)?;
            file.write_all(address.to_string().as_bytes())
        });
    }

    fn last_path(&self, set: usize) -> PathBuf {
        self.dir.join(format!("last_reserved_ip.{set}"))
    }
}

/// Opens a file for writing, or makes it. What isn't one, or leads elsewhere, is neither waited for nor written to.
fn open_own(path: &Path, mode: u32) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(mode).custom_flags(flags.bits().cast_signed());
    let file = options.open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "isn't a regular file"));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_longer_because_others_wait_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let patience = Duration::from_millis(500);
        let store = || Store { patience, ..Store::of(dir.path().to_owned()) };
        let stopped = File::create(dir.path().join("lock")).unwrap();
        stopped.lock().unwrap();
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for waits in (0..20).map(|_| scope.spawn(|| store().lock().map(drop))).collect::<Vec<_>>() {
                assert!(matches!(waits.join().unwrap(), Err(Error::Record { action: "lock", .. })));
            }
        });
        // One after the other it would be ten seconds.
        assert!(begun.elapsed() < patience * 10, "{:?}", begun.elapsed());
        stopped.unlock().unwrap();
        let holder = store();
        let held = holder.lock().unwrap();
        std::thread::scope(|scope| {
            assert!(scope.spawn(|| store().lock().is_err()).join().unwrap());
        });
        drop(held);
        store().lock().unwrap();
    }
}
