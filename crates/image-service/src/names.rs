//! Names for things that are about to be renamed away or into place.

use std::sync::atomic::{AtomicU64, Ordering};

/// A name that nothing else has: of this process and moment, and counted. A crash may leave such names behind, so the
/// time tells the next run's from them.
pub(crate) fn unique() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let pid = rustix::process::getpid();
    format!("{:x}{:08x}-{:x}-{count:x}", now.tv_sec, now.tv_nsec, pid.as_raw_nonzero())
}
