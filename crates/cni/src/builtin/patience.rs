//! Waiting for what happens soon, and what nobody tells of.

use std::thread;
use std::time::{Duration, Instant};

/// The first pause; each is twice as long as the one before.
const FIRST: Duration = Duration::from_micros(100);
/// No pause is longer.
const LONGEST: Duration = Duration::from_millis(20);

/// Pauses between one look and the next, up to a deadline.
#[derive(Debug)]
pub(crate) struct Patience {
    begun: Instant,
    deadline: Duration,
    pause: Duration,
}

impl Patience {
    /// Begins now.
    pub(crate) fn new(deadline: Duration) -> Patience {
        Patience { begun: Instant::now(), deadline, pause: FIRST }
    }

    /// Pauses. Returns whether it is worth another look: false once the deadline has passed.
    #[expect(
        clippy::disallowed_methods,
        reason = "there is no event to wait for, and nothing else to do on this thread"
    )]
    pub(crate) fn pause(&mut self) -> bool {
        if self.begun.elapsed() > self.deadline {
            return false;
        }
        thread::sleep(self.pause);
        self.pause = (self.pause * 2).min(LONGEST);
        true
    }
}
