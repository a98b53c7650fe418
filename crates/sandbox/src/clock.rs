//! The time of day, as statuses and records carry it.
//!
//! Not here: deadlines and durations, which are measured by a clock that nobody can set (`tokio::time`).

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since the epoch, as CRI counts time.
pub fn now() -> i64 {
    nanoseconds(SystemTime::now())
}

/// A time of day as CRI has it.
pub fn nanoseconds(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
