//! Messages that move nothing: counted, as SPDY's frames of that kind are.

use tokio::time::Instant;

use crate::spdy::{IDLE_FRAMES, Meter};

/// What such messages are counted by.
#[derive(Debug)]
pub(crate) struct Flood {
    meter: Meter,
    began: Instant,
}

/// More of them than a client has reason to send.
#[derive(Debug, thiserror::Error)]
#[error("too many messages that carry nothing")]
pub(crate) struct TooMany;

impl Default for Flood {
    fn default() -> Self {
        Self { meter: Meter::new(IDLE_FRAMES), began: Instant::now() }
    }
}

impl Flood {
    /// Counts one: a ping, a pong, nothing for a channel, anything for a channel that never was.
    ///
    /// # Errors
    /// [`TooMany`] when the connection is to end.
    pub(crate) fn count(&mut self) -> Result<(), TooMany> {
        if self.meter.take(self.began.elapsed()) { Ok(()) } else { Err(TooMany) }
    }
}
