//! How long tests wait for what must happen. Not here: what they wait for.

use std::time::{Duration, Instant};

/// Nothing here takes long: a test that waits longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often is looked.
const INTERVAL: Duration = Duration::from_millis(1);

/// By how much longer things may take on this machine than on one of its own.
pub(crate) fn slowness() -> u32 {
    std::env::var("KNARR_TEST_SLOWNESS").map_or(1, |factor| factor.parse().unwrap())
}

/// How long to wait for what must happen.
pub(crate) fn patience() -> Duration {
    PATIENCE * slowness()
}

/// Looks until there is an answer.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + patience();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < give_up, "not within {:?}: {what}", patience());
        // What is waited for needs the processor more: tests run side by side.
        std::thread::park_timeout(INTERVAL);
    }
}
