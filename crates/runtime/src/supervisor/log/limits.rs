//! How much may be written, and what was not. Pure.

use std::fmt;
use std::time::{Duration, Instant};

use memchr::memchr_iter;
use rustix::io::Errno;

use crate::supervisor::lines::{content, is_partial};

/// Nanoseconds of a second: a byte of a limit of one byte a second.
const SECOND: i128 = 1_000_000_000;

/// A limit in bytes a second. As much as a second brings may come at once; then nothing does until that much has come together again,
/// so that there is one gap a second at most, and not one behind every line.
#[derive(Debug)]
pub(super) struct Rate {
    /// Bytes a second.
    limit: u64,
    /// What may be written, in bytes times [`SECOND`]. Below zero after a line that was longer than what was left.
    left: i128,
    at: Instant,
    is_exhausted: bool,
}

/// What is not in a log, though it was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lost {
    /// Lines of the log.
    pub(super) lines: u64,
    /// Bytes that the container wrote.
    pub(super) bytes: u64,
}

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// More than so many bytes a second.
    Rate(u64),
    /// The file had so many bytes.
    Size(u64),
    /// It could not be written.
    Failed(Errno),
}

impl Rate {
    pub(super) fn new(limit: u64, now: Instant) -> Self {
        Self { limit, left: i128::from(limit) * SECOND, at: now, is_exhausted: false }
    }

    /// Bytes a second.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// How many bytes of these lines may be written now: whole lines.
    pub(super) fn admit(&mut self, lines: &[u8], now: Instant) -> usize {
        self.refill(now);
        let mut admitted = 0;
        for end in memchr_iter(b'\n', lines) {
            if self.is_exhausted {
                break;
            }
            self.left -= cost(end + 1 - admitted);
            self.is_exhausted = self.left <= 0;
            admitted = end + 1;
        }
        admitted
    }

    /// When more may be written.
    pub(super) fn room_at(&self) -> Instant {
        if !self.is_exhausted {
            return self.at;
        }
        let lacks = self.full() - self.left;
        let nanoseconds = u64::try_from(lacks / i128::from(self.limit.max(1)) + 1).unwrap_or(u64::MAX);
        self.at.checked_add(Duration::from_nanos(nanoseconds)).unwrap_or(self.at)
    }

    fn full(&self) -> i128 {
        i128::from(self.limit) * SECOND
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_nanos();
        let came = i128::try_from(passed).unwrap_or(i128::MAX).saturating_mul(i128::from(self.limit));
        self.left = self.left.saturating_add(came).min(self.full());
        self.is_exhausted &= self.left < self.full();
        self.at = now;
    }
}

fn cost(length: usize) -> i128 {
    i128::try_from(length).unwrap_or(i128::MAX).saturating_mul(SECOND)
}

impl Lost {
    /// Of log lines.
    pub(super) fn of(lines: &[u8]) -> Self {
        let mut lost = Self::default();
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            lost.lines += 1;
            // A line that goes on had no end of its own.
            let written = content(line).len() + usize::from(!is_partial(line));
            lost.bytes += u64::try_from(written).unwrap_or(0);
        }
        lost
    }

    pub(super) fn any(self) -> bool {
        self.lines > 0
    }

    pub(super) fn add(&mut self, more: Self) {
        self.lines += more.lines;
        self.bytes += more.bytes;
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.lines == 1 { "" } else { "s" };
        write!(f, "{} line{s} ({} bytes)", self.lines, self.bytes)
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rate(limit) => write!(f, "more than {limit} bytes a second (rate_limit)"),
            Self::Size(limit) => write!(f, "the log had reached {limit} bytes (size_limit)"),
            Self::Failed(errno) => errno.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_second_brings_as_much_as_the_limit_and_whole_lines() {
        let begin = Instant::now();
        let mut rate = Rate::new(10, begin);
        assert_eq!(rate.admit(b"12345\n7890123\nlate\n", begin), 14, "the line that goes beyond is whole");
        assert_eq!(rate.admit(b"late\n", begin), 0);
        // Four bytes too many, and ten to come together.
        let room = rate.room_at();
        assert!(room > begin + Duration::from_millis(1399) && room < begin + Duration::from_millis(1401));
        assert_eq!(rate.admit(b"late\n", begin + Duration::from_millis(1399)), 0);
        assert_eq!(rate.admit(b"again\n", room), 6);
        assert_eq!(rate.admit(b"\n\n\n\n\n", room), 4);
    }

    #[test]
    fn who_keeps_within_the_limit_loses_nothing() {
        let begin = Instant::now();
        let mut rate = Rate::new(10, begin);
        for tenths in 0..100 {
            let now = begin + Duration::from_millis(tenths * 100);
            assert_eq!(rate.admit(b"\n", now), 1);
        }
    }

    #[test]
    fn what_is_lost_is_counted_as_it_was_written() {
        let time = "2016-10-06T00:17:09.669794202Z";
        let lines = format!("{time} stdout P abc\n{time} stdout F de\n{time} stderr F \n");
        let lost = Lost::of(lines.as_bytes());
        assert_eq!(lost, Lost { lines: 3, bytes: 3 + 3 + 1 });
        assert_eq!(lost.to_string(), "3 lines (7 bytes)");
        assert!(!Lost::of(b"").any());
    }

    proptest! {
        #[test]
        fn never_more_than_the_limit_in_the_long_run(
            limit in 1u64..5000,
            steps in proptest::collection::vec((0u64..3000, 1usize..2000), 1..200),
        ) {
            let begin = Instant::now();
            let mut rate = Rate::new(limit, begin);
            let (mut now, mut admitted) = (begin, 0);
            for (later, length) in steps {
                now += Duration::from_millis(later);
                let mut line = vec![b'x'; length];
                line[length - 1] = b'\n';
                admitted += rate.admit(&line, now);
            }
            let seconds = now.duration_since(begin).as_secs_f64();
            // What comes at once, what has come since, and one line that goes beyond.
            let most = limit as f64 * (seconds + 1.0) + 2000.0;
            prop_assert!(admitted as f64 <= most, "{admitted} of {most}");
        }
    }
}
