//! How far the round through all layers has come: written down, so that a node that is restarted often gets to all of
//! them too.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Version of the form.
const VERSION: u32 = 1;
/// Longest wait at once: the clock may be set meanwhile.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// A round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Round {
    version: u32,
    /// Seconds since 1970.
    begun: u64,
    /// The layer that was looked at last: they are looked at in the order of their digests.
    after: Option<Digest>,
    /// All have been looked at.
    done: bool,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Layer(Digest),
    Wait(Duration),
}

impl Round {
    /// The round that was written down. On a new node there is none: what was just fetched needs no look, so a round counts
    /// as done now.
    pub(super) fn read(path: &Path) -> Round {
        let read = fs::read(path).and_then(|bytes| Ok(serde_json::from_slice::<Round>(&bytes)?));
        match read {
            Ok(round) if round.version == VERSION => round,
            _ => Round { version: VERSION, begun: now(), after: None, done: true },
        }
    }

    /// Writes it down. Lost, it costs a round that begins anew, so it isn't synced and no failure counts.
    pub(super) fn write(&self, path: &Path) {
        let beside = path.with_extension("json.tmp");
        let bytes = serde_json::to_vec(self).map_err(io::Error::from);
        let written =
            bytes.and_then(|bytes| fs::write(&beside, bytes)).and_then(|()| fs::rename(&beside, path));
        if let Err(cause) = written {
            tracing::debug!(%cause, "cannot write down how far the check of layers has come");
            let _ = fs::remove_file(&beside);
        }
    }

    /// What comes next, when each layer of `all`, in order, is to be looked at once in `period`.
    pub(super) fn next(&mut self, period: Duration, all: &[Digest]) -> Next {
        self.next_at(now(), period, all)
    }

    fn next_at(&mut self, now: u64, period: Duration, all: &[Digest]) -> Next {
        // Begun in the future: then the clock was wrong.
        self.begun = self.begun.min(now);
        if self.done {
            let left = period.saturating_sub(Duration::from_secs(now - self.begun));
            if !left.is_zero() {
                return Next::Wait(left.min(LONGEST_WAIT));
            }
            (self.begun, self.after, self.done) = (now, None, false);
        }
        match all.iter().find(|diff_id| self.after.as_ref() < Some(*diff_id)) {
            Some(diff_id) => Next::Layer(diff_id.clone()),
            None => {
                self.done = true;
                Next::Wait(period.saturating_sub(Duration::from_secs(now - self.begun)).min(LONGEST_WAIT))
            }
        }
    }

    /// A layer has been looked at.
    pub(super) fn done(&mut self, diff_id: Digest) {
        self.after = Some(diff_id);
    }
}

fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn each_layer_has_its_turn_once_a_period_also_across_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("check.json");
        let mut all: Vec<Digest> = (0..4u8).map(|n| Digest::of(&[n])).collect();
        all.sort();
        let late = all.remove(1);
        let mut round = Round { begun: 1000, ..Round::read(&path) };
        assert_eq!(round.next_at(1000, DAY, &all), Next::Wait(LONGEST_WAIT));
        assert_eq!(round.next_at(87_300, DAY, &all), Next::Wait(Duration::from_secs(100)));
        assert_eq!(round.next_at(87_400, DAY, &all), Next::Layer(all[0].clone()));
        assert_eq!(round.next_at(87_401, DAY, &all), Next::Layer(all[0].clone()));
        round.done(all[0].clone());
        round.write(&path);
        let mut round = Round::read(&path);
        // One that came meanwhile.
        all.insert(1, late);
        for layer in &all[1..] {
            assert_eq!(round.next_at(87_500, DAY, &all), Next::Layer(layer.clone()));
            round.done(layer.clone());
        }
        assert_eq!(round.next_at(87_500, DAY, &all), Next::Wait(LONGEST_WAIT));
        assert_eq!(round.next_at(87_400 + 86_400, DAY, &all), Next::Layer(all[0].clone()));
        // The clock is set back, and there is nothing to look at.
        assert_eq!(round.next_at(10, DAY, &[]), Next::Wait(LONGEST_WAIT));
    }
}
