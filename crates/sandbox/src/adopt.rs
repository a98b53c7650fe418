//! Finding what an earlier daemon left and going on from there.
//!
//! Reads the records, connects to every supervisor, asks what runs, and lets `recover` decide. Pods are looked at side by side, so
//! that one whose supervisor hangs holds nobody up for longer than its own deadline.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::clock;
use crate::container::make::Made;
use crate::container::state::ContainerState;
use crate::error::{Error, chain};
use crate::id::{ContainerId, PodId};
use crate::plugins::Memory;
use crate::pod::actor::Beginning;
use crate::pod::contact::{Remains, Seek, kill_orphans};
use crate::pod::members::{Known, Member};
use crate::pod::state::PodState;
use crate::pod::told::Told;
use crate::record::{self, ContainerRecord, ContainerStage, PodFacts, PodRecord, PodStage};
use crate::recover::{Action, Fate, Found, Says, Written, missed, recover};
use crate::shared::Shared;
use crate::step;
use crate::supervisor::client::{Client, ExitReport};
use crate::supervisor::spawn::{self, Contact};

/// How long a supervisor may take for an answer before its pod is shown without: all pods wait for the slowest.
const PATIENCE: Duration = Duration::from_secs(3);

/// A pod that was found.
pub(crate) struct Adopted {
    pub(crate) beginning: Beginning,
    /// Whether it was never finished, so that it has to go again.
    pub(crate) is_half_made: bool,
}

/// Finds all pods.
///
/// Not safe to cancel: containers that were half made could be cleared away half.
pub(crate) async fn adopt(shared: &Arc<Shared>) -> Vec<Adopted> {
    let mut looking = JoinSet::new();
    for (id, record) in shared.store.pods() {
        match record {
            Ok(record) => {
                looking.spawn(one(shared.clone(), record));
            }
            Err(error) => unreadable(shared, &id, &error),
        }
    }
    looking.join_all().await
}

/// A pod's directory without a record was made right before the daemon ended: there is nothing behind it. A record that can't be read
/// (of a newer version, or damaged) is left as it is for a person to look at: its pod may run, unless the machine was booted since.
fn unreadable(shared: &Shared, id: &PodId, error: &Error) {
    let directory = shared.store.pod_dir(id);
    if directory.join("record.json").exists() && !shared.store.boot.is_over() {
        tracing::error!(pod = %id, error = chain(error), "a pod is left alone, for its record cannot be read");
    } else if let Err(error) = record::remove_dir(&directory) {
        tracing::warn!(pod = %id, error = chain(&error), "the directory of a pod that never was stays");
    }
}

async fn one(shared: Arc<Shared>, pod: PodRecord) -> Adopted {
    let id = pod.facts.id.clone();
    let expected = match &pod.stage {
        PodStage::Ready(live) => Some(live.supervisor),
        PodStage::Making | PodStage::NotReady(_) => None,
    };
    let directory = shared.store.pod_dir(&id);
    let reached = async { Ok(spawn::reach(&id, &directory, (expected, PATIENCE)).await) };
    let (minder, says) = match step::before("adopt", reached).await.unwrap_or_else(Contact::Silent) {
        Contact::Answers(minder, snapshot) => (Some(minder), Says::This(snapshot)),
        Contact::Silent(error) => {
            tracing::warn!(pod = %id, error = chain(&error), "the pod's supervisor does not answer");
            (None, Says::Nothing)
        }
        Contact::Gone(error) => {
            if matches!(pod.stage, PodStage::Ready(_)) {
                tracing::warn!(pod = %id, error = chain(&error), "the pod's supervisor is gone");
                shared.contacts.lost.fetch_add(1, Ordering::Relaxed);
            }
            (None, Says::Gone)
        }
    };
    let seeks = matches!(says, Says::Nothing).then_some(Seek { expected });
    let containers = records(&shared, &id);
    let remains = match says {
        Says::Gone => remains(&shared, &pod.facts, &containers).await,
        Says::This(_) | Says::Nothing => BTreeMap::new(),
    };
    let written = |container: &ContainerId| ExitReport::read(&shared.store.container_dir(&id, container));
    let exits =
        containers.keys().filter_map(|container| Some((container.clone(), written(container)?))).collect();
    let found = Found { pod: pod.clone(), containers, supervisor: says, exits, remains, now: clock::now() };
    let action = recover(&found);
    let missed = missed(&found, &action);
    let told = Told::by_record(&pod);
    match action {
        Action::Undo(parts) => {
            // Its containers, if it has any, are erased with it. A silent supervisor ends with its cgroup.
            let (state, members) = (PodState::Unmade { parts }, BTreeMap::new());
            let (facts, limits, seeks) = (pod.facts, None, None);
            let beginning = Beginning { shared, facts, state, members, minder, limits, seeks, missed, told };
            Adopted { beginning, is_half_made: true }
        }
        Action::Adopt { state, containers, strays } => {
            if let Some(minder) = &minder {
                kill_strays(&shared, &minder.client, strays).await;
            }
            let members = keep(&shared, &found, containers).await;
            let (facts, limits) = (pod.facts, pod.limits);
            let beginning = Beginning { shared, facts, state, members, minder, limits, seeks, missed, told };
            Adopted { beginning, is_half_made: false }
        }
    }
}

fn records(shared: &Shared, pod: &PodId) -> BTreeMap<ContainerId, Written> {
    let mut found = BTreeMap::new();
    for (id, record) in shared.store.containers(pod) {
        let has_record = shared.store.container_dir(pod, &id).join("record.json").exists();
        let written = match record {
            Ok(record) => Written::Record(record),
            Err(error) if has_record && !shared.store.boot.is_over() => {
                tracing::error!(container = %id, error = chain(&error), "a container is left alone, for its record cannot be read");
                Written::Unreadable
            }
            Err(_) => Written::Nothing,
        };
        found.insert(id, written);
    }
    found
}

/// Ends what a supervisor that is gone has left, before anybody is told of its end.
async fn remains(
    shared: &Arc<Shared>,
    facts: &PodFacts,
    containers: &BTreeMap<ContainerId, Written>,
) -> BTreeMap<ContainerId, Remains> {
    let ran = |(id, written): (&ContainerId, &Written)| match written {
        Written::Record(ContainerRecord { facts, stage: ContainerStage::Started(_), .. }) => {
            Some((id.clone(), facts.cgroup.clone()))
        }
        Written::Record(_) | Written::Nothing | Written::Unreadable => None,
    };
    let orphaned: Vec<_> = containers.iter().filter_map(ran).collect();
    let all: Vec<_> = orphaned.iter().map(|(id, _)| id.clone()).collect();
    if all.is_empty() {
        return BTreeMap::new();
    }
    let mut remains = kill_orphans(shared, (facts, PATIENCE), orphaned).await.unwrap_or_else(|error| {
        tracing::error!(pod = %facts.id, error = chain(&error), "processes of a lost supervisor may still run");
        all.into_iter().map(|id| (id, Remains::Live)).collect()
    });
    if shared.store.boot.is_over() {
        remains
            .values_mut()
            .filter(|remains| **remains == Remains::Gone)
            .for_each(|gone| *gone = Remains::Before);
    }
    remains
}

/// Kills what runs and nobody knows.
pub(crate) async fn kill_strays(shared: &Shared, client: &Client, strays: Vec<ContainerId>) {
    for id in strays {
        tracing::warn!(container = %id, "a container without a record is killed");
        if let Err(error) = client.kill_stray(&id, shared.config.deadlines.kill).await {
            tracing::error!(container = %id, error = chain(&error), "a container without a record still runs");
        }
    }
}

async fn keep(
    shared: &Arc<Shared>,
    found: &Found,
    fates: BTreeMap<ContainerId, Fate>,
) -> BTreeMap<ContainerId, Member> {
    let mut members = BTreeMap::new();
    for (id, fate) in fates {
        match (fate, found.containers.get(&id)) {
            (Fate::Keep(state), Some(Written::Record(record))) => {
                members.insert(id, member(shared, record, state));
            }
            (Fate::Discard, _) => discard(shared, &found.pod.facts.id, &id).await,
            (Fate::Leave | Fate::Keep(_), _) => {}
        }
    }
    members
}

/// A container whose plan cannot be read is shown, stopped and removed as any other; only nothing can be started in it any more.
fn member(shared: &Shared, record: &ContainerRecord, state: ContainerState) -> Member {
    let directory = shared.store.container_dir(&record.facts.pod, &record.facts.id);
    let process = match record::read_json::<runtime::plan::Plan>(&directory.join("plan.json")) {
        Ok(plan) => {
            let seccomp = plan.process.seccomp.map(crate::spec::seccomp::shared);
            Some(Arc::new(runtime::plan::ProcessPlan { seccomp, ..plan.process }))
        }
        Err(error) => {
            tracing::error!(container = %record.facts.id, error = chain(&error), "nothing can be started in a container, for its plan cannot be read");
            None
        }
    };
    let known = match state {
        ContainerState::Exited(_) => Known::Ended,
        _ => Known::There,
    };
    let mut member = Member {
        config: record.facts.config.clone(),
        known,
        memory: Memory::default(),
        state,
        made: Some(Made { facts: record.facts.clone(), process, ready: None, resources: None, window: None }),
        resources: record.resources.clone(),
        is_launching: false,
        called_off: Arc::default(),
        updates: None,
    };
    member.process_as_updated();
    member
}

async fn discard(shared: &Shared, pod: &PodId, id: &ContainerId) {
    let released = crate::container::make::release(shared, id).await;
    let removed = record::remove_dir(&shared.store.container_dir(pod, id));
    if let Err(error) = released.and(removed) {
        tracing::warn!(container = %id, error = chain(&error), "what is left of a container that was never finished stays");
    }
}
