//! The daemon's idea of pods and containers: what was asked for, in which state it is, what happens next.
//!
//! What lives here: one actor a pod, the pure states of pods and containers, the specification of containers, records on disk and
//! recovery from them, the daemon's end of the supervisor's socket. What doesn't: protobuf, registries, network plugins
//! (small traits, [`Network`], [`RootFilesystems`], [`Scopes`] and [`Plugins`], say what is needed of the others), and system calls beyond
//! files, processes and sockets.

mod adopt;
mod apparmor;
mod attach;
mod boot;
mod cdi;
pub mod clock;
pub mod config;
pub mod container;
mod current;
pub mod error;
pub mod events;
pub mod exec;
pub mod external;
mod figures;
mod forward;
pub mod handler;
pub mod id;
mod identity;
mod logs;
mod name;
pub mod network;
mod plugins;
pub mod pod;
mod pods;
mod prepared;
mod record;
mod recover;
mod registry;
pub mod resources;
pub mod rootfs;
mod scopes;
mod selinux;
mod shared;
pub mod signal;
mod sources;
mod spec;
mod stage;
pub mod stats;
mod step;
pub mod streams;
mod supervisor;
mod undo;
mod user_namespaces;
mod users;

pub use apparmor::{ApparmorConfig, LsmUsage, apparmor_of_host};
pub use config::{CgroupDriver, Config, Deadlines, Features, Settings};
pub use container::config::{
    ContainerConfig, ContainerMetadata, ContainerNamespaces, ContainerSecurity, Device, ImageReference,
    Mount, MountAccess, MountSource, Profile, Propagation, RunAs, SelinuxOptions, Stdin,
    SupplementalGroupsPolicy, user_id,
};
pub use container::status::{
    ContainerFilter, ContainerPhase, ContainerStatus, Exited, PhaseName, ProcessUser, Reason,
};
pub use error::{Error, Kind};
pub use events::{Event, EventKind, Listener};
pub use exec::{ExecOutput, ExecRequest};
pub use figures::{Contacts, Figures};
pub use handler::{Handler, HandlerStatus, Handlers, Ulimit, Unprivileged, UnsetSeccomp};
pub use id::{ContainerId, PodId};
pub use logs::LogConfig;
pub use network::{Attached, Attachment, Census, Network, NetworkError};
pub use plugins::{About, Adjusted, Change, ContainerView, Happened, News, Plugins, Window};
pub use pod::config::{
    DnsConfig, NamespaceMode, PodConfig, PodMetadata, PodNamespaces, PodSecurity, PortMapping, Protocol,
    UserNamespace,
};
pub use pod::limits::PodResources;
pub use pod::status::{PodFilter, PodPhase, PodStatus};
pub use pods::{Pods, PreparedSettings};
pub use registry::Queue;
pub use resources::{Further, Resources, try_device_rules};
pub use rootfs::{ImageConfig, LayerUsage, MountFor, Prepared, RootFilesystems, RootfsError};
pub use runtime::confinement::{Confinement, Rights};
pub use runtime::external::ExternalRuntime;
pub use runtime::loop_device::attach as attach_loop_device;
pub use runtime::project_quota;
pub use runtime::spec::oci;
pub use runtime::verity::enable as enable_verity;
pub use runtime::{allocate_frugally, close_on_exec_above_stdio, give_back_memory, give_back_program};
pub use scopes::{Scope, ScopeError, Scopes};
pub use selinux::selinux_of_host;
pub use signal::Signal;
pub use stats::{ContainerUsage, PodUsage, ProcessUsage, Usage, Wanted};
#[cfg(feature = "faults")]
pub use step::plug_faults;
pub use streams::{End, Ending, Input, Output, StreamChoice, StreamSession, Terminal};
pub use supervisor::trial::try_user_namespaces;
pub use users::UserMap;
