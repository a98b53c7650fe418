//! Waiting for a condition, with a deadline and the last observation.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

/// How often an observation is made anew: often enough not to cost a test time, seldom enough to leave the processor to
/// what is waited for.
const INTERVAL: Duration = Duration::from_millis(5);

/// Observes again and again until `observe` answers `Ok`, and gives its value.
///
/// # Panics
/// When `deadline` has passed; the message says `what` was waited for and the last `Err` that was observed.
pub async fn until<T, E, F>(deadline: Duration, what: &str, mut observe: impl FnMut() -> F) -> T
where
    E: Debug,
    F: Future<Output = Result<T, E>>,
{
    let end = Instant::now() + deadline;
    loop {
        match observe().await {
            Ok(value) => return value,
            Err(last) if Instant::now() >= end => {
                panic!("gave up after {deadline:?} waiting for {what}: {last:?}")
            }
            Err(_) => tokio::time::sleep(INTERVAL).await,
        }
    }
}
