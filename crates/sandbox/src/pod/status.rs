//! What lists and statuses show of a pod: a value that is published whole and never changes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::id::PodId;
use crate::pod::config::PodConfig;
use crate::pod::limits::PodResources;
use crate::pod::state::Live;
use crate::record::PodFacts;

/// A pod, at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct PodStatus {
    /// Its id.
    pub id: PodId,
    /// What was asked for.
    pub config: Arc<PodConfig>,
    /// Whether containers can be made in it.
    pub phase: PodPhase,
    /// When it was asked for, in nanoseconds since the epoch.
    pub created_at: i64,
    /// Its addresses, the primary one first; none on the host network.
    pub ips: Vec<IpAddr>,
    /// The process that minds it.
    pub supervisor: Option<u32>,
    /// Where its network namespace can be opened.
    pub netns: Option<PathBuf>,
    /// Its cgroup.
    pub cgroup: String,
    /// Its limits now.
    pub limits: PodResources,
    /// Why it is not ready and what of it is left, where there is something to say.
    pub message: String,
}

impl PodStatus {
    /// A pod with what exists of it while it is ready, if it is.
    pub(crate) fn of(facts: &PodFacts, live: Option<&Live>, limits: PodResources) -> Self {
        Self {
            id: facts.id.clone(),
            config: facts.config.clone(),
            phase: if live.is_some() { PodPhase::Ready } else { PodPhase::NotReady },
            created_at: facts.created_at,
            ips: live.map(|live| live.ips.clone()).unwrap_or_default(),
            supervisor: live.and_then(|live| u32::try_from(live.supervisor.pid).ok()),
            netns: live.and_then(|live| live.netns.clone()),
            cgroup: facts.cgroup.clone(),
            limits,
            message: String::new(),
        }
    }
}

/// What CRI tells of a pod's state (PodSandboxState).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodPhase {
    /// SANDBOX_READY.
    Ready,
    /// SANDBOX_NOTREADY: being made, being stopped, stopped or lost.
    NotReady,
}

/// Which pods a list is to have; every condition that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodFilter {
    /// The beginning of the id.
    pub id: String,
    /// The state.
    pub phase: Option<PodPhase>,
    /// Labels that the pod must have.
    pub labels: BTreeMap<String, String>,
}

impl PodFilter {
    /// Whether a pod is to be listed.
    pub fn matches(&self, pod: &PodStatus) -> bool {
        pod.id.as_str().starts_with(&self.id)
            && self.phase.is_none_or(|phase| phase == pod.phase)
            && has_labels(&pod.config.labels, &self.labels)
    }
}

/// Whether all wanted labels are there with their values.
pub(crate) fn has_labels(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}
