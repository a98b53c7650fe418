//! All pods and containers by id, with the last published value of each.
//!
//! Lists and statuses read here and never wait for an actor. One lock, held for a few lines, never across an await.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use runtime::plan::ProcessPlan;
use tokio::sync::mpsc;

use crate::container::status::{ContainerFilter, ContainerStatus};
use crate::error::{Error, Kind};
use crate::figures::{Figures, Glance};
use crate::id::{ContainerId, ID_LENGTH, PodId};
use crate::name::Names;
use crate::pod::config::PodMetadata;
use crate::pod::status::{PodFilter, PodStatus};
use crate::pod::wish::Wish;
use crate::stats::Kept;
use crate::streams::InputForOne;
use crate::supervisor::client::Client;

/// A pod, as the rest of the daemon reaches it.
#[derive(Debug, Clone)]
pub(crate) struct PodEntry {
    pub(crate) id: PodId,
    /// Its actor.
    pub(crate) mailbox: mpsc::Sender<Wish>,
    /// What it published; nothing while it is being made.
    pub(crate) status: Option<Arc<PodStatus>>,
    /// Its supervisor's connection, for execs.
    pub(crate) client: Option<Client>,
    /// What is known of its usage from the last look.
    pub(crate) kept: Arc<Kept>,
}

/// A container, as the rest of the daemon reaches it.
#[derive(Debug, Clone)]
pub(crate) struct ContainerEntry {
    /// Its pod.
    pub(crate) pod: PodId,
    /// What was published of it.
    pub(crate) status: Arc<ContainerStatus>,
    /// What a further process in it is like, but for the command; `None` when that cannot be told.
    pub(crate) process: Option<Arc<ProcessPlan>>,
    /// Its input, if that is for one.
    pub(crate) input: Arc<InputForOne>,
    /// What is known of its usage from the last look.
    pub(crate) kept: Arc<Kept>,
}

/// What waits for a pod's actor, for people who look for one that is stuck.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// The pod.
    pub pod: PodId,
    /// Wishes that it hasn't taken up.
    pub waiting: usize,
    /// How many may wait; more are refused.
    pub room: usize,
    /// Whether it hasn't published anything yet.
    pub is_being_made: bool,
}

#[derive(Debug)]
struct Index {
    pods: BTreeMap<String, PodEntry>,
    containers: BTreeMap<String, ContainerEntry>,
    pod_names: Names<PodMetadata, PodId>,
}

/// The index of everything.
#[derive(Debug)]
pub(crate) struct Registry(Mutex<Index>);

impl Registry {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Index {
            pods: BTreeMap::new(),
            containers: BTreeMap::new(),
            pod_names: Names::new(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves a pod's name and enters its actor.
    ///
    /// # Errors
    /// The holder of the name.
    pub(crate) fn enter_pod(
        &self,
        id: &PodId,
        name: PodMetadata,
        mailbox: mpsc::Sender<Wish>,
    ) -> Result<(), PodId> {
        let mut index = self.lock();
        index.pod_names.reserve(name, id)?;
        let entry = PodEntry { id: id.clone(), mailbox, status: None, client: None, kept: Arc::default() };
        index.pods.insert(id.to_string(), entry);
        Ok(())
    }

    pub(crate) fn publish_pod(&self, status: Arc<PodStatus>, client: Option<Client>) {
        if let Some(entry) = self.lock().pods.get_mut(status.id.as_str()) {
            entry.status = Some(status);
            entry.client = client;
        }
    }

    pub(crate) fn forget_pod(&self, id: &PodId, name: &PodMetadata) {
        let mut index = self.lock();
        index.pod_names.release(name, id);
        index.pods.remove(id.as_str());
    }

    pub(crate) fn publish_container(&self, status: Arc<ContainerStatus>, process: &Option<Arc<ProcessPlan>>) {
        let mut index = self.lock();
        let before = index.containers.get(status.id.as_str());
        let (input, kept) = before.map(|entry| (entry.input.clone(), entry.kept.clone())).unwrap_or_default();
        let entry = ContainerEntry { pod: status.pod.clone(), process: process.clone(), status, input, kept };
        index.containers.insert(entry.status.id.to_string(), entry);
    }

    pub(crate) fn forget_container(&self, id: &ContainerId) {
        self.lock().containers.remove(id.as_str());
    }

    /// The pod with this id or beginning of an id.
    pub(crate) fn pod(&self, id: &str) -> Result<PodEntry, Error> {
        find(&self.lock().pods, Kind::Pod, id)
    }

    /// The container with this id or beginning of an id.
    pub(crate) fn container(&self, id: &str) -> Result<ContainerEntry, Error> {
        find(&self.lock().containers, Kind::Container, id)
    }

    /// A container with its pod.
    pub(crate) fn container_and_pod(&self, id: &str) -> Result<(ContainerEntry, PodEntry), Error> {
        let index = self.lock();
        let container = find(&index.containers, Kind::Container, id)?;
        let pod = find(&index.pods, Kind::Pod, container.pod.as_str())?;
        Ok((container, pod))
    }

    pub(crate) fn pods(&self, filter: &PodFilter) -> Vec<Arc<PodStatus>> {
        let index = self.lock();
        let published = index.pods.values().filter_map(|entry| entry.status.as_ref());
        published.filter(|status| filter.matches(status)).cloned().collect()
    }

    pub(crate) fn containers(&self, filter: &ContainerFilter) -> Vec<Arc<ContainerStatus>> {
        let index = self.lock();
        let published = index.containers.values().map(|entry| &entry.status);
        published.filter(|status| filter.matches(status)).cloned().collect()
    }

    /// The containers that a filter matches, each with its pod.
    pub(crate) fn containers_and_pods(&self, filter: &ContainerFilter) -> Vec<(ContainerEntry, PodEntry)> {
        let index = self.lock();
        let found = index.containers.values().filter(|entry| filter.matches(&entry.status));
        let with_pod =
            |entry: &ContainerEntry| Some((entry.clone(), index.pods.get(entry.pod.as_str())?.clone()));
        found.filter_map(with_pod).collect()
    }

    /// The pods that a filter matches, each with its containers.
    pub(crate) fn pods_and_containers(&self, filter: &PodFilter) -> Vec<(PodEntry, Vec<ContainerEntry>)> {
        let index = self.lock();
        let mut of_pods: BTreeMap<&PodId, Vec<ContainerEntry>> = BTreeMap::new();
        for container in index.containers.values() {
            of_pods.entry(&container.pod).or_default().push(container.clone());
        }
        let matching =
            index.pods.values().filter(|entry| entry.status.as_ref().is_some_and(|s| filter.matches(s)));
        matching.map(|pod| (pod.clone(), of_pods.remove(&pod.id).unwrap_or_default())).collect()
    }

    /// How many there are of everything.
    pub(crate) fn figures(&self) -> Figures {
        let index = self.lock();
        let mut figures = Figures::default();
        for entry in index.pods.values() {
            figures.add_pod(&Glance {
                phase: entry.status.as_ref().map(|status| status.phase),
                free: entry.mailbox.capacity(),
                places: entry.mailbox.max_capacity(),
                is_in_touch: entry.client.is_some(),
            });
            figures.supervisors.extend(entry.status.as_ref().and_then(|status| status.supervisor));
        }
        index.containers.values().for_each(|entry| figures.add_container(entry.status.phase.name()));
        figures
    }

    /// All pods, those being made among them.
    pub(crate) fn pod_ids(&self) -> BTreeSet<PodId> {
        self.lock().pods.values().map(|entry| entry.id.clone()).collect()
    }

    /// How full the mailboxes of all actors are.
    pub(crate) fn queues(&self) -> Vec<Queue> {
        let queue = |PodEntry { id, mailbox, status, .. }: &PodEntry| Queue {
            pod: id.clone(),
            waiting: mailbox.max_capacity() - mailbox.capacity(),
            room: mailbox.max_capacity(),
            is_being_made: status.is_none(),
        };
        self.lock().pods.values().map(queue).collect()
    }

    /// The mailboxes of all actors.
    pub(crate) fn mailboxes(&self) -> Vec<mpsc::Sender<Wish>> {
        self.lock().pods.values().map(|entry| entry.mailbox.clone()).collect()
    }
}

fn find<T: Clone>(entries: &BTreeMap<String, T>, kind: Kind, id: &str) -> Result<T, Error> {
    let unknown = || Error::NotFound { kind, id: id.to_owned() };
    if id.len() == ID_LENGTH {
        return entries.get(id).cloned().ok_or_else(unknown);
    }
    if id.is_empty() {
        return Err(unknown());
    }
    let mut from_here = entries.range::<str, _>((Bound::Included(id), Bound::Unbounded));
    let first = from_here.next().filter(|(key, _)| key.starts_with(id)).ok_or_else(unknown)?;
    match from_here.next() {
        Some((key, _)) if key.starts_with(id) => Err(Error::Ambiguous { kind, prefix: id.to_owned() }),
        _ => Ok(first.1.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_is_enough_when_it_is_unambiguous() {
        let entries: BTreeMap<String, u8> =
            [("abc1", 1), ("abd2", 2), ("b", 3)].map(|(key, value)| (format!("{key:0<64}"), value)).into();
        let find = |id: &str| find(&entries, Kind::Pod, id);
        assert_eq!(find("abc").ok(), Some(1));
        assert_eq!(find(&format!("{:0<64}", "b")).ok(), Some(3));
        assert!(matches!(find("ab"), Err(Error::Ambiguous { .. })));
        for unknown in ["", "c", "abcd", &"0".repeat(65), "zz"] {
            assert!(matches!(find(unknown), Err(Error::NotFound { .. })), "{unknown}");
        }
    }
}
