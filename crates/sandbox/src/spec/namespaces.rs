//! Which namespaces a pod makes, and which of them a container joins.

use runtime::plan::{NamespacePlan, NamespaceSource, PodNamespace, PodPlan, SHARED_MEMORY_BYTES};
use runtime::spec::oci;

use crate::container::config::ContainerConfig;
use crate::handler::Handler;
use crate::pod::config::{NamespaceMode, PodConfig};
use crate::users;

/// What the pod's supervisor makes.
pub(crate) fn pod_plan(pod: &PodConfig, handler: &Handler) -> PodPlan {
    let own = |mode: &NamespaceMode| match mode {
        NamespaceMode::Pod => PodNamespace::Own,
        NamespaceMode::Node | NamespaceMode::Container | NamespaceMode::Target(_) => PodNamespace::Host,
    };
    let (network, ipc) = (own(&pod.namespaces.network), own(&pod.namespaces.ipc));
    // A pod on the host's network has the host's name, too.
    let uts = network;
    handler.sysctls(PodPlan {
        network,
        ipc,
        uts,
        pid: own(&pod.namespaces.pid),
        hostname: (uts == PodNamespace::Own && !pod.hostname.is_empty()).then(|| pod.hostname.clone()),
        sysctls: pod.sysctls.clone(),
        shared_memory: (ipc == PodNamespace::Own).then_some(SHARED_MEMORY_BYTES),
        user: pod.namespaces.user.as_ref().map(users::ids),
        joined: None,
    })
}

/// Where a container's namespaces come from.
pub(crate) fn plan(pod: &PodConfig, container: &ContainerConfig) -> NamespacePlan {
    let shared = |mode: &NamespaceMode| match mode {
        NamespaceMode::Pod | NamespaceMode::Container | NamespaceMode::Target(_) => NamespaceSource::Pod,
        NamespaceMode::Node => NamespaceSource::Host,
    };
    let network = shared(&pod.namespaces.network);
    NamespacePlan {
        ipc: shared(&pod.namespaces.ipc),
        uts: network.clone(),
        network,
        pid: match (&container.security.namespaces.pid, &pod.namespaces.pid) {
            (NamespaceMode::Target(id), _) => NamespaceSource::Container(id.clone()),
            (NamespaceMode::Pod, NamespaceMode::Pod) => NamespaceSource::Pod,
            (NamespaceMode::Pod | NamespaceMode::Node, NamespaceMode::Node) => NamespaceSource::Host,
            // A sandbox without a process has none to share: each of its containers is alone.
            (NamespaceMode::Pod | NamespaceMode::Container | NamespaceMode::Node, _) => NamespaceSource::Own,
        },
        user: match pod.namespaces.user {
            Some(_) => NamespaceSource::Pod,
            None => NamespaceSource::Host,
        },
        cgroup: if container.security.privileged { NamespaceSource::Host } else { NamespaceSource::Own },
    }
}

/// The same for those who read the specification: what is the host's is left out, as the specification says it.
pub(crate) fn described(plan: &NamespacePlan) -> Vec<oci::LinuxNamespace> {
    use oci::LinuxNamespaceType as Kind;
    let kinds = [
        (Kind::Network, &plan.network),
        (Kind::Ipc, &plan.ipc),
        (Kind::Uts, &plan.uts),
        (Kind::Pid, &plan.pid),
        (Kind::Cgroup, &plan.cgroup),
        (Kind::User, &plan.user),
        (Kind::Mount, &NamespaceSource::Own),
    ];
    let ours = kinds.into_iter().filter(|(_, source)| **source != NamespaceSource::Host);
    ours.map(|(kind, _)| {
        let mut namespace = oci::LinuxNamespace::default();
        namespace.set_typ(kind);
        namespace
    })
    .collect()
}
