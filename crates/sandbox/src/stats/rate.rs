//! Rates from counters: processor time of late, and how busy a container's threads were. Pure.
//!
//! Between two looks a rate is what was used divided by the time between them. kubelet looks every 10 to 15 seconds, but others look
//! too, and between looks that follow each other at once there is nothing but noise. So that each look has an earlier one to compare
//! with that is [`WINDOW`] old or a little more, two are kept:
//!
//! ```text
//! looks        x    x  x   x     x  x      x            kept after the last: older ──► the next rate begins here
//!            older            newer       (now)         once newer is as old as the window, it becomes the older
//! ```
//!
//! With looks every second the rate is that of the last 10 to 20 seconds, with one every 15 seconds that since the one before. Before
//! the first look there is the beginning, when nothing had been used yet: the first answer is an average since then. A daemon that finds
//! containers running takes a first look of its own.

use std::time::{Duration, Instant};

use runtime::cgroup::States;

/// How far apart two samples are at least that a rate is made of, except after the beginning. kubelet's own readings are 10 seconds apart.
const WINDOW: Duration = Duration::from_secs(10);

/// Longer ago than this is not of late: less than a window is better then, if it is at least [`SHORT`]. So it is after a pause, and with the
/// first look at what has run for long.
const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_secs(1);

/// Less time than this says nothing: the kernel counts by ticks of up to 10 ms.
const LEAST: Duration = Duration::from_millis(100);

/// A counter at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) cpu_ns: u64,
}

/// What is kept to make rates of.
#[derive(Debug, Default)]
pub(super) struct Rate {
    older: Option<Sample>,
    newer: Option<Sample>,
}

impl Rate {
    /// The rate up to a new sample, in nanoseconds a second, which counts for later ones. `begun` is when there was nothing yet, where that
    /// is known.
    pub(super) fn next(&mut self, now: Sample, begun: Option<Instant>) -> Option<u64> {
        if let Some(newer) = self.newer
            && since(newer.at, now.at) >= WINDOW
        {
            (self.older, self.newer) = (Some(newer), None);
        }
        let first = begun.map_or(now, |at| Sample { at, cpu_ns: 0 });
        let older = *self.older.get_or_insert(first);
        let base = match self.newer {
            Some(newer) if since(older.at, now.at) > LONG && since(newer.at, now.at) >= SHORT => newer,
            _ => older,
        };
        if self.newer.is_none() && since(older.at, now.at) >= WINDOW {
            self.newer = Some(now);
        }
        rate(base, now)
    }
}

fn since(earlier: Instant, later: Instant) -> Duration {
    later.saturating_duration_since(earlier)
}

/// None where too little time has passed, or the counter has gone backwards, as that of another cgroup would.
fn rate(base: Sample, now: Sample) -> Option<u64> {
    let time = since(base.at, now.at);
    let used = now.cpu_ns.checked_sub(base.cpu_ns)?;
    if time < LEAST {
        return None;
    }
    u64::try_from(u128::from(used) * 1_000_000_000 / time.as_nanos()).ok()
}

/// The moment of a time of day, seen from another moment and its time of day (both in nanoseconds since the epoch).
pub(super) fn ago(moment: Instant, at: i64, begun: i64) -> Option<Instant> {
    let time = u64::try_from(at.checked_sub(begun)?).ok()?;
    moment.checked_sub(Duration::from_nanos(time))
}

/// Averages in which what was seen counts less and less, by a factor of e in ten seconds, as the kernel does for the whole machine
/// (kernel/sched/loadavg.c).
#[derive(Debug, Default)]
pub(super) struct Load {
    last: Option<(Instant, f64, f64)>,
}

impl Load {
    /// The averages of threads that run or could, and of those that can't be woken, up to now.
    #[expect(clippy::cast_precision_loss, reason = "numbers of threads are below 2^22 (PID_MAX_LIMIT)")]
    pub(super) fn next(&mut self, at: Instant, states: States) -> (f64, f64) {
        let (running, stuck) = (states.running as f64, states.uninterruptible as f64);
        let (before, of_running, of_stuck) = self.last.unwrap_or((at, running, stuck));
        let kept = (-since(before, at).as_secs_f64() / 10.0).exp();
        let average = |old: f64, new: f64| old * kept + new * (1.0 - kept);
        let found = (average(of_running, running), average(of_stuck, stuck));
        self.last = Some((at, found.0, found.1));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    /// What looks at these milliseconds answer when one processor is half busy, from the beginning at 0 on.
    fn rates(base: Instant, looks: &[u64]) -> Vec<Option<u64>> {
        let mut rate = Rate::default();
        let look = |at: &u64| {
            let now = Sample { at: base + Duration::from_millis(*at), cpu_ns: at * MS / 2 };
            rate.next(now, Some(base))
        };
        looks.iter().map(look).collect()
    }

    #[test]
    fn the_first_answer_is_the_average_since_the_beginning() {
        let base = Instant::now();
        let half = Some(500_000_000);
        assert_eq!(rates(base, &[50, 3000, 3001]), [None, half, half], "50 ms say nothing");
        let mut adopted = Rate::default();
        let now = Sample { at: base, cpu_ns: 5 };
        assert_eq!(adopted.next(now, None), None, "nobody knows when it began");
        let later = Sample { at: base + Duration::from_secs(2), cpu_ns: 5 + 1_000_000_000 };
        assert_eq!(adopted.next(later, None), Some(500_000_000));
    }

    #[test]
    fn a_rate_is_of_the_last_window_whoever_looks_in_between() {
        let base = Instant::now();
        let mut rate = Rate::default();
        // Busy with one processor for 60 seconds, then idle.
        let cpu = |ms: u64| ms.min(60_000) * MS;
        let mut answers = Vec::new();
        for ms in (0..=100_000).step_by(500) {
            let now = Sample { at: base + Duration::from_millis(ms), cpu_ns: cpu(ms) };
            answers.push((ms, rate.next(now, Some(base))));
        }
        let at = |wanted: u64| answers.iter().find(|(ms, _)| *ms == wanted).unwrap().1.unwrap();
        assert_eq!(at(60_000), 1_000_000_000);
        assert!(at(61_000) > 800_000_000, "{answers:?}");
        assert_eq!(at(80_500), 0, "two windows later nothing of it is left: {answers:?}");
    }

    #[test]
    fn what_has_run_for_long_is_soon_told_of_late() {
        let base = Instant::now();
        let mut rate = Rate::default();
        // An hour of work, then none; looked at for the first time then.
        let mut look = |ms: u64| {
            let at = base + Duration::from_secs(3600) + Duration::from_millis(ms);
            rate.next(Sample { at, cpu_ns: 3600 * 1_000_000_000 }, Some(base))
        };
        assert_eq!((look(0), look(2000), look(14_000)), (Some(1_000_000_000), Some(0), Some(0)));
    }

    #[test]
    fn a_counter_that_goes_backwards_has_no_rate() {
        let base = Instant::now();
        let mut rate = Rate::default();
        let mut look = |seconds: u64, cpu_ns| {
            rate.next(Sample { at: base + Duration::from_secs(seconds), cpu_ns }, None)
        };
        assert_eq!((look(0, 100), look(20, 50), look(40, 50)), (None, None, Some(0)));
    }

    #[test]
    fn load_follows_within_some_ten_seconds() {
        let base = Instant::now();
        let mut load = Load::default();
        let states = |running| States { running, uninterruptible: 1, ..States::default() };
        assert_eq!(load.next(base, states(0)), (0.0, 1.0));
        let (after, _) = load.next(base + Duration::from_secs(10), states(4));
        assert!((2.5..2.6).contains(&after), "{after}");
        let (later, stuck) = load.next(base + Duration::from_secs(100), states(4));
        assert!((3.99..4.01).contains(&later) && (0.99..1.01).contains(&stuck), "{later}");
    }

    proptest! {
        /// Of a load that is always the same every answer is that load, whenever somebody looks.
        #[test]
        fn a_steady_load_is_told_as_it_is(mut looks in prop::collection::vec(0_u64..1_000_000, 1..50)) {
            looks.sort_unstable();
            for answer in rates(Instant::now(), &looks).into_iter().flatten() {
                prop_assert!(answer.abs_diff(500_000_000) <= 1, "{answer}");
            }
        }
    }
}
