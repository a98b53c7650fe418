//! How long tests wait for what must happen. Not here: what they wait for.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// Nothing here takes long: a test that waits longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often is looked.
const INTERVAL: Duration = Duration::from_millis(5);

/// How long to wait on this machine, which may be as many times slower than one of its own as `KNARR_TEST_SLOWNESS` says.
pub(crate) fn patience() -> Duration {
    PATIENCE * std::env::var("KNARR_TEST_SLOWNESS").map_or(1, |factor| factor.parse().unwrap())
}

/// Looks until it is so; says what was seen last when it gives up.
pub(crate) async fn until<E: Debug>(what: &str, mut look: impl FnMut() -> Result<(), E>) {
    let give_up = Instant::now() + patience();
    while let Err(seen) = look() {
        assert!(Instant::now() < give_up, "not within {:?}: {what}, but {seen:?}", patience());
        tokio::time::sleep(INTERVAL).await;
    }
}
