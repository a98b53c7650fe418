//! How this crate is set up: directories, the supervisor binary, cgroups, handlers and deadlines.
//!
//! Not here: what a request says about one pod or container (see `pod::config`, `container::config`).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::apparmor::{ApparmorConfig, LsmUsage};
use crate::handler::Handlers;
use crate::logs::LogConfig;
use crate::plugins::Plugins;
use crate::scopes::Scopes;

/// Settings of the daemon's pods.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where sockets and records live; on a tmpfs, for they describe processes and die with the boot. Made 0700.
    pub state_dir: PathBuf,
    /// The supervisor binary.
    pub supervisor: PathBuf,
    /// How many files containers may have open before they ask for more (soft RLIMIT_NOFILE). `None`
    /// for as many as this process may, which is wrong for one that has raised its own limit: programs that use select(2)
    /// or close every descriptor that could be open rely on a small one.
    pub open_files: Option<u64>,
    /// Who makes cgroups.
    pub cgroup_driver: CgroupDriver,
    /// The cgroup below which pods go whose request names none, in the form of the driver.
    pub default_cgroup_parent: String,
    /// What can be changed later.
    pub settings: Settings,
    /// What is done with AppArmor.
    pub apparmor: ApparmorConfig,
    /// Whether SELinux is used.
    pub selinux: LsmUsage,
    /// Who is asked about pods and containers, and told of them.
    pub plugins: Option<Arc<dyn Plugins>>,
    /// How many network namespaces are made before a pod asks for one, once a first one has; some 100 KiB of the kernel's memory each.
    pub prepared_networks: usize,
    /// Bytes that are kept of what all commands print whose output is collected, while they run.
    pub exec_output: usize,
    /// How long each kind of step may take.
    pub deadlines: Deadlines,
}

/// What can be changed while pods are there ([`Pods::change_over`](crate::Pods::change_over)). A pod keeps the handler that it was
/// made with, a container that runs what was wanted of its log.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Runtime handlers by name.
    pub handlers: Handlers,
    /// Where files of the Container Device Interface are looked for; later ones go before earlier ones.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// What is wanted of containers' logs.
    pub logs: LogConfig,
}

/// What a runtime handler can do on this host (CRI RuntimeHandlerFeatures).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// Pods can have user namespaces.
    pub user_namespaces: bool,
    /// A mount can be made read-only with all below it: mount_setattr(2), since Linux 5.12.
    pub recursive_read_only_mounts: bool,
}

impl Features {
    /// Nothing that can be asked for.
    pub(crate) const NONE: Self = Self { user_namespaces: false, recursive_read_only_mounts: false };
}

/// Who makes the cgroups of pods.
#[derive(Debug, Clone, Default)]
pub enum CgroupDriver {
    /// This daemon, by directories.
    #[default]
    Cgroupfs,
    /// systemd, by a transient scope for each pod.
    Systemd(Arc<dyn Scopes>),
}

/// How long each kind of step may take before it counts as failed.
#[derive(Debug, Clone)]
pub struct Deadlines {
    /// Starting a supervisor and its first answer.
    pub supervisor: Duration,
    /// Making a pod's namespaces.
    pub namespaces: Duration,
    /// Attaching a pod to its network; plugins may have to wait for addresses.
    pub attach: Duration,
    /// Detaching a pod from its network.
    pub detach: Duration,
    /// Preparing and mounting a root filesystem.
    pub rootfs: Duration,
    /// Opening mount sources, some of which may be on a dead network filesystem.
    pub sources: Duration,
    /// Giving the files of a container's volumes their SELinux context; kubelet gives CreateContainer two minutes.
    pub relabel: Duration,
    /// Starting a process, up to its execve.
    pub start: Duration,
    /// How long after SIGKILL a container may take to be gone.
    pub kill: Duration,
    /// Making, limiting and removing cgroups.
    pub cgroup: Duration,
    /// Connecting to a port of a pod: somebody there accepts at once or never.
    pub connect: Duration,
    /// How long output may still flow after an exec's process has ended.
    pub exec_drain: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            supervisor: seconds(10),
            namespaces: seconds(10),
            // kubelet gives RunPodSandbox four minutes; a plugin that needs longer than half of that is stuck.
            attach: seconds(120),
            detach: seconds(60),
            rootfs: seconds(60),
            sources: seconds(20),
            relabel: seconds(100),
            start: seconds(60),
            kill: seconds(10),
            cgroup: seconds(20),
            connect: seconds(10),
            exec_drain: Duration::from_millis(500),
        }
    }
}
