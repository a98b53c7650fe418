//! From an OCI specification to an ordered plan: pure data, made in the daemon when a container is created,
//! sent to the supervisor when it is started.
//!
//! Everything that can be refused is refused by [`plan`], with the path of the field; what is left in a
//! [`Plan`] is carried out in order by `init`. No system call happens here.

mod build;
mod hooks;
mod ids;
pub(crate) mod mounts;
mod pod;
mod process;
mod scheduling;
pub mod seccomp;
pub(crate) mod sysctl;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub(crate) use build::{MOST_MAJOR, MOST_MINOR, device_number};
pub use build::{PlanInput, plan, plan_in_bundle, process};
pub use hooks::{About, Bundle, Hook, Hooks};
pub(crate) use ids::lines as id_lines;
pub use ids::{IdMapping, IdMappings};
pub(crate) use mounts::OPTIONS as MOUNT_OPTIONS;
pub use pod::{Joined, PodNamespace, PodPlan, SHARED_MEMORY_BYTES};
pub(crate) use process::CAPABILITIES;
pub use process::capability_number;
pub use scheduling::{Policy, Scheduling};
pub use seccomp::SeccompFilter;
pub use sysctl::{check_pod, link_of};

/// A field of a specification that this runtime does not do, or that contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct Refusal {
    /// The path of the field in the OCI specification, as in `mounts[3].destination`.
    pub field: String,
    /// Why it is refused.
    pub why: String,
}

/// All that has to be done to make one container's first process, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Where each namespace comes from.
    pub namespaces: NamespacePlan,
    /// What becomes of the root filesystem once all is in place.
    pub root: RootPlan,
    /// The volumes. Descriptor n + 1 of the start message belongs to entry n; descriptor 0 is the root
    /// filesystem.
    pub sources: Vec<Source>,
    /// What is done inside the new root, in order.
    pub steps: Vec<Step>,
    /// The process itself.
    pub process: ProcessPlan,
    /// Programs that run around it; none when there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Box<Hooks>>,
    /// The SELinux context of what is mounted for the container and has no labels of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_label: Option<String>,
}

/// Where each of a container's namespaces comes from. The mount namespace is always its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "one field for each kind of namespace")]
pub struct NamespacePlan {
    pub network: NamespaceSource,
    pub ipc: NamespaceSource,
    pub uts: NamespaceSource,
    pub pid: NamespaceSource,
    pub cgroup: NamespaceSource,
    #[serde(default, skip_serializing_if = "NamespaceSource::is_host")]
    pub user: NamespaceSource,
}

/// Where one namespace comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamespaceSource {
    /// The host's.
    #[default]
    Host,
    /// The pod's.
    Pod,
    /// A new one for this container.
    Own,
    /// That of another container of the pod, by id (only for pid).
    Container(String),
}

impl NamespaceSource {
    fn is_host(&self) -> bool {
        *self == Self::Host
    }
}

/// What becomes of the root filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootPlan {
    /// Whether the process may write to it.
    pub access: Access,
    /// What happens to mounts made below it later. `Shared` is among those who see this root, and not the host.
    #[serde(default, skip_serializing_if = "Propagation::is_private")]
    pub propagation: Propagation,
}

/// Whether something may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// It may.
    #[default]
    ReadWrite,
    /// It may not.
    ReadOnly,
    /// It may not, and nothing that is mounted below it may.
    RecursiveReadOnly,
}

/// A volume: what is cloned from the host's mounts and handed over detached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The path on the host.
    pub path: PathBuf,
    /// Whether mounts below it come along.
    pub depth: Depth,
    /// Flags of the mount.
    pub attributes: MountAttributes,
    /// What happens to mounts made below it later, on either side.
    pub propagation: Propagation,
    /// To whom its files belong for those who see it through this mount; none as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<IdMappings>,
}

/// How much of a source is cloned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Depth {
    /// The one mount.
    Single,
    /// The mount and all below it.
    Recursive,
}

/// Mount propagation, as in mount_namespaces(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    /// None.
    #[default]
    Private,
    /// From the host into the container.
    Slave,
    /// Both ways.
    Shared,
    /// None, and it can't be bound elsewhere.
    Unbindable,
}

impl Propagation {
    fn is_private(&self) -> bool {
        *self == Self::Private
    }
}

/// Flags of one mount (not of its filesystem).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountAttributes {
    /// Whether it may be written.
    #[serde(default)]
    pub access: Access,
    /// Set-user-id bits do nothing.
    #[serde(default)]
    pub nosuid: bool,
    /// Device nodes cannot be opened.
    #[serde(default)]
    pub nodev: bool,
    /// Files cannot be executed.
    #[serde(default)]
    pub noexec: bool,
    /// Symbolic links are not followed.
    #[serde(default)]
    pub nosymfollow: bool,
    /// How access times are kept.
    #[serde(default)]
    pub atime: AccessTime,
    /// Access times of directories are not kept.
    #[serde(default)]
    pub nodiratime: bool,
}

/// How access times are kept on a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessTime {
    /// A new mount: relative. A bind mount: as its source has it.
    #[default]
    Inherit,
    /// Updated when older than the modification.
    Relative,
    /// Never updated.
    Never,
    /// Always updated.
    Strict,
}

/// One thing to do inside the new root. All paths are absolute, clean, and resolved inside the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Attach the volume of this slot (index into [`Plan::sources`]).
    AttachSource {
        /// Index into the sources.
        slot: usize,
        /// Where it goes.
        target: PathBuf,
    },
    /// Attach the pod's shared memory.
    AttachSharedMemory {
        /// Where it goes.
        target: PathBuf,
        /// Flags of the mount.
        attributes: MountAttributes,
    },
    /// Mount a new filesystem.
    Mount(FilesystemMount),
    /// Show the container its cgroups in the layout that the host has.
    Cgroups {
        /// Where they go.
        target: PathBuf,
        /// Flags of the mounts.
        attributes: MountAttributes,
    },
    /// Make a device node.
    Device(DeviceNode),
    /// Make a symbolic link.
    Symlink {
        /// Where the link is.
        path: PathBuf,
        /// What it says.
        target: PathBuf,
    },
    /// Open the process's terminal in the container's devpts.
    Terminal,
    /// Show that terminal as /dev/console.
    Console,
    /// Set a kernel parameter, as in `net.ipv4.ip_forward`.
    Sysctl {
        /// Its dotted name.
        name: String,
        /// Its value, written verbatim.
        value: String,
    },
    /// Set the host name of the container's own UTS namespace.
    Hostname(String),
    /// Set the NIS domain name of the container's own UTS namespace.
    Domainname(String),
    /// Create the working directory where it is missing.
    CreateDirectory(PathBuf),
    /// Hide a file or directory, if it is there.
    MaskPath(PathBuf),
    /// Make a file or directory read-only, if it is there.
    ReadonlyPath(PathBuf),
}

/// A new filesystem and where it goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilesystemMount {
    /// The kernel's name of the filesystem.
    pub fstype: String,
    /// Where it goes.
    pub target: PathBuf,
    /// Flags of the mount.
    pub attributes: MountAttributes,
    /// Options of the filesystem; without a value it is a flag.
    pub options: Vec<(String, Option<String>)>,
    /// What happens to mounts made below it later.
    #[serde(default, skip_serializing_if = "Propagation::is_private")]
    pub propagation: Propagation,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields of mknod(2)")]
pub struct DeviceNode {
    pub path: PathBuf,
    pub kind: DeviceKind,
    pub major: u32,
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// The sorts of device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the kinds of mknod(2)")]
pub enum DeviceKind {
    Character,
    Block,
    Fifo,
}

/// A process to execute: a container's first one, or one that joins it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessPlan {
    /// The command and its arguments; never empty.
    pub args: Vec<String>,
    /// The environment, `NAME=value` each.
    pub env: Vec<String>,
    /// The working directory, inside the container.
    pub cwd: PathBuf,
    /// User number.
    pub uid: u32,
    /// Primary group number.
    pub gid: u32,
    /// Supplementary group numbers.
    pub additional_gids: Vec<u32>,
    /// File mode creation mask.
    pub umask: u32,
    /// Capability sets.
    pub capabilities: Capabilities,
    /// Whether executing a set-user-id file gives nothing.
    pub no_new_privileges: bool,
    /// Resource limits, by their number in getrlimit(2).
    pub rlimits: Vec<ResourceLimit>,
    /// Adjustment of the OOM score; clamped to what the supervisor may give.
    pub oom_score_adj: Option<i32>,
    /// A terminal of this size, instead of three streams.
    pub terminal: Option<TerminalSize>,
    /// The compiled filter.
    pub seccomp: Option<SeccompFilter>,
    /// AppArmor profile to change to on exec.
    pub apparmor: Option<String>,
    /// SELinux label to change to on exec.
    pub selinux: Option<String>,
    /// How it is scheduled.
    #[serde(default, skip_serializing_if = "Scheduling::is_inherited")]
    pub scheduling: Scheduling,
}

/// Capability sets as bit masks: bit n is capability n of capabilities(7). The inheritable set is always
/// empty (CVE-2022-24769).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the sets of capabilities(7)")]
pub struct Capabilities {
    pub bounding: u64,
    pub effective: u64,
    pub permitted: u64,
    pub ambient: u64,
}

/// A resource limit; `u64::MAX` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResourceLimit {
    /// The kernel's number of the resource (asm-generic/resource.h).
    pub resource: u32,
    /// What is enforced.
    pub soft: u64,
    /// What the soft limit can be raised to.
    pub hard: u64,
}

impl ResourceLimit {
    /// The limit's name in getrlimit(2).
    pub fn name(&self) -> &'static str {
        const NAMES: [&str; 16] = [
            "RLIMIT_CPU",
            "RLIMIT_FSIZE",
            "RLIMIT_DATA",
            "RLIMIT_STACK",
            "RLIMIT_CORE",
            "RLIMIT_RSS",
            "RLIMIT_NPROC",
            "RLIMIT_NOFILE",
            "RLIMIT_MEMLOCK",
            "RLIMIT_AS",
            "RLIMIT_LOCKS",
            "RLIMIT_SIGPENDING",
            "RLIMIT_MSGQUEUE",
            "RLIMIT_NICE",
            "RLIMIT_RTPRIO",
            "RLIMIT_RTTIME",
        ];
        usize::try_from(self.resource).ok().and_then(|number| NAMES.get(number)).copied().unwrap_or("unknown")
    }
}

/// The size of a terminal, in characters; 0 by 0 leaves it as the kernel made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields of struct winsize")]
pub struct TerminalSize {
    pub rows: u16,
    pub columns: u16,
}
