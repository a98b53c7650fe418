//! What kubelet has with containerd and not with knarr, each with its reason. docs/stats.md tells users the same.

use e2e::kube::figures::Page::{self, *};
use e2e::kube::figures::{Difference, Row, What};

use Whose::*;

/// Differences that are as they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Excuse {
    page: Page,
    /// The series or field; a `*` at its end stands for anything.
    name: &'static str,
    whose: Whose,
    why: &'static str,
}

/// Of whom something lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Containers,
    Sandboxes,
    Pods,
    /// That pod, on the network of the node.
    OnHost,
    Node,
    Cgroups,
    /// Everybody's threads that wait for a disk.
    WaitingForDisks,
    All,
}

impl Excuse {
    /// Whether this explains a difference.
    pub(super) fn is_for(&self, difference: &Difference) -> bool {
        match &difference.what {
            What::Form(_) => false,
            What::Row(row) => self.covers((difference.page, &difference.name), row),
        }
    }

    /// Whether a row may lack.
    pub(super) fn covers(&self, (page, name): (Page, &str), row: &Row) -> bool {
        let named = self.name.strip_suffix('*').map_or(self.name == name, |start| name.starts_with(start));
        self.page == page && named && self.whose.is(row)
    }
}

impl Whose {
    fn is(self, Row { own, subject }: &Row) -> bool {
        match self {
            Self::All => true,
            Self::WaitingForDisks => own == "state=iowaiting",
            Self::Containers => subject.contains('/') && !subject.ends_with(')'),
            Self::Sandboxes => subject.ends_with("/(sandbox)"),
            Self::Pods => subject.ends_with("/(pod)"),
            Self::OnHost => subject.starts_with("on-host/("),
            Self::Node => subject == "(node)",
            Self::Cgroups => subject == "(cgroup)",
        }
    }
}

/// Whether one of them explains it.
pub(super) fn any(excuses: &[Excuse], difference: &Difference) -> bool {
    excuses.iter().any(|excuse| excuse.is_for(difference))
}

/// With kubelet's gate PodAndContainerStatsFromCRI.
#[rustfmt::skip]
pub(super) static WITH_GATE: &[Excuse] = &[
    Excuse { page: Cadvisor, name: "container_*", whose: Node, why: "kubelet gives nothing but pods with this gate, and does not ask the runtime" },
    Excuse { page: Cadvisor, name: "container_*", whose: Cgroups, why: "the same" },
    Excuse { page: Cadvisor, name: "cadvisor_version_info", whose: Node, why: "about the cAdvisor that isn't asked" },
    // Their networks are there.
    Excuse { page: Cadvisor, name: "container_cpu_*", whose: Sandboxes, why: NO_PAUSE },
    Excuse { page: Cadvisor, name: "container_memory_*", whose: Sandboxes, why: NO_PAUSE },
    Excuse { page: Cadvisor, name: "container_spec_*", whose: Sandboxes, why: NO_PAUSE },
    Excuse { page: Cadvisor, name: "container_threads*", whose: Sandboxes, why: NO_PAUSE },
    Excuse { page: Cadvisor, name: "container_tasks_state", whose: Sandboxes, why: NO_PAUSE },
    Excuse { page: Cadvisor, name: "container_last_seen", whose: Sandboxes, why: NO_PAUSE },
    Excuse { page: Cadvisor, name: "container_start_time_seconds", whose: Sandboxes, why: NO_PAUSE },
    Excuse { page: Cadvisor, name: "container_processes", whose: Sandboxes, why: NO_PAUSE },
    Excuse { page: Cadvisor, name: "container_file_descriptors", whose: Sandboxes, why: NO_PAUSE },
    Excuse { page: Cadvisor, name: "container_sockets", whose: Sandboxes, why: NO_PAUSE },
    Excuse { page: Cadvisor, name: "container_ulimits_soft", whose: Sandboxes, why: NO_PAUSE },
    Excuse { page: Cadvisor, name: "container_oom_events_total", whose: Sandboxes, why: NO_PAUSE },
    Excuse { page: Cadvisor, name: "container_network_*", whose: OnHost, why: "all of the node's traffic, once for each such pod" },
    Excuse { page: Summary, name: "network.*", whose: OnHost, why: "the same" },
    Excuse { page: Cadvisor, name: "container_processes", whose: Pods, why: OF_NOBODY },
    Excuse { page: Cadvisor, name: "container_file_descriptors", whose: Pods, why: OF_NOBODY },
    Excuse { page: Cadvisor, name: "container_sockets", whose: Pods, why: OF_NOBODY },
    Excuse { page: Cadvisor, name: "container_tasks_state", whose: Pods, why: OF_NOBODY },
    Excuse { page: Cadvisor, name: "container_cpu_load_*", whose: Pods, why: OF_NOBODY },
    Excuse { page: Cadvisor, name: "container_tasks_state", whose: WaitingForDisks, why: "always 0: kubelet never turned its cAdvisor's reader of states on, and the kernel tells this one by taskstats alone" },
    Excuse { page: Cadvisor, name: "container_health_state", whose: All, why: "always -1 in Kubernetes, and values of CRI can't be negative" },
    Excuse { page: Summary, name: "swap.*", whose: Pods, why: "CRI has no swap of pods, and kubelet adds the containers' up for /metrics/resource alone" },
];

/// Why there is no row of a sandbox.
const NO_PAUSE: &str = "there is no such container";

/// Why a pod has none of them.
const OF_NOBODY: &str = "always 0: in the pod's own cgroup are no processes, and cAdvisor doesn't look below";

/// Without it.
#[rustfmt::skip]
pub(super) static WITHOUT_GATE: &[Excuse] = &[
    Excuse { page: Cadvisor, name: "container_*", whose: Containers, why: NAMES },
    Excuse { page: Cadvisor, name: "container_*", whose: Sandboxes, why: NAMES },
    Excuse { page: Summary, name: "network.*", whose: Pods, why: NAMES },
    Excuse { page: Summary, name: "process_stats.*", whose: Pods, why: NAMES },
];

/// Why cAdvisor has no containers.
const NAMES: &str = "the cAdvisor in kubelet asks containerd or CRI-O whose a cgroup is, by calls of theirs: of others it has paths alone";
