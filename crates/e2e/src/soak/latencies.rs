//! How long calls took, gathered by whoever makes them and taken away at each sample.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// RunPodSandbox, CreateContainer and StartContainer.
    Start,
    /// StopContainer, ContainerStatus, StopPodSandbox and RemovePodSandbox.
    End,
    /// ExecSync of `echo`.
    Exec,
    /// ListPodSandbox and ListContainers.
    List,
    /// ListContainerStats of all.
    Stats,
    /// PullImage of a new layer.
    Pull,
    /// ExecSync that is killed at its time-out.
    SlowExec,
    /// A session of exec or attach.
    Stream,
    /// A log, read from its beginning.
    Log,
    /// A log, rotated.
    Rotation,
    /// The daemon's figures.
    Scrape,
}

/// All, in the order of the enum, as they are called in tables.
pub const CALLS: [(Call, &str); 11] = [
    (Call::Start, "pods started"),
    (Call::End, "pods stopped and removed"),
    (Call::Exec, "exec probes"),
    (Call::List, "lists of pods and containers"),
    (Call::Stats, "statistics of all containers and pods"),
    (Call::Pull, "images pulled, and removed"),
    (Call::SlowExec, "exec probes killed at their time-out"),
    (Call::Stream, "sessions of exec and attach"),
    (Call::Log, "logs read"),
    (Call::Rotation, "logs rotated"),
    (Call::Scrape, "scrapes of the daemon's metrics"),
];

/// Milliseconds of each kind of call.
#[derive(Default)]
pub struct Latencies {
    since: Mutex<[Vec<f64>; CALLS.len()]>,
    counts: Mutex<[u64; CALLS.len()]>,
}

impl Latencies {
    /// Awaits a call, and notes how long it took when it went well.
    pub async fn timed<T, E>(&self, call: Call, made: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let begun = Instant::now();
        let answer = made.await;
        if answer.is_ok() {
            locked(&self.since)[call as usize].push(begun.elapsed().as_secs_f64() * 1e3);
            locked(&self.counts)[call as usize] += 1;
        }
        answer
    }

    /// All since the last time, sorted.
    pub fn take(&self) -> [Vec<f64>; CALLS.len()] {
        let mut taken = std::mem::take(&mut *locked(&self.since));
        for times in &mut taken {
            times.sort_by(f64::total_cmp);
        }
        taken
    }

    /// How many of each there were in all.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let counts = locked(&self.counts);
        CALLS.iter().map(|(call, name)| (*name, counts[*call as usize])).collect()
    }
}

/// The value below which so many of a hundred are; none of nothing.
pub fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last * percent).div_ceil(100)).copied()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_there() {
        let times: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((percentile(&times, 50), percentile(&times, 99)), (Some(51.0), Some(100.0)));
        assert_eq!((percentile(&times[..1], 99), percentile(&[], 50)), (Some(1.0), None));
    }
}
