//! The states of a pod and what leads from one to the next: pure, no clock, no files, no processes.
//!
//! ```text
//!            Made                Stop               Drained              Dismantled, nothing left or something
//! Making ──────────► Ready ──────────────► Draining ────────► Stopping ────────────────────► NotReady
//!   │ Failed, nothing left ► Gone            ▲   │ DrainFailed                                │  │ Remove
//!   │ Failed, something left ► Unmade        │   └──────────────► NotReady ◄── SupervisorLost  │  ▼
//!                                            └───────── Stop, while something is left ─────────┘ Removing ─ Erased ► Gone
//! ```
//! An unmade pod goes like one that is not ready; besides, a new request for its name takes it away. A wish to remove a pod that is ready stops it first. What a pod consists of is data: its [`Part`]s, taken down in one
//! order whoever asks for it (undo, stop, removal, recovery).
//!
//! An end is told of when it is over with the containers: after they were buried, where the supervisor is lost. More than one way of ending may
//! want to tell of it; what has been told already is not told again (see `pod::told`).
//!
//! Not here: performing the effects (see `pod::actor`), containers (see `container::state`).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::events::EventKind;

/// A thing that a pod consists of, in the order in which they are taken down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Part {
    /// The attachment to the network, with its addresses.
    Network,
    /// The supervisor, with the namespaces that it pins.
    Supervisor,
    /// The cgroup with all below it.
    Cgroup,
}

/// The parts that a pod has.
pub(crate) type Parts = BTreeSet<Part>;

/// A process that cannot be taken for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    /// Its number.
    pub(crate) pid: i32,
    /// When it started, in clock ticks since boot (proc(5), field 22 of `stat`).
    pub(crate) start_time: u64,
}

/// What exists while a pod is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Live {
    /// The supervisor.
    pub(crate) supervisor: ProcessId,
    /// Where the network namespace can be opened; `None` on the host's network.
    pub(crate) netns: Option<PathBuf>,
    /// Addresses, the primary one first.
    pub(crate) ips: Vec<IpAddr>,
}

/// What follows once a pod has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// It stays, stopped.
    Rest,
    /// It is removed.
    Remove,
}

/// The state of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PodState {
    /// Being made.
    Making,
    /// Ready for containers.
    Ready(Live),
    /// Its containers are being ended.
    Draining { parts: Parts, then: Then },
    /// Its parts are being taken down.
    Stopping { parts: Parts, then: Then },
    /// It could not be made, and these parts of it could not be undone. It holds its name only until that is asked for again.
    Unmade { parts: Parts },
    /// Stopped or lost; `parts` is what could not be taken down yet.
    NotReady { parts: Parts },
    /// Its containers, parts and files are being removed.
    Removing { parts: Parts },
    /// There is nothing left of it.
    Gone,
}

/// What happens to a pod.
#[derive(Debug, Clone)]
pub(crate) enum PodEvent {
    /// It was made, and has these parts.
    Made { live: Live },
    /// It could not be made; `left` could not be undone.
    Failed { left: Parts, error: Error },
    /// A wish to stop it.
    Stop,
    /// None of its containers runs any more.
    Drained,
    /// A container would not end.
    DrainFailed(Error),
    /// Its parts were taken down but for `left`, of which the error tells.
    Dismantled { left: Parts, error: Option<Error> },
    /// Its supervisor is gone.
    SupervisorLost,
    /// What ended with its supervisor is known.
    Buried,
    /// A wish to remove it.
    Remove,
    /// Its files were removed, or not.
    Erased { left: Parts, result: Result<(), Error> },
}

/// What is awaited by those who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PodGoal {
    /// That it is ready.
    Made,
    /// That it is stopped.
    Stopped,
    /// That it is gone.
    Removed,
}

/// What is to be done about it.
#[derive(Debug, Clone)]
pub(crate) enum PodEffect {
    /// End all containers at once.
    Drain,
    /// The containers' processes have lost their parent: end them by their cgroups.
    Bury,
    /// Take these parts down.
    Dismantle(Parts),
    /// Remove the containers, these parts and the files.
    Erase(Parts),
    /// Write the record.
    Save,
    /// Publish the status.
    Publish,
    /// Publish the status, and tell of it if that is news.
    Announce(EventKind),
    /// Forget the id and the name.
    Forget,
    /// Answer those who wait.
    Answer(PodGoal, Result<(), Error>),
}

/// Why a wish is not granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PodDenied {
    /// Not before something else is finished; to be asked again at the next change.
    Later,
    /// This cannot happen in this state: a fault of the caller.
    Impossible,
}

type Next = Result<(PodState, Vec<PodEffect>), PodDenied>;

/// All parts of a pod, as far as its network goes.
pub(crate) fn parts_of(netns: Option<&PathBuf>) -> Parts {
    let network = netns.map(|_| Part::Network);
    network.into_iter().chain([Part::Supervisor, Part::Cgroup]).collect()
}

impl PodState {
    /// Its name in messages.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Making => "being made",
            Self::Ready(_) => "ready",
            Self::Draining { .. } | Self::Stopping { .. } => "being stopped",
            Self::Unmade { .. } | Self::NotReady { .. } => "not ready",
            Self::Removing { .. } => "being removed",
            Self::Gone => "gone",
        }
    }

    /// The next state, and what is to be done.
    pub(crate) fn step(self, event: PodEvent) -> Next {
        match self {
            Self::Making => making(event),
            Self::Ready(live) => ready(live, event),
            Self::Draining { parts, then } => draining(parts, then, event),
            Self::Stopping { parts, then } => stopping(parts, then, event),
            Self::Unmade { parts } => unmade(parts, event),
            Self::NotReady { parts } => not_ready(parts, event),
            Self::Removing { parts } => removing(parts, event),
            Self::Gone => gone(event),
        }
    }
}

fn making(event: PodEvent) -> Next {
    use PodEffect::{Announce, Answer, Forget, Save};
    match event {
        PodEvent::Made { live } => {
            // Its record was the last step of the work.
            let effects = vec![
                Announce(EventKind::Created),
                Announce(EventKind::Started),
                Answer(PodGoal::Made, Ok(())),
            ];
            Ok((PodState::Ready(live), effects))
        }
        PodEvent::Failed { left, error } if left.is_empty() => {
            Ok((PodState::Gone, vec![Forget, Answer(PodGoal::Made, Err(error))]))
        }
        PodEvent::Failed { left, error } => {
            let effects = vec![Save, Announce(EventKind::Created), Answer(PodGoal::Made, Err(error))];
            Ok((PodState::Unmade { parts: left }, effects))
        }
        PodEvent::Stop | PodEvent::Remove => Err(PodDenied::Later),
        // The work that is under way finds out by itself, and undoes what it has done.
        PodEvent::SupervisorLost => Ok((PodState::Making, vec![])),
        PodEvent::Buried
        | PodEvent::Drained
        | PodEvent::DrainFailed(_)
        | PodEvent::Dismantled { .. }
        | PodEvent::Erased { .. } => Err(PodDenied::Impossible),
    }
}

fn ready(live: Live, event: PodEvent) -> Next {
    use PodEffect::{Bury, Drain, Publish, Save};
    let mut parts = parts_of(live.netns.as_ref());
    match event {
        PodEvent::Stop => Ok((PodState::Draining { parts, then: Then::Rest }, vec![Save, Publish, Drain])),
        PodEvent::Remove => {
            Ok((PodState::Draining { parts, then: Then::Remove }, vec![Save, Publish, Drain]))
        }
        PodEvent::SupervisorLost => {
            parts.remove(&Part::Supervisor);
            Ok((PodState::NotReady { parts }, vec![Publish, Bury]))
        }
        PodEvent::Made { .. }
        | PodEvent::Failed { .. }
        | PodEvent::Buried
        | PodEvent::Drained
        | PodEvent::DrainFailed(_)
        | PodEvent::Dismantled { .. }
        | PodEvent::Erased { .. } => Err(PodDenied::Impossible),
    }
}

fn draining(mut parts: Parts, then: Then, event: PodEvent) -> Next {
    use PodEffect::{Announce, Bury, Dismantle};
    match event {
        PodEvent::Stop => Ok((PodState::Draining { parts, then }, vec![])),
        PodEvent::Remove => Ok((PodState::Draining { parts, then: Then::Remove }, vec![])),
        PodEvent::Drained => Ok((PodState::Stopping { parts: parts.clone(), then }, vec![Dismantle(parts)])),
        PodEvent::DrainFailed(error) => {
            // With what would not end in it.
            let effects = std::iter::once(Announce(EventKind::Stopped)).chain(given_up(&error));
            Ok((PodState::NotReady { parts }, effects.collect()))
        }
        // What it knows of its containers tells when it is drained.
        PodEvent::Buried => Ok((PodState::Draining { parts, then }, vec![])),
        PodEvent::SupervisorLost => {
            parts.remove(&Part::Supervisor);
            Ok((PodState::Draining { parts, then }, vec![Bury]))
        }
        PodEvent::Made { .. }
        | PodEvent::Failed { .. }
        | PodEvent::Dismantled { .. }
        | PodEvent::Erased { .. } => Err(PodDenied::Impossible),
    }
}

fn stopping(parts: Parts, then: Then, event: PodEvent) -> Next {
    use PodEffect::{Announce, Answer, Erase, Save};
    match event {
        PodEvent::Stop => Ok((PodState::Stopping { parts, then }, vec![])),
        PodEvent::Remove => Ok((PodState::Stopping { parts, then: Then::Remove }, vec![])),
        PodEvent::Dismantled { left, error } => {
            let outcome = error.map_or(Ok(()), Err);
            // Told before it is written down: a daemon that is ended between the two leaves it to the next one to tell again.
            let mut effects = vec![Announce(EventKind::Stopped), Save, Answer(PodGoal::Stopped, outcome)];
            match then {
                Then::Rest => Ok((PodState::NotReady { parts: left }, effects)),
                Then::Remove => {
                    effects.push(Erase(left.clone()));
                    Ok((PodState::Removing { parts: left }, effects))
                }
            }
        }
        // The teardown ends the supervisor itself.
        PodEvent::SupervisorLost | PodEvent::Buried => Ok((PodState::Stopping { parts, then }, vec![])),
        PodEvent::Made { .. }
        | PodEvent::Failed { .. }
        | PodEvent::Drained
        | PodEvent::DrainFailed(_)
        | PodEvent::Erased { .. } => Err(PodDenied::Impossible),
    }
}

fn unmade(parts: Parts, event: PodEvent) -> Next {
    match not_ready(parts, event)? {
        (PodState::NotReady { parts }, effects) => Ok((PodState::Unmade { parts }, effects)),
        gone_on => Ok(gone_on),
    }
}

fn not_ready(mut parts: Parts, event: PodEvent) -> Next {
    use PodEffect::{Announce, Answer, Drain, Erase, Save};
    match event {
        PodEvent::Stop if parts.is_empty() => {
            Ok((PodState::NotReady { parts }, vec![Answer(PodGoal::Stopped, Ok(()))]))
        }
        PodEvent::Stop => Ok((PodState::Draining { parts, then: Then::Rest }, vec![Drain])),
        PodEvent::Remove if parts.contains(&Part::Supervisor) => {
            Ok((PodState::Draining { parts, then: Then::Remove }, vec![Drain]))
        }
        PodEvent::Remove => Ok((PodState::Removing { parts: parts.clone() }, vec![Erase(parts)])),
        PodEvent::SupervisorLost => {
            let bury = if parts.remove(&Part::Supervisor) { vec![PodEffect::Bury] } else { vec![] };
            Ok((PodState::NotReady { parts }, bury))
        }
        PodEvent::Buried => Ok((PodState::NotReady { parts }, vec![Announce(EventKind::Stopped), Save])),
        PodEvent::Made { .. }
        | PodEvent::Failed { .. }
        | PodEvent::Drained
        | PodEvent::DrainFailed(_)
        | PodEvent::Dismantled { .. }
        | PodEvent::Erased { .. } => Err(PodDenied::Impossible),
    }
}

/// Whoever waits for an end is told, and so is who waits for the name.
fn given_up(error: &Error) -> Vec<PodEffect> {
    let goals = [PodGoal::Stopped, PodGoal::Removed, PodGoal::Made];
    let answers = goals.map(|goal| PodEffect::Answer(goal, Err(error.clone())));
    std::iter::once(PodEffect::Save).chain(answers).collect()
}

fn removing(parts: Parts, event: PodEvent) -> Next {
    use PodEffect::{Announce, Answer, Forget};
    match event {
        PodEvent::Stop | PodEvent::Remove | PodEvent::SupervisorLost => {
            Ok((PodState::Removing { parts }, vec![]))
        }
        PodEvent::Buried => Ok((PodState::Removing { parts }, vec![Announce(EventKind::Stopped)])),
        PodEvent::Erased { result: Ok(()), .. } => {
            // Nothing is gone that has not ended: there may have been nothing to bury, or nobody was asked to.
            let told = [Announce(EventKind::Stopped), Forget, Announce(EventKind::Deleted)];
            let answers = [Answer(PodGoal::Stopped, Ok(())), Answer(PodGoal::Removed, Ok(()))];
            Ok((PodState::Gone, told.into_iter().chain(answers).collect()))
        }
        PodEvent::Erased { left, result: Err(error) } => {
            // One that an earlier daemon never finished is to be known from here on.
            let effects = std::iter::once(Announce(EventKind::Created)).chain(given_up(&error));
            Ok((PodState::NotReady { parts: left }, effects.collect()))
        }
        PodEvent::Made { .. }
        | PodEvent::Failed { .. }
        | PodEvent::Drained
        | PodEvent::DrainFailed(_)
        | PodEvent::Dismantled { .. } => Err(PodDenied::Impossible),
    }
}

fn gone(event: PodEvent) -> Next {
    use PodEffect::Answer;
    match event {
        PodEvent::Stop => Ok((PodState::Gone, vec![Answer(PodGoal::Stopped, Ok(()))])),
        PodEvent::Remove => Ok((PodState::Gone, vec![Answer(PodGoal::Removed, Ok(()))])),
        PodEvent::SupervisorLost | PodEvent::Buried => Ok((PodState::Gone, vec![])),
        PodEvent::Made { .. }
        | PodEvent::Failed { .. }
        | PodEvent::Drained
        | PodEvent::DrainFailed(_)
        | PodEvent::Dismantled { .. }
        | PodEvent::Erased { .. } => Err(PodDenied::Impossible),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pod::told::Told;

    fn live() -> Live {
        Live { supervisor: ProcessId { pid: 7, start_time: 9 }, netns: Some("/n".into()), ips: vec![] }
    }

    fn any_parts() -> impl Strategy<Value = Parts> {
        proptest::sample::subsequence(vec![Part::Network, Part::Supervisor, Part::Cgroup], 0..=3)
            .prop_map(|parts| parts.into_iter().collect())
    }

    fn any_event() -> impl Strategy<Value = PodEvent> {
        let error = || Error::ShuttingDown;
        prop_oneof![
            Just(PodEvent::Made { live: live() }),
            any_parts().prop_map(move |left| PodEvent::Failed { left, error: error() }),
            Just(PodEvent::Stop),
            Just(PodEvent::Drained),
            Just(PodEvent::DrainFailed(Error::ShuttingDown)),
            any_parts().prop_map(|left| PodEvent::Dismantled {
                error: (!left.is_empty()).then_some(Error::ShuttingDown),
                left,
            }),
            Just(PodEvent::SupervisorLost),
            Just(PodEvent::Buried),
            Just(PodEvent::Remove),
            any_parts().prop_map(|left| PodEvent::Erased {
                result: if left.is_empty() { Ok(()) } else { Err(Error::ShuttingDown) },
                left,
            }),
        ]
    }

    /// What the actor owes the state: an outcome of the work that the state says is under way.
    fn conclude(state: &PodState) -> Option<PodEvent> {
        match state {
            PodState::Making => Some(PodEvent::Made { live: live() }),
            PodState::Draining { .. } => Some(PodEvent::Drained),
            PodState::Stopping { .. } => Some(PodEvent::Dismantled { left: Parts::new(), error: None }),
            PodState::Removing { .. } => Some(PodEvent::Erased { left: Parts::new(), result: Ok(()) }),
            PodState::Ready(_) | PodState::Unmade { .. } | PodState::NotReady { .. } | PodState::Gone => None,
        }
    }

    proptest! {
        /// Whatever happened before, a wish to remove ends with nothing left, and is answered, once the work succeeds.
        #[test]
        fn removal_always_ends(events in proptest::collection::vec(any_event(), 0..40)) {
            let mut state = PodState::Making;
            for event in events {
                if let Ok((next, _)) = state.clone().step(event) {
                    state = next;
                }
            }
            let mut answered = false;
            let mut asked = false;
            for _ in 0..10 {
                let event = if asked { conclude(&state) } else { None };
                let event = event.unwrap_or(PodEvent::Remove);
                match state.clone().step(event) {
                    Ok((next, effects)) => {
                        asked = true;
                        answered |= effects.iter().any(|e| matches!(e, PodEffect::Answer(PodGoal::Removed, Ok(()))));
                        state = next;
                    }
                    Err(PodDenied::Later) => asked = true,
                    Err(PodDenied::Impossible) => prop_assert!(false, "{state:?}"),
                }
                if state == PodState::Making { asked = true; }
                if state == PodState::Gone { break; }
                if matches!(state, PodState::Ready(_)) { asked = false; }
            }
            prop_assert_eq!(&state, &PodState::Gone);
            prop_assert!(answered);
        }

        /// Work is only begun by leaving for the state that waits for its outcome, so it is never begun twice.
        #[test]
        fn work_is_begun_once(events in proptest::collection::vec(any_event(), 0..60)) {
            let mut state = PodState::Making;
            for event in events {
                let before = state.clone();
                let Ok((next, effects)) = state.clone().step(event) else { continue };
                let begun = effects.iter().filter(|e| matches!(e, PodEffect::Dismantle(_) | PodEffect::Erase(_) | PodEffect::Drain)).count();
                prop_assert!(begun <= 1);
                if begun == 1 {
                    prop_assert_ne!(std::mem::discriminant(&before), std::mem::discriminant(&next));
                }
                state = next;
            }
        }

        /// Events come in one order, each at most once, and the last one says what the pod is.
        #[test]
        fn events_are_in_order_and_the_last_is_true(events in proptest::collection::vec(any_event(), 0..60)) {
            use EventKind::{Created, Deleted, Started, Stopped};
            let (mut state, mut told, mut heard) = (PodState::Making, Told::default(), Vec::new());
            let mut is_buried = true;
            for event in events {
                let ended = matches!(event, PodEvent::Buried);
                let Ok((next, effects)) = state.clone().step(event) else { continue };
                is_buried = (is_buried || ended) && !effects.iter().any(|e| matches!(e, PodEffect::Bury));
                heard.extend(effects.into_iter().filter_map(|effect| match effect {
                    PodEffect::Announce(kind) if told.goes_on_to(kind) => Some(kind),
                    _ => None,
                }));
                state = next;
                let last = heard.last().copied();
                match &state {
                    PodState::Making => prop_assert_eq!(last, None),
                    PodState::Ready(_) => prop_assert_eq!(last, Some(Started)),
                    PodState::NotReady { .. } if is_buried && heard.contains(&Started) => {
                        prop_assert_eq!(last, Some(Stopped));
                    }
                    PodState::Draining { .. }
                    | PodState::Stopping { .. }
                    | PodState::Unmade { .. }
                    | PodState::NotReady { .. }
                    | PodState::Removing { .. } => prop_assert!(last.is_some_and(|last| last != Deleted)),
                    // One that could not be made was never told of.
                    PodState::Gone => prop_assert!(heard.is_empty() || heard.ends_with(&[Stopped, Deleted])),
                }
            }
            prop_assert!(heard.is_sorted_by(|one, next| one < next), "{:?}", heard);
            prop_assert!(heard.first().is_none_or(|first| *first == Created), "{:?}", heard);
        }

        /// Nobody is promised a stopped pod that has parts left.
        #[test]
        fn an_ok_to_stop_means_nothing_is_left(events in proptest::collection::vec(any_event(), 0..60)) {
            let mut state = PodState::Making;
            for event in events {
                let Ok((next, effects)) = state.clone().step(event) else { continue };
                if effects.iter().any(|e| matches!(e, PodEffect::Answer(PodGoal::Stopped, Ok(())))) {
                    let left = match &next {
                        PodState::NotReady { parts } | PodState::Unmade { parts } | PodState::Removing { parts } => {
                            parts.len()
                        }
                        PodState::Gone => 0,
                        other => return Err(TestCaseError::fail(format!("{other:?}"))),
                    };
                    prop_assert_eq!(left, 0);
                }
                state = next;
            }
        }
    }
}
