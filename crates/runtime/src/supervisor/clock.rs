//! The time of day, as numbers and as logs have it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Nanoseconds since the epoch.
pub(super) fn now() -> i64 {
    i64::try_from(since_epoch().as_nanos()).unwrap_or(i64::MAX)
}

/// Now in UTC, RFC 3339 with nine digits of a second, as the CRI log format has it (kubernetes/kubernetes,
/// design proposal "CRI: logging").
pub(super) fn stamp() -> String {
    humantime::format_rfc3339_nanos(UNIX_EPOCH + since_epoch()).to_string()
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
