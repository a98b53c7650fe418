//! The memory that zstd frames ask for before they can be decompressed, bounded for all layers together.
//!
//! A frame says how far back it refers (RFC 8878 section 3.1.1.1.2), from 1 KiB to terabytes. Usual levels of zstd want up to
//! 8 MiB, the higher ones of Go's compressor, which image builders use, 32 MiB, and `zstd --ultra -22` 128 MiB.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often somebody who waits looks whether he is still wanted.
const LOOK: Duration = Duration::from_millis(100);

/// After so long a wait, a usual window is taken beyond the budget: whoever holds the others may be a registry that trickles,
/// which would keep all layers of the node waiting for hours.
const LATE: Duration = Duration::from_secs(10);

/// Bytes of the largest window that is usual.
const USUAL: u64 = 8 << 20;

/// Windows that may be taken beyond the budget at a time.
const BEYOND: usize = 4;

/// The budget.
#[derive(Debug)]
pub(crate) struct Windows {
    /// Bytes that all frames together may have, unless one alone wants more.
    together: u64,
    /// Bytes that one frame may have.
    largest: u64,
    late: Duration,
    used: Mutex<Used>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct Used {
    bytes: u64,
    /// Windows beyond the budget, which `bytes` doesn't count.
    beyond: usize,
}

/// A part of the budget.
#[derive(Debug)]
pub(crate) struct Window {
    windows: Arc<Windows>,
    bytes: u64,
    is_beyond: bool,
}

impl Windows {
    pub(crate) fn new(together: u64, largest: u64) -> Windows {
        Windows { together, largest, late: LATE, used: Mutex::default(), freed: Condvar::new() }
    }

    /// The most that one frame may have, in bytes.
    pub(crate) fn largest(&self) -> u64 {
        self.largest
    }

    /// Waits until there is room for `bytes`; a window larger than the whole budget has it alone. Who holds a window must
    /// not wait for another. Four usual windows may be taken beyond the budget by those who have waited for ten seconds.
    ///
    /// # Errors
    /// For one larger than a frame may have, and when `given_up` becomes true.
    pub(crate) fn take(self: &Arc<Self>, bytes: u64, given_up: &AtomicBool) -> io::Result<Window> {
        if bytes > self.largest {
            let text =
                format!("a zstd frame wants a window of {bytes} bytes, and {} are the most", self.largest);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let begun = Instant::now();
        let mut used = self.used();
        while used.bytes > 0 && used.bytes.saturating_add(bytes) > self.together {
            if given_up.load(Ordering::Relaxed) {
                return Err(io::Error::from(io::ErrorKind::ConnectionAborted));
            }
            if begun.elapsed() >= self.late && bytes <= USUAL && used.beyond < BEYOND {
                used.beyond += 1;
                return Ok(Window { windows: Arc::clone(self), bytes, is_beyond: true });
            }
            used = self.freed.wait_timeout(used, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
        used.bytes += bytes;
        Ok(Window { windows: Arc::clone(self), bytes, is_beyond: false })
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Window {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let mut used = self.windows.used();
        match self.is_beyond {
            true => used.beyond -= 1,
            false => used.bytes -= self.bytes,
        }
        drop(used);
        self.windows.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_wait_for_room_and_a_large_one_is_alone() {
        let wanted = AtomicBool::new(false);
        let windows = Arc::new(Windows::new(10, 100));
        let first = windows.take(6, &wanted).unwrap();
        assert!(windows.take(101, &wanted).unwrap_err().to_string().contains("101 bytes, and 100 are"));
        assert!(windows.take(5, &AtomicBool::new(true)).is_err(), "there is no room for it");
        let second = windows.take(4, &wanted).unwrap();
        let waiting = std::thread::spawn({
            let windows = Arc::clone(&windows);
            move || windows.take(50, &AtomicBool::new(false)).unwrap().bytes()
        });
        drop((first, second));
        assert_eq!(waiting.join().unwrap(), 50);
        assert_eq!(windows.used().bytes, 0);
    }

    #[test]
    fn who_waits_too_long_gets_a_usual_window() {
        let wanted = AtomicBool::new(false);
        let windows = Arc::new(Windows { late: Duration::ZERO, ..Windows::new(10, USUAL * 2) });
        let held = windows.take(10, &wanted).unwrap();
        let beyond: Vec<_> = (0..BEYOND).map(|_| windows.take(USUAL, &wanted).unwrap()).collect();
        let gone = AtomicBool::new(true);
        assert!(windows.take(1, &gone).is_err(), "there are no more of these");
        drop(beyond);
        assert!(windows.take(USUAL + 1, &gone).is_err(), "it isn't usual");
        drop(windows.take(USUAL, &wanted).unwrap());
        drop(held);
        let used = windows.used();
        assert_eq!((used.bytes, used.beyond), (0, 0));
    }
}
