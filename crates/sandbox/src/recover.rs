//! What an earlier daemon left, compared with what the supervisors say: a pure decision for each pod.
//!
//! The supervisors are the truth about processes, the records about intentions.
//!
//! | record of the container | supervisor: runs | supervisor: ended | unknown to it | no supervisor | supervisor is silent |
//! |---|---|---|---|---|---|
//! | none | killed as a stray | – | discarded | discarded | discarded |
//! | unreadable | left alone | left alone | left alone | left alone | left alone |
//! | created | running | exited | created | created | created |
//! | starting | running | exited | what exit.json says, else created | what exit.json says, else never started | starting |
//! | started | running | exited | what exit.json says, else lost | the same | what exit.json says, else running |
//! | started, and hangs in the kernel after the kill | – | – | – | running, to be killed again | – |
//! | exited | exited | exited | exited | exited | exited |
//!
//! A start that never reached the supervisor has not been: a supervisor reads nothing more of an earlier daemon once it has taken
//! the next one's connection, so what it doesn't know when it is asked never runs later. Such a container can be started. As exited
//! it would be a failure that never was: kubelet doesn't start a pod again that is to run but once.
//!
//! A start that is still under way over there is taken up again: the supervisor answers a second request for it as the first. A pod
//! that was being made is taken down; one whose supervisor is gone is not ready; one whose supervisor doesn't answer stays what it
//! was and is compared once more when it does (see [`news_of`]). Not here: connecting, reading and acting (see `adopt`).

use std::collections::BTreeMap;

use crate::container::end;
use crate::container::state::{ContainerState, Process, Wanted};
use crate::container::status::{Exited, Reason};
use crate::events::EventKind;
use crate::id::ContainerId;
use crate::pod::contact::Remains;
use crate::pod::state::{Part, Parts, PodState};
use crate::pod::told::Told;
use crate::record::{ContainerRecord, ContainerStage, PodRecord, PodStage};
use crate::supervisor::client::ExitReport;

/// What was found of one pod.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) pod: PodRecord,
    /// Its containers' directories.
    pub(crate) containers: BTreeMap<ContainerId, Written>,
    /// What its supervisor says.
    pub(crate) supervisor: Says,
    /// What supervisors have written down.
    pub(crate) exits: BTreeMap<ContainerId, ExitReport>,
    /// What was left of containers whose supervisor is gone.
    pub(crate) remains: BTreeMap<ContainerId, Remains>,
    /// The time, for ends that nobody saw.
    pub(crate) now: i64,
}

/// What a container's directory has.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a handful, for the moment of the start")]
pub(crate) enum Written {
    /// Its record.
    Record(ContainerRecord),
    /// Nothing yet.
    Nothing,
    /// A record that is damaged, or of another version.
    Unreadable,
}

/// What a supervisor says.
#[derive(Debug, Clone)]
pub(crate) enum Says {
    /// It answers.
    This(BTreeMap<ContainerId, Seen>),
    /// It lives and doesn't answer.
    Nothing,
    /// It is gone.
    Gone,
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
    /// Nobody can tell: it is neither shown nor touched.
    Leave,
}

/// Decides.
pub(crate) fn recover(found: &Found) -> Action {
    let state = match (&found.pod.stage, &found.supervisor) {
        (PodStage::Making, _) => return Action::Undo([Part::Network, Part::Supervisor, Part::Cgroup].into()),
        (PodStage::Ready(live), Says::This(_) | Says::Nothing) => PodState::Ready(live.clone()),
        (PodStage::Ready(live), Says::Gone) => {
            let mut parts = crate::pod::state::parts_of(live.netns.as_ref());
            parts.remove(&Part::Supervisor);
            PodState::NotReady { parts }
        }
        (PodStage::NotReady(parts), Says::This(_) | Says::Nothing) => {
            PodState::NotReady { parts: parts.clone() }
        }
        (PodStage::NotReady(parts), Says::Gone) => {
            let parts = parts.iter().copied().filter(|part| *part != Part::Supervisor).collect();
            PodState::NotReady { parts }
        }
    };
    let containers =
        found.containers.iter().map(|(id, written)| (id.clone(), fate(found, id, written))).collect();
    let strays = match &found.supervisor {
        Says::This(snapshot) => strays(snapshot, |id| {
            matches!(found.containers.get(id), Some(Written::Record(_) | Written::Unreadable))
        }),
        Says::Nothing | Says::Gone => Vec::new(),
    };
    Action::Adopt { state, containers, strays }
}

/// What has happened while no daemon was there, in the order in which it is to be told: containers, then the pod.
pub(crate) fn missed(found: &Found, action: &Action) -> Vec<(Option<ContainerId>, EventKind)> {
    let Action::Adopt { state, containers, .. } = action else { return Vec::new() };
    let of_container = |(id, fate): (&ContainerId, &Fate)| {
        let (Fate::Keep(state), Some(Written::Record(record))) = (fate, found.containers.get(id)) else {
            return None;
        };
        let kind = match (&record.stage, state) {
            (ContainerStage::Exited(_), _) => None,
            (_, ContainerState::Exited(_)) => Some(EventKind::Stopped),
            (ContainerStage::Created | ContainerStage::Starting, ContainerState::Running(_)) => {
                Some(EventKind::Started)
            }
            _ => None,
        };
        Some((Some(id.clone()), kind?))
    };
    let lives = |fate: &Fate| matches!(fate, Fate::Keep(ContainerState::Running(_)));
    let is_over = has_lost_its_supervisor(state) && !containers.values().any(lives);
    let ended = is_over && Told::by_record(&found.pod).goes_on_to(EventKind::Stopped);
    let pod = ended.then_some((None, EventKind::Stopped));
    containers.iter().filter_map(of_container).chain(pod).collect()
}

/// Whether nothing can be started in a pod any more.
fn has_lost_its_supervisor(state: &PodState) -> bool {
    matches!(state, PodState::NotReady { parts } if !parts.contains(&Part::Supervisor))
}

/// What runs, or is about to, and is not known.
pub(crate) fn strays(
    snapshot: &BTreeMap<ContainerId, Seen>,
    is_known: impl Fn(&ContainerId) -> bool,
) -> Vec<ContainerId> {
    let lives = |seen: &Seen| matches!(seen, Seen::Begins | Seen::Runs(_));
    snapshot.iter().filter(|(id, seen)| lives(seen) && !is_known(id)).map(|(id, _)| id.clone()).collect()
}

/// The end of a container that was missed while its supervisor was out of touch; `None` for what is as it was.
///
/// A start that was under way is not looked at: it is asked for once more.
pub(crate) fn news_of(
    state: &ContainerState,
    (seen, written): (Option<&Seen>, Option<&ExitReport>),
) -> Option<Exited> {
    let process = state.process()?;
    match (seen, written) {
        (Some(Seen::Begins | Seen::Runs(_)), _) => None,
        (Some(Seen::Ended(report)), _) | (None, Some(report)) => Some(end::exited(report)),
        // It answers, and knows nothing of it.
        (None, None) => Some(end::lost(process.started_at, Remains::Gone)),
    }
}

fn fate(found: &Found, id: &ContainerId, written: &Written) -> Fate {
    let record = match written {
        Written::Record(record) => record,
        Written::Nothing => return Fate::Discard,
        Written::Unreadable => return Fate::Leave,
    };
    let seen = match &found.supervisor {
        Says::This(snapshot) => snapshot.get(id),
        Says::Nothing | Says::Gone => None,
    };
    let ended = |report: &ExitReport| ContainerState::Exited(end::exited(report));
    Fate::Keep(match (&record.stage, seen, found.exits.get(id)) {
        (ContainerStage::Exited(exited), _, _) => ContainerState::Exited(exited.clone()),
        (_, Some(Seen::Runs(process)), _) => ContainerState::Running(*process),
        (_, Some(Seen::Begins), _) => ContainerState::Starting { ended: None, wanted: Wanted::Yes },
        (_, Some(Seen::Ended(report)), _) => ended(report),
        (ContainerStage::Created, None, _) => ContainerState::Created,
        (ContainerStage::Starting | ContainerStage::Started(_), None, Some(report)) => ended(report),
        (ContainerStage::Starting, None, None) => match &found.supervisor {
            Says::This(_) => ContainerState::Created,
            Says::Nothing => ContainerState::Starting { ended: None, wanted: Wanted::Yes },
            Says::Gone => ContainerState::Exited(never_started(found.now)),
        },
        (ContainerStage::Started(process), None, None) if matches!(found.supervisor, Says::Nothing) => {
            ContainerState::Running(*process)
        }
        (ContainerStage::Started(process), None, None) => {
            match found.remains.get(id).copied().unwrap_or(Remains::Gone) {
                Remains::Live => ContainerState::Running(*process),
                remains => {
                    let lost = end::lost(process.started_at, remains);
                    ContainerState::Exited(Exited { finished_at: found.now, ..lost })
                }
            }
        }
    })
}

fn never_started(now: i64) -> Exited {
    Exited {
        exit_code: 128,
        reason: Reason::StartError,
        message: "daemon and supervisor were ended while they were starting the container".to_owned(),
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
    use crate::record::ContainerFacts;
    use crate::signal::Signal;

    fn pod(stage: PodStage) -> PodRecord {
        PodRecord::of_stage(stage)
    }

    fn container(id: &ContainerId, stage: ContainerStage) -> ContainerRecord {
        let facts = ContainerFacts {
            id: id.clone(),
            pod: PodId::random(),
            created_at: 1,
            config: Arc::default(),
            image_id: String::new(),
            image_ref: String::new(),
            image_volumes: Default::default(),
            user: Default::default(),
            stop_signal: Signal::TERM,
            log_path: None,
            runtime: None,
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

    fn found_of(containers: BTreeMap<ContainerId, Written>, supervisor: Says) -> Found {
        let (exits, remains) = Default::default();
        Found { pod: pod(ready()), containers, supervisor, exits, remains, now: 100 }
    }

    type Entry = (Option<ContainerStage>, Option<Seen>, bool);

    fn found(entries: &[Entry], pod_stage: PodStage, has_supervisor: bool) -> (Vec<ContainerId>, Found) {
        let ids: Vec<_> = entries.iter().map(|_| ContainerId::random()).collect();
        let each = || ids.iter().zip(entries);
        let found = Found {
            pod: pod(pod_stage),
            containers: each()
                .map(|(id, (stage, ..))| {
                    let record = stage.clone().map(|stage| Written::Record(container(id, stage)));
                    (id.clone(), record.unwrap_or(Written::Nothing))
                })
                .collect(),
            supervisor: match has_supervisor {
                true => Says::This(
                    each().filter_map(|(id, (_, seen, _))| Some((id.clone(), seen.clone()?))).collect(),
                ),
                false => Says::Gone,
            },
            remains: BTreeMap::new(),
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
    fn what_happened_meanwhile_is_told_the_pod_last() {
        let entries = [
            (Some(ContainerStage::Started(process())), None, true),
            (Some(ContainerStage::Exited(exited(3))), None, true),
            (Some(ContainerStage::Created), None, false),
        ];
        let (ids, gone) = found(&entries, ready(), false);
        let told = [(Some(ids[0].clone()), EventKind::Stopped), (None, EventKind::Stopped)];
        assert_eq!(missed(&gone, &recover(&gone)), told);
        let (runs, ended) = (Some(Seen::Runs(process())), Some(Seen::Ended(report(7))));
        let entries = [
            (Some(ContainerStage::Starting), runs, false),
            (Some(ContainerStage::Started(process())), ended, true),
        ];
        let (ids, there) = found(&entries, ready(), true);
        let told = missed(&there, &recover(&there));
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told.contains(&(Some(ids[0].clone()), EventKind::Started)), "{told:?}");
        assert!(told.contains(&(Some(ids[1].clone()), EventKind::Stopped)), "{told:?}");
    }

    #[test]
    fn a_pod_that_was_being_stopped_is_told_of_when_its_supervisor_has_gone() {
        let being_stopped = PodStage::NotReady([Part::Supervisor, Part::Cgroup].into());
        let told = |stage, has_supervisor| {
            let (_, found) = found(&[], stage, has_supervisor);
            missed(&found, &recover(&found))
        };
        assert_eq!(told(being_stopped.clone(), false), [(None, EventKind::Stopped)]);
        assert_eq!(told(being_stopped, true), [], "it goes on");
        assert_eq!(told(PodStage::NotReady([Part::Cgroup].into()), false), [], "the earlier daemon told");
    }

    #[test]
    fn a_pod_without_its_supervisor_is_not_ready_and_keeps_what_is_left() {
        for (remains, exit_code) in [(None, 255), (Some(Remains::Gone), 255), (Some(Remains::Killed), 137)] {
            let entries = [(Some(ContainerStage::Started(process())), None, false)];
            let (ids, mut found) = found(&entries, ready(), false);
            found.remains.extend(remains.map(|remains| (ids[0].clone(), remains)));
            let Action::Adopt { state, containers, .. } = recover(&found) else { panic!("adopted") };
            assert_eq!(state, PodState::NotReady { parts: [Part::Network, Part::Cgroup].into() });
            let Fate::Keep(ContainerState::Exited(exited)) = &containers[&ids[0]] else { panic!("exited") };
            let told = (exited.exit_code, exited.reason, exited.finished_at);
            assert_eq!(told, (exit_code, Reason::SupervisorLost, 100));
        }
    }

    #[test]
    fn what_no_kill_ends_is_not_said_to_have_ended() {
        let hangs = (Some(ContainerStage::Started(process())), None, false);
        let (ids, mut found) = found(&[hangs.clone(), hangs], ready(), false);
        found.remains = [(ids[0].clone(), Remains::Live), (ids[1].clone(), Remains::Killed)].into();
        let action = recover(&found);
        let Action::Adopt { containers, .. } = &action else { panic!("adopted") };
        assert_eq!(containers[&ids[0]], Fate::Keep(ContainerState::Running(process())));
        let told = missed(&found, &action);
        assert_eq!(told, [(Some(ids[1].clone()), EventKind::Stopped)], "and the pod is not over");
    }

    #[test]
    fn a_pod_whose_supervisor_is_silent_stays_what_it_was() {
        let (started, starting) = (ContainerId::random(), ContainerId::random());
        let written = |id: &ContainerId, stage| (id.clone(), Written::Record(container(id, stage)));
        let containers = [
            written(&started, ContainerStage::Started(process())),
            written(&starting, ContainerStage::Starting),
        ];
        let action = recover(&found_of(containers.into(), Says::Nothing));
        let Action::Adopt { state, containers, strays } = action else { panic!("adopted") };
        assert!(matches!(state, PodState::Ready(_)) && strays.is_empty());
        assert_eq!(containers[&started], Fate::Keep(ContainerState::Running(process())));
        assert_eq!(
            containers[&starting],
            Fate::Keep(ContainerState::Starting { ended: None, wanted: Wanted::Yes })
        );
    }

    #[test]
    fn a_start_that_never_reached_the_supervisor_can_be_asked_for_again() {
        let entries = [(Some(ContainerStage::Starting), None, false)];
        let (ids, there) = found(&entries, ready(), true);
        let action = recover(&there);
        let Action::Adopt { containers, .. } = &action else { panic!("adopted") };
        assert_eq!(containers[&ids[0]], Fate::Keep(ContainerState::Created));
        assert_eq!(missed(&there, &action), [], "nothing has happened to it");
        let (ids, gone) = found(&entries, ready(), false);
        let Action::Adopt { containers, .. } = recover(&gone) else { panic!("adopted") };
        let Fate::Keep(ContainerState::Exited(exited)) = &containers[&ids[0]] else { panic!("exited") };
        assert_eq!((exited.exit_code, exited.reason), (128, Reason::StartError));
    }

    #[test]
    fn a_container_whose_record_cannot_be_read_is_no_stray() {
        let (unreadable, unknown) = (ContainerId::random(), ContainerId::random());
        let runs = |id: &ContainerId| (id.clone(), Seen::Runs(process()));
        let says = Says::This([runs(&unreadable), runs(&unknown)].into());
        let action = recover(&found_of([(unreadable.clone(), Written::Unreadable)].into(), says));
        let Action::Adopt { containers, strays, .. } = action else { panic!("adopted") };
        assert_eq!(containers[&unreadable], Fate::Leave);
        assert_eq!(strays, [unknown]);
    }

    #[test]
    fn an_end_that_was_missed_is_news_and_a_life_is_none() {
        let running = ContainerState::Running(process());
        assert_eq!(news_of(&running, (Some(&Seen::Runs(process())), None)), None);
        let ended = news_of(&running, (Some(&Seen::Ended(report(7))), Some(&report(9))));
        assert_eq!(ended, Some(exited(7)));
        assert_eq!(news_of(&running, (None, Some(&report(9)))), Some(exited(9)));
        assert!(
            news_of(&running, (None, None)).is_some_and(|exited| exited.reason == Reason::SupervisorLost)
        );
        assert_eq!(news_of(&ContainerState::Created, (None, None)), None);
    }
}
