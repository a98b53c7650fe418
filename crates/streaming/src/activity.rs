//! When bytes last moved in a session.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The moment of the last byte.
#[derive(Debug)]
pub(crate) struct Activity(Mutex<Instant>);

impl Default for Activity {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl Activity {
    /// Bytes moved.
    pub(crate) fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Waits until no byte has moved for that long. Safe to cancel.
    pub(crate) async fn idle(&self, time: Duration) {
        loop {
            let end = *self.0.lock().unwrap_or_else(PoisonError::into_inner) + time;
            if end <= Instant::now() {
                return;
            }
            sleep_until(end).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_put_the_end_off() {
        let activity = Activity::default();
        let begun = Instant::now();
        let work = async {
            tokio::time::sleep(Duration::from_secs(6)).await;
            activity.now();
        };
        tokio::join!(work, activity.idle(Duration::from_secs(10)));
        assert_eq!(begun.elapsed().as_secs(), 16);
    }
}
