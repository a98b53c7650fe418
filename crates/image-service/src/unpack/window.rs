//! The memory that zstd frames ask for before they can be decompressed, bounded for all layers together.
//!
//! A frame says how far back it refers (RFC 8878 section 3.1.1.1.2), from 1 KiB to terabytes. Usual levels of zstd want up to
//! 8 MiB, the higher ones of Go's compressor, which image builders use, 32 MiB, and `zstd --ultra -22` 128 MiB.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How often somebody who waits looks whether he is still wanted.
const LOOK: Duration = Duration::from_millis(100);

/// The budget.
#[derive(Debug)]
pub(crate) struct Windows {
    /// Bytes that all frames together may have, unless one alone wants more.
    together: u64,
    /// Bytes that one frame may have.
    largest: u64,
    used: Mutex<u64>,
    freed: Condvar,
}

/// A part of the budget.
#[derive(Debug)]
pub(crate) struct Window {
    windows: Arc<Windows>,
    bytes: u64,
}

impl Windows {
    pub(crate) fn new(together: u64, largest: u64) -> Windows {
        Windows { together, largest, used: Mutex::new(0), freed: Condvar::new() }
    }

    /// The most that one frame may have, in bytes.
    pub(crate) fn largest(&self) -> u64 {
        self.largest
    }

    /// Waits until there is room for `bytes`; a window larger than the whole budget has it alone. Who holds a window must
    /// not wait for another.
    ///
    /// # Errors
    /// For one larger than a frame may have, and when `given_up` becomes true.
    pub(crate) fn take(self: &Arc<Self>, bytes: u64, given_up: &AtomicBool) -> io::Result<Window> {
        if bytes > self.largest {
            let text =
                format!("a zstd frame wants a window of {bytes} bytes, and {} are the most", self.largest);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        while *used > 0 && used.saturating_add(bytes) > self.together {
            if given_up.load(Ordering::Relaxed) {
                return Err(io::Error::from(io::ErrorKind::ConnectionAborted));
            }
            used = self.freed.wait_timeout(used, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
        *used += bytes;
        Ok(Window { windows: Arc::clone(self), bytes })
    }
}

impl Window {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        *self.windows.used.lock().unwrap_or_else(PoisonError::into_inner) -= self.bytes;
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
        assert_eq!(*windows.used.lock().unwrap(), 0);
    }
}
