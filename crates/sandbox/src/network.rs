//! What this crate needs of a pod network. The server plugs one in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use crate::error::Cause;
use crate::id::PodId;
use crate::pod::config::{DnsConfig, PortMapping};

/// Tells which pods are there at the moment of asking.
pub type Census = Arc<dyn Fn() -> BTreeSet<PodId> + Send + Sync>;

/// Connects pods to a network.
#[async_trait]
pub trait Network: Send + Sync + 'static {
    /// Connects a pod's network namespace. Called once a pod; a failure is followed by [`Network::detach`].
    ///
    /// # Errors
    /// Those of the network; see [`NetworkError`].
    async fn attach(&self, attachment: &Attachment) -> Result<Attached, NetworkError>;

    /// Disconnects a pod and gives its addresses back. Idempotent, also without a namespace any more.
    ///
    /// # Errors
    /// Those of the network; the pod stays, and detaching can be tried again.
    async fn detach(&self, attachment: &Attachment) -> Result<(), NetworkError>;

    /// Frees what belongs to none of the pods that are there. Called when the daemon has found out which those are, and from time to
    /// time after that. `pods` is to be asked after it is known what could be freed, since pods are made meanwhile.
    ///
    /// # Errors
    /// Those of the network; logged and otherwise of no consequence.
    async fn collect(&self, pods: Census) -> Result<(), NetworkError>;
}

/// A pod as the network sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The pod.
    pub pod_id: PodId,
    /// Its name in Kubernetes.
    pub name: String,
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// Its uid in Kubernetes.
    pub uid: String,
    /// Its network namespace; `None` when it is gone already.
    pub netns: Option<PathBuf>,
    /// Host ports.
    pub port_mappings: Vec<PortMapping>,
    /// The pod's annotations, which carry bandwidth limits among other things.
    pub annotations: BTreeMap<String, String>,
    /// The pod's cgroup.
    pub cgroup_parent: String,
    /// The pod's DNS settings.
    pub dns: Option<DnsConfig>,
    /// The handler that the pod runs with.
    pub runtime_handler: String,
}

/// What attaching gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attached {
    /// The pod's addresses, the primary one first.
    pub ips: Vec<IpAddr>,
}

/// What goes wrong with a network.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NetworkError {
    /// There is no usable network configuration (yet).
    #[error("the network is not ready: {reason}")]
    NotReady {
        /// Why.
        reason: String,
    },
    /// The network did not do it in time.
    #[error("the network is late")]
    Deadline(#[source] Cause),
    /// Something that the request says about the pod is wrong or not supported.
    #[error("{field}: {why}")]
    Refused {
        /// Path of the field in CRI's terms.
        field: String,
        /// What is wrong with it.
        why: String,
    },
    /// Something that the pod asks for is another pod's: a host port, an address.
    #[error("the network can't give the pod what another has")]
    Taken(#[source] Cause),
    /// The network has no address left for the pod.
    #[error("the network has no address left")]
    Exhausted(#[source] Cause),
    /// The network failed at the pod.
    #[error("the network failed")]
    Failed(#[source] Cause),
}
