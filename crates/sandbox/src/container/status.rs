//! What lists and statuses show of a container: a value that is published whole and never changes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::container::config::ContainerConfig;
use crate::id::{ContainerId, PodId};
use crate::pod::status::has_labels;
use crate::resources::Resources;
use crate::signal::Signal;

/// A container, at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerStatus {
    /// Its id.
    pub id: ContainerId,
    /// The pod it is in.
    pub pod: PodId,
    /// What was asked for.
    pub config: Arc<ContainerConfig>,
    /// Id of its image.
    pub image_id: String,
    /// What statuses call its image.
    pub image_ref: String,
    /// Ids of the images that are its volumes, by their number among the mounts.
    pub image_volumes: BTreeMap<usize, String>,
    /// When it was made, in nanoseconds since the epoch.
    pub created_at: i64,
    /// Its state.
    pub phase: ContainerPhase,
    /// Its limits now.
    pub resources: Resources,
    /// Whom its process runs as.
    pub user: ProcessUser,
    /// The signal that stops it.
    pub stop_signal: Signal,
    /// Its log file.
    pub log_path: Option<PathBuf>,
}

/// A container's state with what there is to tell of it. Times are in nanoseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerPhase {
    /// CONTAINER_CREATED: no process yet.
    Created,
    /// CONTAINER_RUNNING.
    Running {
        /// The process on the host.
        pid: u32,
        /// When it was started.
        started_at: i64,
    },
    /// CONTAINER_EXITED.
    Exited(Exited),
}

/// The end of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exited {
    /// Exit status, or 128 and the number of the signal.
    pub exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `SupervisorLost`.
    pub reason: Reason,
    /// More about it, for a person.
    pub message: String,
    /// When it was started; 0 when it never was.
    pub started_at: i64,
    /// When it ended.
    pub finished_at: i64,
}

/// Why a container ended, in the words of Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// Exit status 0.
    Completed,
    /// Another exit status, or a signal.
    Error,
    /// The kernel killed a process of it for want of memory.
    OOMKilled,
    /// It never ran.
    StartError,
    /// Its supervisor has died: it was killed for that (exit code 137), or how it ended is not known (255).
    SupervisorLost,
}

impl Reason {
    /// The word itself.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OOMKilled => "OOMKilled",
            Self::StartError => "StartError",
            Self::SupervisorLost => "SupervisorLost",
        }
    }
}

/// Whom a process runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessUser {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups, the primary one included.
    pub supplemental_groups: Vec<u32>,
}

/// CRI's names of the states (ContainerState), for filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PhaseName {
    /// CONTAINER_CREATED.
    Created,
    /// CONTAINER_RUNNING.
    Running,
    /// CONTAINER_EXITED.
    Exited,
    /// CONTAINER_UNKNOWN: can be asked for; no container ever is.
    Unknown,
}

impl ContainerPhase {
    /// The state without its details.
    pub fn name(&self) -> PhaseName {
        match self {
            Self::Created => PhaseName::Created,
            Self::Running { .. } => PhaseName::Running,
            Self::Exited(_) => PhaseName::Exited,
        }
    }
}

/// Which containers a list is to have; every condition that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerFilter {
    /// The beginning of the id.
    pub id: String,
    /// The beginning of the pod's id.
    pub pod: String,
    /// The state.
    pub phase: Option<PhaseName>,
    /// Labels that the container must have.
    pub labels: BTreeMap<String, String>,
}

impl ContainerFilter {
    /// Whether a container is to be listed.
    pub fn matches(&self, container: &ContainerStatus) -> bool {
        container.id.as_str().starts_with(&self.id)
            && container.pod.as_str().starts_with(&self.pod)
            && self.phase.is_none_or(|phase| phase == container.phase.name())
            && has_labels(&container.config.labels, &self.labels)
    }
}
