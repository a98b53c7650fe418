//! The namespaces of a pod: made once, pinned by descriptors, joined by every container.
//!
//! The supervisor stays in the host's. Joining is `init`'s work.

mod create;
mod network;
mod reaper;
mod socket;
mod traffic;
mod user;
mod visit;

use std::os::fd::OwnedFd;

pub use create::create_pod;
pub use network::prepare_network;
pub use socket::{TcpSockets, own_tcp_sockets, tcp_sockets};
pub use traffic::{Interface, Traffic, Visitor, visit_networks};
pub(crate) use user::map_ids;
pub use user::{PodUser, user_namespace};

/// A pod's namespaces. None where the pod uses the host's.
#[derive(Debug, Default)]
pub struct PodNamespaces {
    /// Network namespace.
    pub network: Option<OwnedFd>,
    /// IPC namespace.
    pub ipc: Option<OwnedFd>,
    /// UTS namespace.
    pub uts: Option<OwnedFd>,
    /// The pid namespace that the containers share, and its first process.
    pub pid: Option<PodPid>,
    /// The pod's /dev/shm.
    pub shared_memory: Option<SharedMemory>,
    /// A pid namespace that somebody else made.
    pub joined_pid: Option<OwnedFd>,
    /// A cgroup namespace that somebody else made.
    pub joined_cgroup: Option<OwnedFd>,
    /// The user namespace that owns the others and that every container is in.
    pub user: Option<PodUser>,
}

/// A pod's shared pid namespace. It lives as long as its first process.
#[derive(Debug)]
pub struct PodPid {
    /// The namespace.
    pub namespace: OwnedFd,
    /// The number of its first process in the supervisor's namespace.
    pub init: i32,
    /// Its first process: a child of the caller, who waits for it. SIGTERM ends it, and the kernel then
    /// everything in the namespace.
    pub init_pidfd: OwnedFd,
}

/// A tmpfs that is mounted nowhere on the host.
#[derive(Debug)]
pub struct SharedMemory {
    /// The detached mount.
    pub(crate) mount: OwnedFd,
    /// Where it is the root, on kernels before 6.15, which cannot clone a detached mount.
    pub(crate) holder: Option<OwnedFd>,
}
