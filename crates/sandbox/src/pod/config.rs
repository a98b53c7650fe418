//! A pod as it was asked for. Values are checked where they are made; whether this runtime can do what they say is decided by
//! `pod::check`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::container::config::{Profile, SelinuxOptions, SupplementalGroupsPolicy};
use crate::resources::Resources;

/// A pod as it was asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodConfig {
    /// Who the pod is.
    pub metadata: PodMetadata,
    /// Hostname; empty for the host's own.
    pub hostname: String,
    /// Where the containers' logs go; empty when the pod's containers write none.
    pub log_directory: PathBuf,
    /// DNS settings; `None` for a copy of the host's.
    pub dns: Option<DnsConfig>,
    /// Host ports.
    pub port_mappings: Vec<PortMapping>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// The cgroup that the pod's goes below, in the form of the cgroup driver; empty for the daemon's default.
    pub cgroup_parent: String,
    /// Sysctls of the pod's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Which namespaces the pod has of its own.
    pub namespaces: PodNamespaces,
    /// Security settings of the sandbox itself.
    pub security: PodSecurity,
    /// What the pod costs beyond its containers, as the runtime class says (see `pod::limits`).
    pub overhead: Option<Resources>,
    /// The sum of what the containers ask for, likewise.
    pub resources: Option<Resources>,
    /// The runtime handler; empty for the default one.
    pub runtime_handler: String,
}

/// Who a pod is. All four parts together are its name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodMetadata {
    /// Name in Kubernetes.
    pub name: String,
    /// Uid in Kubernetes.
    pub uid: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// How often the sandbox was made anew.
    pub attempt: u32,
}

/// A pod's name with all its parts, for messages.
pub(crate) fn full_name(metadata: &PodMetadata) -> String {
    format!("{}_{}_{}_{}", metadata.name, metadata.namespace, metadata.uid, metadata.attempt)
}

/// DNS settings, as resolv.conf has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsConfig {
    /// Addresses of name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
}

/// A host port that leads to the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port in the pod.
    pub container_port: u16,
    /// Port on the host; 0 for none.
    pub host_port: u16,
    /// Address on the host; `None` for all.
    pub host_ip: Option<IpAddr>,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// Whose namespace a process is in (CRI NamespaceMode).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    /// The pod's, shared by its containers.
    #[default]
    Pod,
    /// The container's own (pid alone).
    Container,
    /// The host's.
    Node,
    /// Another container's, by id (pid alone, containers alone).
    Target(String),
}

/// Namespaces of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodNamespaces {
    /// Network: pod or node.
    pub network: NamespaceMode,
    /// Process ids: pod, container or node.
    pub pid: NamespaceMode,
    /// IPC: pod or node.
    pub ipc: NamespaceMode,
    /// Users: `Some` asks for a user namespace.
    pub user: Option<UserNamespace>,
}

/// A user namespace that was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// Uid mappings: inside, outside, length.
    pub uids: Vec<(u32, u32, u32)>,
    /// Gid mappings: inside, outside, length.
    pub gids: Vec<(u32, u32, u32)>,
}

/// Security settings of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSecurity {
    /// Whether privileged containers may run in the pod.
    pub privileged: bool,
    /// The user whom the sandbox runs as. No process of a workload's runs as the sandbox here; kept for the status.
    pub run_as_user: Option<u32>,
    /// Its group, likewise; unlike a container's it may stand alone.
    pub run_as_group: Option<u32>,
    /// Supplemental groups, likewise.
    pub supplemental_groups: Vec<u32>,
    /// Whether groups of an image's would be added to them, likewise.
    pub supplemental_groups_policy: SupplementalGroupsPolicy,
    /// Whether the sandbox's root is read-only, likewise.
    pub readonly_rootfs: bool,
    /// Seccomp profile of the sandbox.
    pub seccomp: Option<Profile>,
    /// AppArmor profile of the sandbox.
    pub apparmor: Option<Profile>,
    /// SELinux context of the pod.
    pub selinux: Option<SelinuxOptions>,
}
