//! The states of a container and what leads from one to the next: pure, no clock, no files, no processes.
//!
//! ```text
//!          Made             Start              Started            Ended
//! Making ───────► Created ────────► Starting ─────────► Running ─────────► Exited ── Remove ► Removing ── Removed ► Gone
//!   │ Failed ► Gone   │ Remove ► Removing │ StartFailed   │ Stop             ▲
//!                                         └──────────┐    ▼      Ended      │
//!                                                    │ Stopping ────────────┤
//!                                                    └──────────────────────┘
//! ```
//! A stop asks with the stop signal, waits for the grace period and then kills; a shorter grace that comes later counts from when it
//! came. A removal kills what runs first.
//!
//! A start that is under way hears no signal. A stop lets it go on for its grace period: what begins to run meanwhile is asked, and what
//! doesn't is killed when the time is over. A removal, or a stop without grace, kills it at once.
//!
//! Not here: performing the effects (see `pod::actor`), what CRI shows (see `container::status`).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::container::status::Exited;
use crate::error::Error;
use crate::events::EventKind;
use crate::pod::state::{ProcessId, Then};

/// A container's first process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    /// Which one.
    pub(crate) id: ProcessId,
    /// When it was started, in nanoseconds since the epoch.
    pub(crate) started_at: i64,
}

/// How far a stop has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The stop signal was sent.
    Asked,
    /// SIGKILL was sent.
    Killed,
}

/// Whether a start that is under way is still wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// It is.
    Yes,
    /// It has until its stop's grace period is over.
    ForNow,
    /// It is killed, and this follows.
    No(Then),
}

/// The state of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ContainerState {
    /// Being made.
    Making,
    /// Data at rest.
    Created,
    /// Its process is being started. The news of its end may overtake that of its start.
    Starting { ended: Option<Exited>, wanted: Wanted },
    /// Its process runs.
    Running(Process),
    /// Its process is being ended.
    Stopping { process: Process, stage: Stage, then: Then },
    /// Its process has ended, or never was.
    Exited(Exited),
    /// Its files are being removed. It is shown as it was before.
    Removing { before: Option<Exited> },
    /// There is nothing left of it.
    Gone,
}

/// What happens to a container.
#[derive(Debug, Clone)]
pub(crate) enum ContainerEvent {
    /// It was made.
    Made,
    /// It could not be made; what was done is undone.
    Failed(Error),
    /// A wish to start it.
    Start,
    /// Its process executes its command.
    Started(Process),
    /// Its process could not be started.
    StartFailed { exited: Exited, error: Error },
    /// A wish to stop it.
    Stop { grace: Duration },
    /// A grace period is over.
    GraceOver,
    /// It was killed, and should have been gone by now.
    KillOverdue(Error),
    /// Its process has ended.
    Ended(Exited),
    /// A wish to remove it.
    Remove,
    /// Its files were removed, or not.
    Removed(Result<(), Error>),
}

/// What is awaited by those who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ContainerGoal {
    /// That it is made.
    Made,
    /// That it runs.
    Started,
    /// That it does not run.
    Stopped,
    /// That it is gone.
    Removed,
}

/// What is to be done about it.
#[derive(Debug, Clone)]
pub(crate) enum ContainerEffect {
    /// Start the process.
    Launch,
    /// Send the stop signal.
    Ask,
    /// Tell when this time is over.
    Wait(Duration),
    /// Kill every process of it, and tell when it is overdue.
    Kill,
    /// Have its start given up, wherever that is, and tell when that is overdue.
    CallOff,
    /// Remove its cgroup; it needs none any more.
    Tidy,
    /// Remove its files.
    Erase,
    /// Write the record.
    Save,
    /// Publish the status, and tell of it.
    Announce(EventKind),
    /// Forget the id and the name.
    Forget,
    /// Answer those who wait.
    Answer(ContainerGoal, Result<(), Error>),
}

/// Why a wish is not granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ContainerDenied {
    /// Not before something else is finished; to be asked again at the next change.
    Later,
    /// Not in this state.
    WrongState,
    /// This cannot happen in this state: a fault of the caller, or news that came too late to matter.
    Impossible,
}

type Next = Result<(ContainerState, Vec<ContainerEffect>), ContainerDenied>;

impl ContainerState {
    /// Its name in messages.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Making => "being made",
            Self::Created => "created",
            Self::Starting { wanted: Wanted::Yes, .. } => "being started",
            Self::Running(_) => "running",
            Self::Starting { wanted: Wanted::ForNow | Wanted::No(_), .. } | Self::Stopping { .. } => {
                "being stopped"
            }
            Self::Exited(_) => "exited",
            Self::Removing { .. } => "being removed",
            Self::Gone => "gone",
        }
    }

    /// The process, while there is one.
    pub(crate) fn process(&self) -> Option<&Process> {
        match self {
            Self::Running(process) | Self::Stopping { process, .. } => Some(process),
            Self::Making
            | Self::Created
            | Self::Starting { .. }
            | Self::Exited(_)
            | Self::Removing { .. }
            | Self::Gone => None,
        }
    }

    /// Whether something is under way that a pod which stops has to wait for.
    pub(crate) fn is_busy(&self) -> bool {
        match self {
            Self::Making
            | Self::Starting { .. }
            | Self::Running(_)
            | Self::Stopping { .. }
            | Self::Removing { .. } => true,
            Self::Created | Self::Exited(_) | Self::Gone => false,
        }
    }

    /// The next state, and what is to be done.
    pub(crate) fn step(self, event: ContainerEvent) -> Next {
        match self {
            Self::Making => making(event),
            Self::Created => created(event),
            Self::Starting { ended, wanted } => starting((ended, wanted), event),
            Self::Running(process) => running(process, event),
            Self::Stopping { process, stage, then } => stopping((process, stage, then), event),
            Self::Exited(exited) => exited_state(exited, event),
            Self::Removing { before } => removing(before, event),
            Self::Gone => gone(event),
        }
    }
}

fn making(event: ContainerEvent) -> Next {
    use ContainerEffect::{Announce, Answer, Forget};
    match event {
        ContainerEvent::Made => Ok((
            ContainerState::Created,
            vec![Announce(EventKind::Created), Answer(ContainerGoal::Made, Ok(()))],
        )),
        ContainerEvent::Failed(error) => {
            Ok((ContainerState::Gone, vec![Forget, Answer(ContainerGoal::Made, Err(error))]))
        }
        ContainerEvent::Start | ContainerEvent::Stop { .. } | ContainerEvent::Remove => {
            Err(ContainerDenied::Later)
        }
        ContainerEvent::Started(_)
        | ContainerEvent::StartFailed { .. }
        | ContainerEvent::GraceOver
        | ContainerEvent::KillOverdue(_)
        | ContainerEvent::Ended(_)
        | ContainerEvent::Removed(_) => Err(ContainerDenied::Impossible),
    }
}

fn created(event: ContainerEvent) -> Next {
    use ContainerEffect::{Answer, Erase, Launch};
    match event {
        ContainerEvent::Start => {
            Ok((ContainerState::Starting { ended: None, wanted: Wanted::Yes }, vec![Launch]))
        }
        ContainerEvent::Stop { .. } => {
            Ok((ContainerState::Created, vec![Answer(ContainerGoal::Stopped, Ok(()))]))
        }
        ContainerEvent::Remove => Ok((ContainerState::Removing { before: None }, vec![Erase])),
        ContainerEvent::Made
        | ContainerEvent::Failed(_)
        | ContainerEvent::Started(_)
        | ContainerEvent::StartFailed { .. }
        | ContainerEvent::GraceOver
        | ContainerEvent::KillOverdue(_)
        | ContainerEvent::Ended(_)
        | ContainerEvent::Removed(_) => Err(ContainerDenied::Impossible),
    }
}

fn starting((ended, wanted): (Option<Exited>, Wanted), event: ContainerEvent) -> Next {
    use ContainerEffect::{Announce, Answer, CallOff, Wait};
    let stay = |ended, wanted| ContainerState::Starting { ended, wanted };
    match event {
        ContainerEvent::Started(process) => {
            let started = [Announce(EventKind::Started), Answer(ContainerGoal::Started, Ok(()))];
            match ended {
                None => Ok(begun(process, wanted, started)),
                Some(exited) => {
                    let exited = Exited { started_at: process.started_at, ..exited };
                    Ok(over(exited, wanted, started.into_iter().chain(ending()).collect()))
                }
            }
        }
        ContainerEvent::StartFailed { exited, error } => {
            let answer = [Answer(ContainerGoal::Started, Err(error))];
            Ok(over(exited, wanted, ending().into_iter().chain(answer).collect()))
        }
        ContainerEvent::Ended(exited) => Ok((stay(Some(exited), wanted), vec![])),
        // A second wish to start joins the first.
        ContainerEvent::Start => match wanted {
            Wanted::Yes => Ok((stay(ended, wanted), vec![])),
            Wanted::ForNow | Wanted::No(_) => Err(ContainerDenied::WrongState),
        },
        ContainerEvent::Stop { grace } => match wanted {
            Wanted::Yes | Wanted::ForNow if !grace.is_zero() => {
                Ok((stay(ended, Wanted::ForNow), vec![Wait(grace)]))
            }
            Wanted::Yes | Wanted::ForNow => Ok((stay(ended, Wanted::No(Then::Rest)), vec![CallOff])),
            // Asking again is the retry of a stop that was overdue.
            Wanted::No(_) => Ok((stay(ended, wanted), vec![CallOff])),
        },
        ContainerEvent::Remove => Ok((stay(ended, Wanted::No(Then::Remove)), vec![CallOff])),
        ContainerEvent::GraceOver => match wanted {
            Wanted::ForNow => Ok((stay(ended, Wanted::No(Then::Rest)), vec![CallOff])),
            Wanted::Yes | Wanted::No(_) => Ok((stay(ended, wanted), vec![])),
        },
        ContainerEvent::KillOverdue(error) => match wanted {
            Wanted::No(_) => Ok((stay(ended, Wanted::No(Then::Rest)), gave_up(&error))),
            Wanted::Yes | Wanted::ForNow => Err(ContainerDenied::Impossible),
        },
        ContainerEvent::Made | ContainerEvent::Failed(_) | ContainerEvent::Removed(_) => {
            Err(ContainerDenied::Impossible)
        }
    }
}

/// What a start leads to that has succeeded: what was wished meanwhile is done to what runs now.
fn begun(
    process: Process,
    wanted: Wanted,
    [told, answer]: [ContainerEffect; 2],
) -> (ContainerState, Vec<ContainerEffect>) {
    use ContainerEffect::{Ask, Kill, Save};
    let (state, next) = match wanted {
        Wanted::Yes => (ContainerState::Running(process), None),
        // The grace period is being waited for already.
        Wanted::ForNow => {
            (ContainerState::Stopping { process, stage: Stage::Asked, then: Then::Rest }, Some(Ask))
        }
        // The kill came too early for it, or its news too late.
        Wanted::No(then) => (ContainerState::Stopping { process, stage: Stage::Killed, then }, Some(Kill)),
    };
    (state, [told, Save, answer].into_iter().chain(next).collect())
}

/// What follows when a start is over and nothing runs.
fn over(
    exited: Exited,
    wanted: Wanted,
    mut effects: Vec<ContainerEffect>,
) -> (ContainerState, Vec<ContainerEffect>) {
    match wanted {
        Wanted::Yes | Wanted::ForNow | Wanted::No(Then::Rest) => (ContainerState::Exited(exited), effects),
        Wanted::No(Then::Remove) => {
            effects.push(ContainerEffect::Erase);
            (ContainerState::Removing { before: Some(exited) }, effects)
        }
    }
}

/// Whoever waits for an end is told that there is none.
fn gave_up(error: &Error) -> Vec<ContainerEffect> {
    [ContainerGoal::Stopped, ContainerGoal::Removed]
        .map(|goal| ContainerEffect::Answer(goal, Err(error.clone())))
        .to_vec()
}

fn running(process: Process, event: ContainerEvent) -> Next {
    use ContainerEffect::{Ask, Kill, Wait};
    match event {
        ContainerEvent::Stop { grace } if grace.is_zero() => {
            Ok((ContainerState::Stopping { process, stage: Stage::Killed, then: Then::Rest }, vec![Kill]))
        }
        ContainerEvent::Stop { grace } => Ok((
            ContainerState::Stopping { process, stage: Stage::Asked, then: Then::Rest },
            vec![Ask, Wait(grace)],
        )),
        ContainerEvent::Remove => {
            Ok((ContainerState::Stopping { process, stage: Stage::Killed, then: Then::Remove }, vec![Kill]))
        }
        ContainerEvent::Ended(exited) => Ok((ContainerState::Exited(exited), ending())),
        ContainerEvent::Start => Err(ContainerDenied::WrongState),
        ContainerEvent::Made
        | ContainerEvent::Failed(_)
        | ContainerEvent::Started(_)
        | ContainerEvent::StartFailed { .. }
        | ContainerEvent::GraceOver
        | ContainerEvent::KillOverdue(_)
        | ContainerEvent::Removed(_) => Err(ContainerDenied::Impossible),
    }
}

fn stopping((process, stage, then): (Process, Stage, Then), event: ContainerEvent) -> Next {
    use ContainerEffect::{Erase, Kill, Wait};
    let stay = |stage, then| ContainerState::Stopping { process, stage, then };
    match event {
        // Asking again after a kill is the retry of a stop that was overdue.
        ContainerEvent::Stop { grace } => match stage {
            Stage::Asked if !grace.is_zero() => Ok((stay(Stage::Asked, then), vec![Wait(grace)])),
            Stage::Asked | Stage::Killed => Ok((stay(Stage::Killed, then), vec![Kill])),
        },
        ContainerEvent::Remove => Ok((stay(Stage::Killed, Then::Remove), vec![Kill])),
        ContainerEvent::GraceOver => match stage {
            Stage::Asked => Ok((stay(Stage::Killed, then), vec![Kill])),
            Stage::Killed => Ok((stay(stage, then), vec![])),
        },
        ContainerEvent::KillOverdue(error) => Ok((stay(stage, Then::Rest), gave_up(&error))),
        ContainerEvent::Ended(exited) => match then {
            Then::Rest => Ok((ContainerState::Exited(exited), ending())),
            Then::Remove => {
                let effects = ending().into_iter().chain([Erase]).collect();
                Ok((ContainerState::Removing { before: Some(exited) }, effects))
            }
        },
        ContainerEvent::Start => Err(ContainerDenied::WrongState),
        ContainerEvent::Made
        | ContainerEvent::Failed(_)
        | ContainerEvent::Started(_)
        | ContainerEvent::StartFailed { .. }
        | ContainerEvent::Removed(_) => Err(ContainerDenied::Impossible),
    }
}

fn exited_state(exited: Exited, event: ContainerEvent) -> Next {
    use ContainerEffect::{Answer, Erase};
    match event {
        ContainerEvent::Stop { .. } => {
            Ok((ContainerState::Exited(exited), vec![Answer(ContainerGoal::Stopped, Ok(()))]))
        }
        ContainerEvent::Remove => Ok((ContainerState::Removing { before: Some(exited) }, vec![Erase])),
        ContainerEvent::Start => Err(ContainerDenied::WrongState),
        // Timers and reports of a life that is over.
        ContainerEvent::GraceOver | ContainerEvent::KillOverdue(_) | ContainerEvent::Ended(_) => {
            Ok((ContainerState::Exited(exited), vec![]))
        }
        ContainerEvent::Made
        | ContainerEvent::Failed(_)
        | ContainerEvent::Started(_)
        | ContainerEvent::StartFailed { .. }
        | ContainerEvent::Removed(_) => Err(ContainerDenied::Impossible),
    }
}

fn removing(before: Option<Exited>, event: ContainerEvent) -> Next {
    use ContainerEffect::{Announce, Answer, Forget};
    match event {
        ContainerEvent::Remove => Ok((ContainerState::Removing { before }, vec![])),
        ContainerEvent::Stop { .. } => {
            Ok((ContainerState::Removing { before }, vec![Answer(ContainerGoal::Stopped, Ok(()))]))
        }
        ContainerEvent::Removed(Ok(())) => Ok((
            ContainerState::Gone,
            vec![Announce(EventKind::Deleted), Forget, Answer(ContainerGoal::Removed, Ok(()))],
        )),
        ContainerEvent::Removed(Err(error)) => {
            let next = before.map_or(ContainerState::Created, ContainerState::Exited);
            Ok((next, vec![Answer(ContainerGoal::Removed, Err(error))]))
        }
        ContainerEvent::Start => Err(ContainerDenied::WrongState),
        ContainerEvent::GraceOver | ContainerEvent::KillOverdue(_) | ContainerEvent::Ended(_) => {
            Ok((ContainerState::Removing { before }, vec![]))
        }
        ContainerEvent::Made
        | ContainerEvent::Failed(_)
        | ContainerEvent::Started(_)
        | ContainerEvent::StartFailed { .. } => Err(ContainerDenied::Impossible),
    }
}

fn gone(event: ContainerEvent) -> Next {
    use ContainerEffect::Answer;
    match event {
        ContainerEvent::Stop { .. } => {
            Ok((ContainerState::Gone, vec![Answer(ContainerGoal::Stopped, Ok(()))]))
        }
        ContainerEvent::Remove => Ok((ContainerState::Gone, vec![Answer(ContainerGoal::Removed, Ok(()))])),
        ContainerEvent::Start => Err(ContainerDenied::WrongState),
        ContainerEvent::Made
        | ContainerEvent::Failed(_)
        | ContainerEvent::Started(_)
        | ContainerEvent::StartFailed { .. }
        | ContainerEvent::GraceOver
        | ContainerEvent::KillOverdue(_)
        | ContainerEvent::Ended(_)
        | ContainerEvent::Removed(_) => Err(ContainerDenied::Impossible),
    }
}

/// What follows from every end of a process. Told before it is written down: what a daemon has written before it was ended, the
/// next one takes for told.
fn ending() -> Vec<ContainerEffect> {
    use ContainerEffect::{Announce, Answer, Save, Tidy};
    vec![Announce(EventKind::Stopped), Save, Answer(ContainerGoal::Stopped, Ok(())), Tidy]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::container::status::Reason;

    fn process() -> Process {
        Process { id: ProcessId { pid: 3, start_time: 4 }, started_at: 5 }
    }

    fn exited(exit_code: i32) -> Exited {
        Exited { exit_code, reason: Reason::Error, message: String::new(), started_at: 0, finished_at: 6 }
    }

    fn any_event() -> impl Strategy<Value = ContainerEvent> {
        prop_oneof![
            Just(ContainerEvent::Made),
            Just(ContainerEvent::Failed(Error::ShuttingDown)),
            Just(ContainerEvent::Start),
            Just(ContainerEvent::Started(process())),
            Just(ContainerEvent::StartFailed { exited: exited(128), error: Error::ShuttingDown }),
            (0_u64..3).prop_map(|seconds| ContainerEvent::Stop { grace: Duration::from_secs(seconds) }),
            Just(ContainerEvent::GraceOver),
            Just(ContainerEvent::KillOverdue(Error::ShuttingDown)),
            (0..3).prop_map(|code| ContainerEvent::Ended(exited(code))),
            Just(ContainerEvent::Remove),
            Just(ContainerEvent::Removed(Ok(()))),
            Just(ContainerEvent::Removed(Err(Error::ShuttingDown))),
        ]
    }

    fn conclude(state: &ContainerState) -> Option<ContainerEvent> {
        match state {
            ContainerState::Making => Some(ContainerEvent::Made),
            ContainerState::Starting { .. } => Some(ContainerEvent::Started(process())),
            ContainerState::Stopping { .. } => Some(ContainerEvent::Ended(exited(137))),
            ContainerState::Removing { .. } => Some(ContainerEvent::Removed(Ok(()))),
            ContainerState::Created
            | ContainerState::Running(_)
            | ContainerState::Exited(_)
            | ContainerState::Gone => None,
        }
    }

    fn after(events: Vec<ContainerEvent>) -> ContainerState {
        events.into_iter().fold(ContainerState::Making, |state, event| match state.clone().step(event) {
            Ok((next, _)) => next,
            Err(_) => state,
        })
    }

    proptest! {
        /// Whatever happened before, a removal that is asked for until it is granted ends with nothing left.
        #[test]
        fn removal_always_ends(events in proptest::collection::vec(any_event(), 0..40)) {
            let mut state = after(events);
            for _ in 0..8 {
                let event = conclude(&state).unwrap_or(ContainerEvent::Remove);
                state = state.clone().step(event).map_or(state, |(next, _)| next);
            }
            prop_assert_eq!(state, ContainerState::Gone);
        }

        /// An end is told once, and the exit code that was first known is the one that stays.
        #[test]
        fn an_end_is_told_once(events in proptest::collection::vec(any_event(), 0..60)) {
            let mut state = ContainerState::Making;
            let mut told = 0;
            let mut first: Option<Exited> = None;
            for event in events {
                let Ok((next, effects)) = state.clone().step(event) else { continue };
                told += effects.iter().filter(|e| matches!(e, ContainerEffect::Announce(EventKind::Stopped))).count();
                if let ContainerState::Exited(exited) = &next {
                    let known = first.get_or_insert_with(|| exited.clone());
                    prop_assert_eq!(&*known, exited);
                }
                state = next;
            }
            prop_assert!(told <= 1);
        }

        /// Events come in one order, each at most once, and the last one says what the container is.
        #[test]
        fn events_are_in_order_and_the_last_is_true(events in proptest::collection::vec(any_event(), 0..60)) {
            let (mut state, mut told) = (ContainerState::Making, Vec::new());
            for event in events {
                let Ok((next, effects)) = state.clone().step(event) else { continue };
                told.extend(effects.into_iter().filter_map(|effect| match effect {
                    ContainerEffect::Announce(kind) => Some(kind),
                    _ => None,
                }));
                state = next;
                let last = match &state {
                    ContainerState::Making => None,
                    ContainerState::Created
                    | ContainerState::Starting { .. }
                    | ContainerState::Removing { before: None } => Some(EventKind::Created),
                    ContainerState::Running(_) | ContainerState::Stopping { .. } => Some(EventKind::Started),
                    ContainerState::Exited(_) | ContainerState::Removing { before: Some(_) } => {
                        Some(EventKind::Stopped)
                    }
                    // One that could not be made was never told of.
                    ContainerState::Gone => (!told.is_empty()).then_some(EventKind::Deleted),
                };
                prop_assert_eq!(told.last().copied(), last);
            }
            prop_assert!(told.is_sorted_by(|one, next| (*one as u8) < (*next as u8)), "{:?}", told);
        }

        /// What is written down has been told, and what is answered has been written down: a daemon may be ended between any two.
        #[test]
        fn it_is_told_then_written_then_answered(events in proptest::collection::vec(any_event(), 0..60)) {
            use ContainerEffect::{Announce, Answer, Save};
            let mut state = ContainerState::Making;
            for event in events {
                let Ok((next, effects)) = state.clone().step(event) else { continue };
                let at = |is_it: fn(&ContainerEffect) -> bool| effects.iter().position(is_it);
                let told = at(|effect| matches!(effect, Announce(EventKind::Stopped)));
                let answered = at(|effect| matches!(effect, Answer(ContainerGoal::Stopped, Ok(()))));
                if let Some(saved) = at(|effect| matches!(effect, Save)) {
                    prop_assert!(told.is_none_or(|told| told < saved), "{:?}", effects);
                    prop_assert!(answered.is_none_or(|answered| saved < answered), "{:?}", effects);
                }
                state = next;
            }
        }

        /// A process is launched at most once in the life of a container.
        #[test]
        fn a_container_is_launched_once(events in proptest::collection::vec(any_event(), 0..60)) {
            let mut state = ContainerState::Making;
            let mut launched = 0;
            for event in events {
                let Ok((next, effects)) = state.clone().step(event) else { continue };
                launched += effects.iter().filter(|e| matches!(e, ContainerEffect::Launch)).count();
                state = next;
            }
            prop_assert!(launched <= 1);
        }

        /// A stop that is granted either is done, or waits for a process that has been told to end.
        #[test]
        fn a_stop_is_done_or_under_way(events in proptest::collection::vec(any_event(), 0..40), seconds in 0_u64..3) {
            let state = after(events);
            match state.step(ContainerEvent::Stop { grace: Duration::from_secs(seconds) }) {
                Ok((ContainerState::Stopping { .. } | ContainerState::Starting { .. }, effects)) => prop_assert!(
                    effects.iter().any(|e| matches!(
                        e,
                        ContainerEffect::Kill | ContainerEffect::CallOff | ContainerEffect::Wait(_)
                    ))
                ),
                Ok((_, effects)) => prop_assert!(
                    effects.iter().any(|e| matches!(e, ContainerEffect::Answer(ContainerGoal::Stopped, Ok(()))))
                ),
                Err(denied) => prop_assert_eq!(denied, ContainerDenied::Later),
            }
        }
    }

    #[test]
    fn an_end_that_overtakes_the_start_is_kept() {
        let state =
            after(vec![ContainerEvent::Made, ContainerEvent::Start, ContainerEvent::Ended(exited(7))]);
        let (state, effects) = state.step(ContainerEvent::Started(process())).expect("started");
        assert_eq!(state, ContainerState::Exited(Exited { started_at: 5, ..exited(7) }));
        let told: Vec<_> = effects
            .iter()
            .filter_map(|e| if let ContainerEffect::Announce(k) = e { Some(*k) } else { None })
            .collect();
        assert_eq!(told, [EventKind::Started, EventKind::Stopped]);
    }

    /// What a wish during a start leads to, and what it does at once.
    fn during_a_start(events: Vec<ContainerEvent>) -> (ContainerState, Vec<ContainerEffect>) {
        let begun = [ContainerEvent::Made, ContainerEvent::Start];
        let (mut state, mut all) = (ContainerState::Making, vec![]);
        for event in begun.into_iter().chain(events) {
            let (next, effects) = state.step(event).expect("granted");
            (state, all) = (next, effects);
        }
        (state, all)
    }

    #[test]
    fn a_start_that_hangs_can_be_stopped_and_removed() {
        let calls_off = |effects: &[ContainerEffect]| matches!(effects, [ContainerEffect::CallOff]);
        let stop = |seconds| ContainerEvent::Stop { grace: Duration::from_secs(seconds) };
        let failed = || ContainerEvent::StartFailed { exited: exited(128), error: Error::ShuttingDown };
        let at_once = vec![stop(0)];
        let late = vec![stop(1), ContainerEvent::GraceOver];
        for wishes in [at_once, late] {
            let (state, effects) = during_a_start(wishes);
            assert!(calls_off(&effects), "{effects:?}");
            let (state, effects) = state.step(failed()).expect("it ended");
            assert_eq!(state, ContainerState::Exited(exited(128)));
            let answered =
                |goal| effects.iter().any(|e| matches!(e, ContainerEffect::Answer(to, _) if *to == goal));
            assert!(answered(ContainerGoal::Stopped) && answered(ContainerGoal::Started));
        }
        let (state, effects) = during_a_start(vec![stop(1), ContainerEvent::Remove]);
        assert!(calls_off(&effects), "{effects:?}");
        let (state, effects) = state.step(failed()).expect("it ended");
        assert_eq!(state, ContainerState::Removing { before: Some(exited(128)) });
        assert!(matches!(effects.last(), Some(ContainerEffect::Erase)), "{effects:?}");
    }

    #[test]
    fn a_start_that_succeeds_all_the_same_is_stopped_then() {
        let stop = ContainerEvent::Stop { grace: Duration::from_secs(1) };
        let (state, effects) = during_a_start(vec![stop, ContainerEvent::Started(process())]);
        let asked = ContainerState::Stopping { process: process(), stage: Stage::Asked, then: Then::Rest };
        assert_eq!(state, asked);
        assert!(matches!(effects.last(), Some(ContainerEffect::Ask)), "{effects:?}");
        let (state, effects) =
            during_a_start(vec![ContainerEvent::Remove, ContainerEvent::Started(process())]);
        let killed =
            ContainerState::Stopping { process: process(), stage: Stage::Killed, then: Then::Remove };
        assert_eq!(state, killed);
        assert!(matches!(effects.last(), Some(ContainerEffect::Kill)), "{effects:?}");
    }
}
