//! Looking at one layer on a thread of its own, at the speed that was asked for.

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::digest::Digest;
use crate::error::chain;
use crate::layers::{Condition, Layers};

/// Looks at a layer, at so many bytes a second; without a bound, as fast as it goes. Nothing where it isn't in the store.
/// Dropped, the thread ends soon.
pub(super) async fn look(layers: &Layers, diff_id: &Digest, rate: Option<u64>) -> Option<Condition> {
    let (tell, told) = oneshot::channel();
    let (_lives, ended) = channel();
    let (layers, diff_id) = (layers.clone(), diff_id.clone());
    let run = move || {
        if rate.is_some() {
            // On Linux the niceness of the calling thread only. Refused is fine.
            let _ = rustix::process::setpriority_process(None, 19);
        }
        if let Err(error) = layers.confine_to_look_at(&diff_id) {
            let _ = tell.send(Some(Condition::Unseen(chain(&error))));
            return;
        }
        let mut pacer = Pacer { rate, begun: Instant::now(), bytes: 0, ended };
        // Nobody waits for it any more: fine.
        let _ = tell.send(layers.check(&diff_id, &mut |bytes| pacer.after(bytes)));
    };
    let thread = std::thread::Builder::new().name("check".to_owned()).spawn(run);
    if let Err(cause) = thread {
        return Some(Condition::Unseen(format!("no thread can be had for it: {cause}")));
    }
    told.await.ok().flatten()
}

struct Pacer {
    rate: Option<u64>,
    begun: Instant,
    bytes: u64,
    /// Disconnected when nobody waits for the outcome any more.
    ended: Receiver<()>,
}

impl Pacer {
    fn after(&mut self, bytes: u64) -> ControlFlow<()> {
        self.bytes += bytes;
        let due = self.rate.map_or(Duration::ZERO, |rate| {
            Duration::from_millis(self.bytes.saturating_mul(1000) / rate.max(1))
        });
        match self.ended.recv_timeout(due.saturating_sub(self.begun.elapsed())) {
            Err(RecvTimeoutError::Timeout) => ControlFlow::Continue(()),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => ControlFlow::Break(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_as_slowly_as_it_is_told_and_ends_when_nobody_waits() {
        let (lives, ended) = channel();
        let mut pacer = Pacer { rate: Some(1_000_000), begun: Instant::now(), bytes: 0, ended };
        for _ in 0..5 {
            assert!(pacer.after(10_000).is_continue());
        }
        assert!(pacer.begun.elapsed() >= Duration::from_millis(50));
        drop(lives);
        // It would be hours.
        assert!(pacer.after(1 << 40).is_break());
    }
}
