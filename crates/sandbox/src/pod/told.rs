//! How far the events of a sandbox have come: each is told at most once, in one order.
//!
//! A pod can end in more than one way, one after the other: its supervisor is lost, and kubelet stops it all the same. Whoever
//! listens hears of the first. Not here: what leads to an event (see `pod::state`), telling it (see `events`).

use crate::events::EventKind;
use crate::pod::state::{Part, Parts};
use crate::record::{PodRecord, PodStage};

/// The last event of a sandbox; `None` before it was told of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Told(Option<EventKind>);

impl Told {
    /// What an earlier daemon has told of a pod that was found. Of one that wasn't finished nobody has heard.
    pub(crate) fn by_record(record: &PodRecord) -> Self {
        Self(match &record.stage {
            PodStage::Making => None,
            // Its record is the last step of its making.
            PodStage::Ready(_) => record.told.or(Some(EventKind::Started)),
            PodStage::NotReady(parts) => record.told.or_else(|| Some(without_a_word(parts))),
        })
    }

    /// What is written down of it.
    pub(crate) fn last(self) -> Option<EventKind> {
        self.0
    }

    /// Goes on to an event, if that is to be told: it comes after the last one, and first of all is that the sandbox is there.
    pub(crate) fn goes_on_to(&mut self, kind: EventKind) -> bool {
        let is_next = match self.0 {
            None => kind == EventKind::Created,
            Some(last) => kind > last,
        };
        if is_next {
            self.0 = Some(kind);
        }
        is_next
    }
}

/// Of a record that doesn't say, for it was written by a daemon that didn't: a pod that has its supervisor was being stopped.
fn without_a_word(parts: &Parts) -> EventKind {
    if parts.contains(&Part::Supervisor) { EventKind::Started } else { EventKind::Stopped }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_once_and_nothing_of_what_nobody_has_heard_of() {
        use EventKind::{Created, Deleted, Started, Stopped};
        let mut told = Told::default();
        let wanted = [Stopped, Deleted, Created, Created, Stopped, Started, Stopped, Deleted, Deleted];
        let heard: Vec<_> = wanted.into_iter().filter(|kind| told.goes_on_to(*kind)).collect();
        assert_eq!(heard, [Created, Stopped, Deleted]);
    }

    #[test]
    fn a_new_daemon_goes_on_where_the_earlier_one_was() {
        use EventKind::{Deleted, Started, Stopped};
        let not_ready = |parts: &[Part]| PodStage::NotReady(parts.iter().copied().collect());
        let next = |stage: &PodStage, told| {
            let mut told = Told::by_record(&PodRecord { told, ..PodRecord::of_stage(stage.clone()) });
            [Stopped, Deleted].map(|kind| told.goes_on_to(kind))
        };
        let (there, gone) = (not_ready(&[Part::Supervisor, Part::Cgroup]), not_ready(&[Part::Cgroup]));
        assert_eq!(next(&PodStage::Making, None), [false, false]);
        // Whatever its parts: a stop that failed half-way, limits that were written while the dead were being buried.
        assert_eq!(next(&there, Some(Stopped)), [false, true]);
        assert_eq!(next(&gone, Some(Started)), [true, true]);
        assert_eq!([next(&there, None), next(&gone, None)], [[true, true], [false, true]]);
    }
}
