//! What all pulls of the service cost, for whoever counts; and the line in the log about one.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::progress::PullStatistics;
use crate::image::ImageId;
use crate::reference::Reference;

/// Counters since the service was opened: they only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PullTotals {
    /// Pulls that ended with an image.
    pub succeeded: u64,
    /// Pulls that came to nothing.
    pub failed: u64,
    /// Layers that had to be fetched.
    pub layers_fetched: u64,
    /// Layers of pulled images that were here already.
    pub layers_reused: u64,
    /// Sums of what each pull cost; `layers` and `layers_new` are the sums of theirs.
    pub cost: PullStatistics,
}

/// The counters.
#[derive(Debug, Default)]
pub(super) struct Totals(Mutex<PullTotals>);

impl Totals {
    /// Adds a pull that has ended.
    pub(super) fn add(&self, pull: &PullStatistics, succeeded: bool) {
        let mut totals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match succeeded {
            true => totals.succeeded += 1,
            false => totals.failed += 1,
        }
        totals.layers_fetched += pull.layers_new as u64;
        totals.layers_reused += (pull.layers - pull.layers_new) as u64;
        totals.cost += *pull;
    }

    pub(super) fn now(&self) -> PullTotals {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::ops::AddAssign for PullStatistics {
    fn add_assign(&mut self, other: PullStatistics) {
        self.wall += other.wall;
        self.bytes_fetched += other.bytes_fetched;
        self.bytes_resumed += other.bytes_resumed;
        self.bytes_unpacked += other.bytes_unpacked;
        self.layers += other.layers;
        self.layers_new += other.layers_new;
        self.retries += other.retries;
        self.waiting += other.waiting;
        self.spooling += other.spooling;
        self.decompressing += other.decompressing;
        self.hashing += other.hashing;
        self.writing += other.writing;
        self.syncing += other.syncing;
    }
}

impl PullStatistics {
    pub(super) fn log(&self, image: &Reference, id: &ImageId) {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        tracing::info!(
            %image,
            %id,
            layers = self.layers_new,
            milliseconds = ms(self.wall),
            fetched = self.bytes_fetched,
            resumed = self.bytes_resumed,
            unpacked = self.bytes_unpacked,
            retries = self.retries,
            waiting_ms = ms(self.waiting),
            spool_ms = ms(self.spooling),
            decompress_ms = ms(self.decompressing),
            hash_ms = ms(self.hashing),
            write_ms = ms(self.writing),
            sync_ms = ms(self.syncing),
            "pulled"
        );
    }
}
