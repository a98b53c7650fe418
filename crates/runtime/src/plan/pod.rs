//! What the containers of a pod have in common: namespaces and shared memory.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::IdMappings;

/// The namespaces and shared memory that the containers of a pod have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodPlan {
    /// The pod's network namespace.
    pub network: PodNamespace,
    /// The pod's IPC namespace.
    pub ipc: PodNamespace,
    /// The pod's UTS namespace.
    pub uts: PodNamespace,
    /// The pod's pid namespace; `Own` only when containers share it.
    pub pid: PodNamespace,
    /// The host name, when the pod has a UTS namespace.
    pub hostname: Option<String>,
    /// Kernel parameters of the pod's namespaces, by dotted name.
    pub sysctls: BTreeMap<String, String>,
    /// Size of the pod's /dev/shm in bytes; none when the pod uses the host's IPC namespace.
    pub shared_memory: Option<u64>,
    /// The pod's user namespace, which owns its other ones; none when the pod uses the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<IdMappings>,
    /// Namespaces that somebody else made, and that are the pod's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joined: Option<Box<Joined>>,
}

/// Namespaces by path, as `linux.namespaces` has them. One that isn't of the kind it is given for fails the first
/// container that joins it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "one field for each kind of namespace")]
pub struct Joined {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipc: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uts: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<PathBuf>,
}

/// Whether the pod has a namespace of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PodNamespace {
    /// It uses the host's.
    Host,
    /// It has its own.
    Own,
}

/// Size of a pod's /dev/shm when nobody says otherwise: 64 MiB, as every Kubernetes runtime has it.
pub const SHARED_MEMORY_BYTES: u64 = 64 << 20;
