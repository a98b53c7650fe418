//! A time in which something doesn't work: told when it begins and when it is over. Pure.

use std::time::{Duration, Instant};

use super::limits::Lost;

/// How long an episode lasts at least: a disk that is full and not full by turns is told of once in that time.
const SHORTEST: Duration = Duration::from_secs(1);

/// The time in which it doesn't work, if it is one.
#[derive(Debug, Default)]
pub(super) struct Episode(Option<(Instant, Lost)>);

/// What the end of an episode takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// A success, when it has lasted for a while.
    IfLong,
    /// A success.
    ForSure,
}

impl Episode {
    /// It doesn't work: whether that is new.
    pub(super) fn fails(&mut self, now: Instant) -> bool {
        let is_new = self.0.is_none();
        self.0.get_or_insert((now, Lost::default()));
        is_new
    }

    /// So much was lost by it.
    pub(super) fn lost(&mut self, more: Lost) {
        if let Some((_, lost)) = &mut self.0 {
            lost.add(more);
        }
    }

    /// When its end is told, if it has worked since.
    pub(super) fn told_at(&self) -> Option<Instant> {
        self.0.map(|(begun, _)| begun + SHORTEST)
    }

    /// It works. Gives what was lost when an episode is over by that.
    pub(super) fn works(&mut self, now: Instant, over: Over) -> Option<Lost> {
        let (begun, _) = self.0?;
        match over {
            Over::IfLong if now.saturating_duration_since(begun) < SHORTEST => None,
            Over::IfLong | Over::ForSure => self.0.take().map(|(_, lost)| lost),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_by_turns_is_one_episode() {
        let begin = Instant::now();
        let mut episode = Episode::default();
        assert_eq!(episode.works(begin, Over::ForSure), None);
        assert!(episode.fails(begin));
        episode.lost(Lost { lines: 1, bytes: 2 });
        assert_eq!(episode.works(begin, Over::IfLong), None);
        assert!(!episode.fails(begin));
        episode.lost(Lost { lines: 1, bytes: 3 });
        assert_eq!(episode.works(begin + SHORTEST, Over::IfLong), Some(Lost { lines: 2, bytes: 5 }));
        assert_eq!(episode.works(begin + SHORTEST, Over::ForSure), None);
        assert!(episode.fails(begin + SHORTEST));
        assert_eq!(episode.works(begin + SHORTEST, Over::ForSure), Some(Lost::default()));
    }
}
