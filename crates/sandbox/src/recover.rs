//! What an earlier daemon left, compared with what the supervisors say: a pure decision for each pod.
//!
//! The supervisors are the truth about processes, the records about intentions.
//!
//! | record of the container | supervisor: runs | supervisor: ended | unknown to it | no supervisor |
//! |---|---|---|---|---|
//! | none | killed as a stray | – | discarded | discarded |
//! | created | running | exited | created | created |
//! | starting | running | exited | exited: never started | what exit.json says, else never started |
//! | started | running | exited | what exit.json says, else lost | what exit.json says, else lost |
//! | exited | exited | exited | exited | exited |
//!
//! A start that is still under way over there is taken up again: the supervisor answers a second request for it as the first. A pod that was being made is taken down; one whose supervisor is gone is not ready. Not here: connecting, reading and acting (see
//! `adopt`).

use std::collections::BTreeMap;

use crate::container::end;
use crate::container::state::{ContainerState, Process};
use crate::container::status::{Exited, Reason};
use crate::id::ContainerId;
use crate::pod::state::{Part, Parts, PodState};
use crate::record::{ContainerRecord, ContainerStage, PodRecord, PodStage};
use crate::supervisor::client::ExitReport;

/// What was found of one pod.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) pod: PodRecord,
    /// Its containers' directories; `None` for one without a record.
    pub(crate) containers: BTreeMap<ContainerId, Option<ContainerRecord>>,
    /// What its supervisor says; `None` when there is none that answers.
    pub(crate) snapshot: Option<BTreeMap<ContainerId, Seen>>,
    /// What supervisors have written down.
    pub(crate) exits: BTreeMap<ContainerId, ExitReport>,
    /// The time, for ends that nobody saw.
    pub(crate) now: i64,
}

/// A container as its supervisor sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It is about to run: a start is under way.
    Begins,
    /// It runs.
    Runs(Process),
    /// It has ended.
    Ended(ExitReport),
}

/// What is to be done about a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// It was never finished, and nobody knows its id: take these parts down and forget it.
    Undo(Parts),
    /// It goes on from here.
    Adopt {
        state: PodState,
        containers: BTreeMap<ContainerId, Fate>,
        /// Processes that no record knows.
        strays: Vec<ContainerId>,
    },
}

/// What becomes of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It goes on from here.
    Keep(ContainerState),
    /// It was never finished, and nobody knows its id.
    Discard,
}

/// Decides.
pub(crate) fn recover(found: &Found) -> Action {
    let state = match (&found.pod.stage, &found.snapshot) {
        (PodStage::Making, _) => return Action::Undo([Part::Network, Part::Supervisor, Part::Cgroup].into()),
        (PodStage::Ready(live), Some(_)) => PodState::Ready(live.clone()),
        (PodStage::Ready(live), None) => {
            let mut parts = crate::pod::state::parts_of(live.netns.as_ref());
            parts.remove(&Part::Supervisor);
            PodState::NotReady { parts }
        }
        (PodStage::NotReady(parts), Some(_)) => PodState::NotReady { parts: parts.clone() },
        (PodStage::NotReady(parts), None) => {
            let parts = parts.iter().copied().filter(|part| *part != Part::Supervisor).collect();
            PodState::NotReady { parts }
        }
    };
    let containers =
        found.containers.iter().map(|(id, record)| (id.clone(), fate(found, id, record.as_ref()))).collect();
    let snapshot = found.snapshot.iter().flatten();
    let is_known = |id: &ContainerId| found.containers.get(id).is_some_and(Option::is_some);
    let strays = snapshot.filter(|(id, seen)| matches!(seen, Seen::Begins | Seen::Runs(_)) && !is_known(id));
    Action::Adopt { state, containers, strays: strays.map(|(id, _)| id.clone()).collect() }
}

fn fate(found: &Found, id: &ContainerId, record: Option<&ContainerRecord>) -> Fate {
    let Some(record) = record else { return Fate::Discard };
    let seen = found.snapshot.as_ref().and_then(|snapshot| snapshot.get(id));
    let written = found.exits.get(id);
    let started_at = match &record.stage {
        ContainerStage::Started(process) => process.started_at,
        ContainerStage::Exited(exited) => exited.started_at,
        ContainerStage::Created | ContainerStage::Starting => found.now,
    };
    let ended = |report: &ExitReport| ContainerState::Exited(end::exited(report));
    Fate::Keep(match (&record.stage, seen, written) {
        (ContainerStage::Exited(exited), _, _) => ContainerState::Exited(exited.clone()),
        (_, Some(Seen::Runs(process)), _) => ContainerState::Running(*process),
        (_, Some(Seen::Begins), _) => ContainerState::Starting { ended: None },
        (_, Some(Seen::Ended(report)), _) => ended(report),
        (ContainerStage::Created, None, _) => ContainerState::Created,
        (ContainerStage::Starting | ContainerStage::Started(_), None, Some(report)) => ended(report),
        (ContainerStage::Starting, None, None) => ContainerState::Exited(never_started(found.now)),
        (ContainerStage::Started(_), None, None) => {
            ContainerState::Exited(Exited { finished_at: found.now, ..end::lost(started_at) })
        }
    })
}

fn never_started(now: i64) -> Exited {
    Exited {
        exit_code: 128,
        reason: Reason::StartError,
        message: "the daemon was ended while it was starting the container".to_owned(),
        started_at: 0,
        finished_at: now,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::id::PodId;
    use crate::pod::state::{Live, ProcessId};
    use crate::record::{ContainerFacts, PodFacts};
    use crate::signal::Signal;

    fn pod(stage: PodStage) -> PodRecord {
        let facts = PodFacts {
            id: PodId::random(),
            created_at: 1,
            config: Arc::default(),
            cgroup: "/k/p".to_owned(),
        };
        PodRecord { version: 1, facts: Arc::new(facts), stage }
    }

    fn container(id: &ContainerId, stage: ContainerStage) -> ContainerRecord {
        let facts = ContainerFacts {
            id: id.clone(),
            pod: PodId::random(),
            created_at: 1,
            config: Arc::default(),
            image_id: String::new(),
            image_ref: String::new(),
            user: Default::default(),
            stop_signal: Signal::TERM,
            log_path: None,
            cgroup: "/k/p/c".to_owned(),
        };
        ContainerRecord { version: 1, facts: Arc::new(facts), resources: Default::default(), stage }
    }

    fn process() -> Process {
        Process { id: ProcessId { pid: 40, start_time: 50 }, started_at: 60 }
    }

    fn report(exit_code: i32) -> ExitReport {
        ExitReport { exit_code, oom_killed: false, started_at: 60, finished_at: 70 }
    }

    fn exited(exit_code: i32) -> Exited {
        end::exited(&report(exit_code))
    }

    fn any_stage() -> impl Strategy<Value = Option<ContainerStage>> {
        prop_oneof![
            Just(None),
            Just(Some(ContainerStage::Created)),
            Just(Some(ContainerStage::Starting)),
            Just(Some(ContainerStage::Started(process()))),
            Just(Some(ContainerStage::Exited(exited(3)))),
        ]
    }

    fn any_seen() -> impl Strategy<Value = Option<Seen>> {
        prop_oneof![Just(None), Just(Some(Seen::Runs(process()))), Just(Some(Seen::Ended(report(7))))]
    }

    type Entry = (Option<ContainerStage>, Option<Seen>, bool);

    fn found(entries: &[Entry], pod_stage: PodStage, has_supervisor: bool) -> (Vec<ContainerId>, Found) {
        let ids: Vec<_> = entries.iter().map(|_| ContainerId::random()).collect();
        let each = || ids.iter().zip(entries);
        let found = Found {
            pod: pod(pod_stage),
            containers: each()
                .map(|(id, (stage, ..))| (id.clone(), stage.clone().map(|s| container(id, s))))
                .collect(),
            snapshot: has_supervisor
                .then(|| each().filter_map(|(id, (_, seen, _))| Some((id.clone(), seen.clone()?))).collect()),
            exits: each().filter(|(_, (.., wrote))| *wrote).map(|(id, _)| (id.clone(), report(9))).collect(),
            now: 100,
        };
        (ids, found)
    }

    fn ready() -> PodStage {
        PodStage::Ready(Live { supervisor: process().id, netns: Some("/n".into()), ips: vec![] })
    }

    proptest! {
        /// Everything that runs is running or a stray; nothing that does not run is said to run; a known exit code is kept.
        #[test]
        fn no_process_and_no_exit_code_is_lost(
            entries in proptest::collection::vec((any_stage(), any_seen(), any::<bool>()), 0..8),
            has_supervisor in any::<bool>(),
        ) {
            let (ids, found) = found(&entries, ready(), has_supervisor);
            let Action::Adopt { containers, strays, state } = recover(&found) else {
                return Err(TestCaseError::fail("a ready pod is adopted"));
            };
            prop_assert_eq!(matches!(state, PodState::Ready(_)), has_supervisor);
            for (id, (stage, seen, wrote)) in ids.iter().zip(&entries) {
                let seen = seen.as_ref().filter(|_| has_supervisor);
                let runs = matches!(seen, Some(Seen::Runs(_)));
                let fate = &containers[id];
                let is_over = matches!(stage, Some(ContainerStage::Exited(_)));
                let is_running = matches!(fate, Fate::Keep(ContainerState::Running(_)));
                prop_assert_eq!(is_running, runs && stage.is_some() && !is_over);
                prop_assert_eq!(strays.contains(id), runs && stage.is_none());
                if let (Some(Seen::Ended(_)), Some(_), false) = (seen, stage, is_over) {
                    prop_assert!(matches!(fate, Fate::Keep(ContainerState::Exited(e)) if e.exit_code == 7));
                }
                if let (None, Some(ContainerStage::Started(_)), true) = (seen, stage, wrote) {
                    prop_assert!(matches!(fate, Fate::Keep(ContainerState::Exited(e)) if e.exit_code == 9));
                }
                if is_over {
                    prop_assert_eq!(fate, &Fate::Keep(ContainerState::Exited(exited(3))));
                }
            }
        }

        /// What was half made is undone, whatever the supervisor says.
        #[test]
        fn a_half_made_pod_is_undone(entries in proptest::collection::vec((any_stage(), any_seen(), any::<bool>()), 0..3), has_supervisor in any::<bool>()) {
            let (_, found) = found(&entries, PodStage::Making, has_supervisor);
            prop_assert_eq!(recover(&found), Action::Undo([Part::Network, Part::Supervisor, Part::Cgroup].into()));
        }
    }

    #[test]
    fn a_pod_without_its_supervisor_is_not_ready_and_keeps_what_is_left() {
        let (_, found) = found(&[(Some(ContainerStage::Started(process())), None, false)], ready(), false);
        let Action::Adopt { state, containers, .. } = recover(&found) else { panic!("adopted") };
        assert_eq!(state, PodState::NotReady { parts: [Part::Network, Part::Cgroup].into() });
        let Some(Fate::Keep(ContainerState::Exited(exited))) = containers.into_values().next() else {
            panic!("exited")
        };
        assert_eq!((exited.exit_code, exited.reason, exited.finished_at), (137, Reason::SupervisorLost, 100));
    }
}
