//! Netfilter sockets that a thread keeps for its next requests.
//!
//! Closing one is dear: the kernel first waits until all that was deleted from any table is freed (net/netfilter/nf_tables_api.c,
//! `nft_rcv_nl_event`), which it isn't before all processors have gone on, tens of milliseconds later, and lets nobody change the
//! tables meanwhile. A pod's host ports are withdrawn before its DEL is answered, which would wait for that.
//!
//! A thread's network namespace is its own from beginning to end: `netns` enters others by threads that end with it.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

/// A socket, and the number of its last request: answers to earlier ones may be left in it.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) fd: OwnedFd,
    pub(super) sequence: AtomicU32,
}

impl Line {
    pub(super) fn new(fd: OwnedFd) -> Arc<Line> {
        Arc::new(Line { fd, sequence: AtomicU32::new(0) })
    }
}

thread_local! {
    /// No more than are in use at once.
    static KEPT: RefCell<Vec<Arc<Line>>> = const { RefCell::new(Vec::new()) };
}

/// One that nobody uses, or a new one.
pub(super) fn line(open: impl FnOnce() -> io::Result<OwnedFd>) -> io::Result<Arc<Line>> {
    let is_free = |line: &&Arc<Line>| Arc::strong_count(line) == 1;
    let free = KEPT.try_with(|kept| kept.borrow().iter().find(is_free).cloned());
    if let Ok(Some(free)) = free {
        return Ok(free);
    }
    let line = Line::new(open()?);
    // Where the thread is at its end there is nobody to keep it for.
    let _ = KEPT.try_with(|kept| kept.borrow_mut().push(Arc::clone(&line)));
    Ok(line)
}

/// Keeps one no longer.
pub(super) fn give_up(line: &Arc<Line>) {
    let _ = KEPT.try_with(|kept| kept.borrow_mut().retain(|one| !Arc::ptr_eq(one, line)));
}
