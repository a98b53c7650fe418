//! How much of anything a peer may ask for.

use std::time::Duration;

/// How often a peer that we don't read from is sent a PING, so that one which has gone is noticed: writing to it fails.
pub const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How long a connection that was closed here waits for the peer to go first. Clients do as soon as all streams have ended.
pub const LINGER: Duration = Duration::from_secs(5);

/// Frames that move nothing on. kubectl sends a PING every five seconds.
pub const IDLE_FRAMES: Rate = Rate { per_second: 20, burst: 200 };

/// What is allowed to one connection. No number of these is in the specification; a peer that keeps to what kubectl, crictl and
/// kubelet do is far below each.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of the payload of a control frame. Clients send some 100; spdystream allows 16 MiB.
    pub control_frame: usize,
    /// Bytes of a header block when decompressed. Clients send less than 200; spdystream allows 1 MiB for each name and value.
    pub header_bytes: usize,
    /// Names in a header block. Clients send three at most; spdystream allows 1,000.
    pub header_pairs: usize,
    /// Streams that are open, or in somebody's hands here, at once; the next is refused. A remote command has five, a forwarded
    /// connection two. Each may hold [`Limits::floor`] in both directions.
    pub streams: usize,
    /// Streams opened in a second, and header blocks sent; more end the connection. A Go client that opens one after the other
    /// reaches some 10,000 in a second; a load test through a forwarded port needs two for each connection.
    pub opened: Rate,
    /// Frames in a second that move nothing on and are answered or thrown away: PING, SETTINGS, WINDOW_UPDATE that gives back nothing that
    /// was sent, empty data frames, data for streams that never were, types that are unknown.
    pub idle_frames: Rate,
    /// Bytes that all streams together may hold in each direction before it stops; then each still may hold
    /// [`Limits::floor`].
    pub buffered: usize,
    /// Bytes that a stream may hold in each direction whatever the others do.
    pub floor: usize,
    /// Bytes that one stream may hold for the peer to take.
    pub outgoing: usize,
    /// Bytes of answers (replies, resets, pings) that wait for the peer to take them before nothing more is read.
    pub answers: usize,
    /// After how long the connection ends in which no stream was opened or ended and no byte of one moved; no other frame counts, or
    /// clients' keep-alive would make this void.
    pub idle: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            control_frame: 16 << 10,
            header_bytes: 16 << 10,
            header_pairs: 64,
            streams: 1024,
            opened: Rate { per_second: 5000, burst: 20_000 },
            idle_frames: IDLE_FRAMES,
            buffered: 1 << 20,
            floor: 4 << 10,
            outgoing: 64 << 10,
            answers: 64 << 10,
            idle: None,
        }
    }
}

/// How often something may happen.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// In the long run.
    pub per_second: u32,
    /// At once, after a rest.
    pub burst: u32,
}

/// Counts against a rate: a bucket that fills again with time.
#[derive(Debug)]
pub struct Meter {
    rate: Rate,
    /// What is left, in thousandths.
    left: u64,
    filled: Duration,
}

impl Meter {
    /// With the whole burst left.
    pub fn new(rate: Rate) -> Self {
        Self { rate, left: u64::from(rate.burst) * 1000, filled: Duration::ZERO }
    }

    /// Takes one; false when there is none. `now` is time since any one beginning.
    pub fn take(&mut self, now: Duration) -> bool {
        let passed = now.saturating_sub(self.filled).as_millis().try_into().unwrap_or(u64::MAX);
        if passed > 0 {
            let gained = passed.saturating_mul(u64::from(self.rate.per_second));
            self.left = self.left.saturating_add(gained).min(u64::from(self.rate.burst) * 1000);
            self.filled = now;
        }
        let enough = self.left >= 1000;
        self.left = self.left.saturating_sub(if enough { 1000 } else { 0 });
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_allows_its_burst_and_then_what_time_brings() {
        let mut meter = Meter::new(Rate { per_second: 10, burst: 3 });
        let taken =
            |meter: &mut Meter, now| (0..100).filter(|_| meter.take(Duration::from_millis(now))).count();
        assert_eq!(taken(&mut meter, 0), 3);
        assert_eq!(taken(&mut meter, 99), 0);
        assert_eq!(taken(&mut meter, 300), 3);
        assert_eq!(taken(&mut meter, 60_000), 3);
    }
}
