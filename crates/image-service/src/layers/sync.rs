//! Syncing a filesystem on behalf of several at once.
//!
//! `syncfs` writes back everything on a filesystem, so layers that are ready at the same time need one call between
//! them, not one each: whoever comes while a call runs waits for the next one, which one of the waiters makes for all.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex, PoisonError};

/// One filesystem's syncs.
#[derive(Debug, Default)]
pub(crate) struct GroupSync {
    turns: Mutex<Turns>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Turns {
    /// Number of syncs begun so far.
    begun: u64,
    /// Number of the last sync that ended well.
    succeeded: u64,
    running: bool,
}

impl GroupSync {
    /// Returns once everything written before the call is on the disk that `fd` is on.
    ///
    /// # Errors
    /// The kernel's, for the sync that this caller made itself; others then make one of their own.
    pub(crate) fn sync(&self, fd: impl AsFd) -> io::Result<()> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        // A sync under way may have passed our data already; the one after it hasn't.
        let needed = turns.begun + 1;
        loop {
            if turns.succeeded >= needed {
                return Ok(());
            }
            if !turns.running {
                break;
            }
            turns = self.ended.wait(turns).unwrap_or_else(PoisonError::into_inner);
        }
        turns.begun += 1;
        turns.running = true;
        let ours = turns.begun;
        drop(turns);
        let outcome = rustix::fs::syncfs(fd);
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.running = false;
        if outcome.is_ok() {
            turns.succeeded = ours;
        }
        drop(turns);
        self.ended.notify_all();
        Ok(outcome?)
    }
}
