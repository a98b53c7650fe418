//! What one layer costs on its way: counted where the work is done, read by whoever wants to show it.
//!
//! Counting is a few additions for every buffer of 128 KiB, whether or not anybody looks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::time::ClockId;

/// Where time goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing to work on: bytes are awaited. On the clock.
    Waiting,
    /// Keeping compressed bytes for a later attempt. Processor time, as the three that follow.
    Spooling,
    Decompressing,
    Hashing,
    Writing,
    /// Waiting for the disk at the end. On the clock.
    Syncing,
}

const STAGES: usize = 6;

/// The counters of one layer.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    nanoseconds: [AtomicU64; STAGES],
    unpacked: AtomicU64,
    syncing: AtomicBool,
}

impl Meter {
    /// So much time went there.
    pub(crate) fn spent(&self, stage: Stage, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds[stage as usize].fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// The time that went there so far.
    pub(crate) fn time(&self, stage: Stage) -> Duration {
        Duration::from_nanos(self.nanoseconds[stage as usize].load(Ordering::Relaxed))
    }

    /// So many more bytes came out of the decompressor.
    pub(crate) fn add_unpacked(&self, bytes: u64) {
        self.unpacked.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes out of the decompressor so far.
    pub(crate) fn unpacked(&self) -> u64 {
        self.unpacked.load(Ordering::Relaxed)
    }

    /// Does the last step, in which the layer reaches the disk.
    pub(crate) fn sync<T>(&self, work: impl FnOnce() -> T) -> T {
        self.syncing.store(true, Ordering::Relaxed);
        let begun = Instant::now();
        let outcome = work();
        self.spent(Stage::Syncing, begun.elapsed());
        outcome
    }

    /// Whether the last step has begun.
    pub(crate) fn is_syncing(&self) -> bool {
        self.syncing.load(Ordering::Relaxed)
    }
}

/// Processor time that the calling thread has had so far.
pub(crate) fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
