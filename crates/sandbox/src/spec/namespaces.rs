//! Which namespaces a pod makes, and which of them a container joins.

use runtime::plan::{NamespacePlan, NamespaceSource, PodNamespace, PodPlan, SHARED_MEMORY_BYTES};
use runtime::spec::oci;

use crate::container::config::ContainerConfig;
use crate::error::Error;
use crate::handler::Handler;
use crate::pod::config::{NamespaceMode, PodConfig};
use crate::users;

/// What the pod's supervisor makes.
pub(crate) fn pod_plan(pod: &PodConfig, handler: &Handler, mount_label: Option<String>) -> PodPlan {
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
        mount_label,
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

/// A plan after the namespaces of its specification were changed: one without a path is the container's own, one that is gone the host's.
///
/// # Errors
/// [`Error::Refused`] for one by path, and for kinds that every container has of its own, or of its pod's.
pub(crate) fn changed(
    plan: NamespacePlan,
    (before, after): (&oci::Spec, &oci::Spec),
) -> Result<NamespacePlan, Error> {
    use oci::LinuxNamespaceType as Kind;
    let of = |spec: &oci::Spec| {
        spec.linux().as_ref().and_then(|linux| linux.namespaces().clone()).unwrap_or_default()
    };
    let (before, after) = (of(before), of(after));
    let find = |all: &[oci::LinuxNamespace], kind: Kind| all.iter().find(|it| it.typ() == kind).cloned();
    let mut plan = plan;
    let kinds =
        [Kind::Network, Kind::Ipc, Kind::Uts, Kind::Pid, Kind::Cgroup, Kind::User, Kind::Mount, Kind::Time];
    for kind in kinds {
        let (known, wanted) = (find(&before, kind), find(&after, kind));
        if known == wanted {
            continue;
        }
        let refuse = |why: &str| Err(Error::refused(format!("linux.namespaces[{kind:?}]"), why));
        let place = match kind {
            Kind::Network => &mut plan.network,
            Kind::Ipc => &mut plan.ipc,
            Kind::Uts => &mut plan.uts,
            Kind::Pid => &mut plan.pid,
            Kind::Cgroup => &mut plan.cgroup,
            Kind::User | Kind::Mount | Kind::Time => return refuse("can't be changed"),
        };
        *place = match wanted {
            Some(namespace) if namespace.path().is_some() => return refuse("can't be one by its path"),
            Some(_) => NamespaceSource::Own,
            None => NamespaceSource::Host,
        };
    }
    Ok(plan)
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
