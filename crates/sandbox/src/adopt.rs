//! Finding what an earlier daemon left and going on from there.
//!
//! Reads the records, connects to every supervisor, asks what runs, and lets `recover` decide. Pods are looked at side by side, so
//! that one whose supervisor hangs holds nobody up for longer than its own deadline.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::clock;
use crate::container::make::Made;
use crate::container::state::ContainerState;
use crate::error::{Error, chain};
use crate::id::{ContainerId, PodId};
use crate::pod::actor::Beginning;
use crate::pod::members::Member;
use crate::pod::state::{PodState, ProcessId};
use crate::record::{self, ContainerRecord, PodRecord, PodStage};
use crate::recover::{Action, Fate, Found, Seen, recover};
use crate::shared::Shared;
use crate::supervisor::client::ExitReport;
use crate::supervisor::{Minder, spawn};

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
/// (of a newer version, or damaged) is left as it is for a person to look at.
fn unreadable(shared: &Shared, id: &PodId, error: &Error) {
    let directory = shared.store.pod_dir(id);
    if directory.join("record.json").exists() {
        tracing::error!(pod = %id, error = chain(error), "a pod is left alone, for its record cannot be read");
    } else if let Err(error) = record::remove_dir(&directory) {
        tracing::warn!(pod = %id, error = chain(&error), "the directory of a pod that never was stays");
    }
}

async fn one(shared: Arc<Shared>, pod: PodRecord) -> Adopted {
    let id = pod.facts.id.clone();
    let (mut minder, snapshot) = match connect(&shared, &pod).await {
        Ok((minder, snapshot)) => (Some(minder), Some(snapshot)),
        Err(error) => {
            if matches!(pod.stage, PodStage::Ready(_)) {
                tracing::warn!(pod = %id, error = chain(&error), "the pod's supervisor is gone");
            }
            (None, None)
        }
    };
    let containers = records(&shared, &id);
    let written = |container: &ContainerId| ExitReport::read(&shared.store.container_dir(&id, container));
    let exits =
        containers.keys().filter_map(|container| Some((container.clone(), written(container)?))).collect();
    let found = Found { pod: pod.clone(), containers, snapshot, exits, now: clock::now() };
    match recover(&found) {
        Action::Undo(parts) => {
            // Its containers, if it has any, are erased with it.
            let state = PodState::Unmade { parts };
            let beginning = Beginning { shared, facts: pod.facts, state, members: BTreeMap::new(), minder };
            Adopted { beginning, is_half_made: true }
        }
        Action::Adopt { state, containers, strays } => {
            if let (Some(minder), PodState::Ready(live)) = (&mut minder, &state) {
                minder.netns.clone_from(&live.netns);
            }
            kill_strays(&shared, minder.as_ref(), strays).await;
            let members = keep(&shared, &found, containers).await;
            Adopted {
                beginning: Beginning { shared, facts: pod.facts, state, members, minder },
                is_half_made: false,
            }
        }
    }
}

async fn connect(shared: &Shared, pod: &PodRecord) -> Result<(Minder, BTreeMap<ContainerId, Seen>), Error> {
    let directory = shared.store.pod_dir(&pod.facts.id);
    let minder = spawn::connect(&pod.facts.id, &directory, shared.config.deadlines.supervisor).await?;
    if let PodStage::Ready(live) = &pod.stage
        && live.supervisor != minder.process
    {
        return Err(not_the_same(live.supervisor, minder.process));
    }
    let snapshot = minder.client.snapshot(shared.config.deadlines.supervisor).await?;
    Ok((minder, snapshot))
}

fn not_the_same(recorded: ProcessId, found: ProcessId) -> Error {
    #[derive(Debug, thiserror::Error)]
    #[error("process {found} answers where {recorded} should")]
    struct NotTheSame {
        recorded: i32,
        found: i32,
    }
    let cause = NotTheSame { recorded: recorded.pid, found: found.pid };
    Error::step("recognising the supervisor", found.pid.to_string(), cause)
}

fn records(shared: &Shared, pod: &PodId) -> BTreeMap<ContainerId, Option<ContainerRecord>> {
    let mut found = BTreeMap::new();
    for (id, record) in shared.store.containers(pod) {
        let has_record = shared.store.container_dir(pod, &id).join("record.json").exists();
        match record {
            Ok(record) => {
                found.insert(id, Some(record));
            }
            Err(error) if has_record => {
                tracing::error!(container = %id, error = chain(&error), "a container is left alone, for its record cannot be read");
            }
            Err(_) => {
                found.insert(id, None);
            }
        }
    }
    found
}

async fn kill_strays(shared: &Shared, minder: Option<&Minder>, strays: Vec<ContainerId>) {
    let Some(minder) = minder else { return };
    for id in strays {
        tracing::warn!(container = %id, "a container without a record is killed");
        if let Err(error) = minder.client.kill_stray(&id, shared.config.deadlines.kill).await {
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
        let kept = match (fate, found.containers.get(&id)) {
            (Fate::Keep(state), Some(Some(record))) => member(shared, record, state),
            (Fate::Discard, _) | (Fate::Keep(_), _) => None,
        };
        match kept {
            Some(member) => {
                members.insert(id, member);
            }
            None => discard(shared, &found.pod.facts.id, &id).await,
        }
    }
    members
}

fn member(shared: &Shared, record: &ContainerRecord, state: ContainerState) -> Option<Member> {
    let directory = shared.store.container_dir(&record.facts.pod, &record.facts.id);
    let plan: runtime::plan::Plan = match record::read_json(&directory.join("plan.json")) {
        Ok(plan) => plan,
        Err(error) => {
            tracing::error!(container = %record.facts.id, error = chain(&error), "a container without a plan is discarded");
            return None;
        }
    };
    let process = Arc::new(runtime::plan::ProcessPlan { seccomp: None, ..plan.process });
    Some(Member {
        config: record.facts.config.clone(),
        state,
        made: Some(Made { facts: record.facts.clone(), process, ready: None }),
        resources: record.resources.clone(),
        updates: None,
    })
}

async fn discard(shared: &Shared, pod: &PodId, id: &ContainerId) {
    let released = crate::container::make::release(shared, id).await;
    let removed = record::remove_dir(&shared.store.container_dir(pod, id));
    if let Err(error) = released.and(removed) {
        tracing::warn!(container = %id, error = chain(&error), "what is left of a container that was never finished stays");
    }
}
