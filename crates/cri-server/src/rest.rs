//! When the daemon rests it gives back what it has used for a moment: free memory of the allocator's, and the pages of the program
//! itself, most of which only a start, a pull or the life of a pod needs.
//!
//! Calls that only look (kubelet's lists and statuses, every second) are no work: what they need comes back and stays. Not here:
//! what a pull gives back at its end (`image_service`), and a large list (`runtime_service`), without waiting for rest.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::call_log::CallLog;

/// How long nothing was done before the daemon rests. Long against the gaps in a pod's start, in which the pages that were given
/// back would have to come back one by one; short against the time for which an idle node is idle.
const QUIET: Duration = Duration::from_secs(5);

/// After which it gives back also in the midst of work: probes of a full node leave no gap.
const UNREST: Duration = Duration::from_secs(60);

/// After which it gives back also when there was no work, for what it does by itself: collections, news of pods.
const AGAIN: Duration = Duration::from_secs(600);

/// Gives back whenever there was work and the daemon has come to rest: at first after its start.
pub(crate) async fn whenever(calls: &CallLog) -> Infallible {
    let mut work = calls.work();
    loop {
        come_to_rest(&mut work).await;
        // The allocator is locked while it is looked through.
        let _ended = tokio::task::spawn_blocking(give_back).await;
        let _elapsed = timeout(AGAIN, work.changed()).await;
    }
}

fn give_back() {
    sandbox::give_back_memory();
    sandbox::give_back_program();
}

/// Waits until there was no work for a while, or too long no rest.
async fn come_to_rest(work: &mut watch::Receiver<()>) {
    let latest = Instant::now() + UNREST;
    while Instant::now() < latest {
        let quiet = latest.min(Instant::now() + QUIET);
        let Ok(Ok(())) = timeout_at(quiet, work.changed()).await else { return };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long it takes to come to rest when there is work every so often, `times` times.
    async fn rests_after(every: Duration, times: u32) -> Duration {
        let (worker, mut work) = watch::channel(());
        let begun = Instant::now();
        tokio::spawn(async move {
            for _ in 0..times {
                tokio::time::sleep(every).await;
                worker.send_replace(());
            }
            worker.closed().await;
        });
        come_to_rest(&mut work).await;
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn rest_comes_when_nothing_was_done_for_a_while() {
        let second = Duration::from_secs(1);
        assert_eq!(rests_after(second, 0).await.as_secs(), QUIET.as_secs());
        assert_eq!(rests_after(3 * second, 4).await.as_secs(), 4 * 3 + QUIET.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn work_without_an_end_puts_it_off_for_a_minute() {
        assert_eq!(rests_after(Duration::from_secs(1), 1000).await.as_secs(), UNREST.as_secs());
    }
}
