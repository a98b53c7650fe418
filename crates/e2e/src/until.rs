//! Waiting for a condition, with a deadline and the last observation.

use std::fmt::Debug;
use std::future::Future;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// How often an observation is made anew: often enough not to cost a test time, seldom enough to leave the processor to
/// what is waited for.
const INTERVAL: Duration = Duration::from_millis(5);

/// How many times slower than a machine of its own, as deadlines are written for, this one may be.
static SLOWNESS: LazyLock<u32> = LazyLock::new(|| {
    let said = std::env::var("KNARR_TEST_SLOWNESS").ok();
    said.map_or(1, |factor| factor.parse().expect("KNARR_TEST_SLOWNESS is a whole number"))
});

/// How long to wait on this machine for what may take `deadline`: as many times longer as `KNARR_TEST_SLOWNESS` says.
/// For what must happen, not for what may not take longer.
///
/// # Panics
/// When `KNARR_TEST_SLOWNESS` is no number.
pub fn patience(deadline: Duration) -> Duration {
    deadline * *SLOWNESS
}

/// Observes again and again until `observe` answers `Ok`, and gives its value.
///
/// # Panics
/// When [`patience`] for `deadline` is at its end; the message says `what` was waited for and the last `Err` that was observed.
pub async fn until<T, E, F>(deadline: Duration, what: &str, observe: impl FnMut() -> F) -> T
where
    E: Debug,
    F: Future<Output = Result<T, E>>,
{
    until_each((INTERVAL, deadline), what, observe).await
}

/// The same for an observation that costs the observed more: with the interval between two.
///
/// # Panics
/// As [`until`].
pub async fn until_each<T, E, F>(
    (interval, deadline): (Duration, Duration),
    what: &str,
    mut observe: impl FnMut() -> F,
) -> T
where
    E: Debug,
    F: Future<Output = Result<T, E>>,
{
    let deadline = patience(deadline);
    let end = Instant::now() + deadline;
    loop {
        match observe().await {
            Ok(value) => return value,
            Err(last) if Instant::now() >= end => {
                panic!("gave up after {deadline:?} waiting for {what}: {last:?}")
            }
            Err(_) => tokio::time::sleep(interval).await,
        }
    }
}
