//! The time of day, as numbers and as logs have it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::lines::Time;

/// One moment on both clocks: what a batch of output is marked with, and what limits count by.
#[derive(Debug)]
pub(super) struct Moment {
    stamp: String,
    pub(super) instant: Instant,
}

impl Moment {
    /// This one. In UTC, RFC 3339 with nine digits of a second, as the CRI log format has it (kubernetes/kubernetes, design proposal
    /// "CRI: logging").
    pub(super) fn now() -> Self {
        let stamp = humantime::format_rfc3339_nanos(UNIX_EPOCH + since_epoch()).to_string();
        Self { stamp, instant: Instant::now() }
    }

    /// As a line of a log begins.
    pub(super) fn time(&self) -> Time<'_> {
        Time(&self.stamp)
    }
}

/// Nanoseconds since the epoch.
pub(super) fn now() -> i64 {
    i64::try_from(since_epoch().as_nanos()).unwrap_or(i64::MAX)
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
