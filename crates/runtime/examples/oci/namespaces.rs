//! From `linux.namespaces` to what the crate knows: a pod of one with the namespaces that exist already, and what the
//! container makes for itself.

use runtime::plan::{IdMapping, IdMappings, Joined, NamespacePlan, NamespaceSource, PodNamespace, PodPlan};
use runtime::spec::oci::{self, LinuxNamespaceType as Kind};

use crate::Outcome;

/// The pod's namespaces and the container's. Those that are joined are told as the container's own: what a configuration
/// asks for in them (a host name, kernel parameters) is its right. [`join`] says how it is.
pub fn read(spec: &oci::Spec) -> Outcome<(PodPlan, NamespacePlan)> {
    let linux = spec.linux().as_ref().ok_or("linux: is missing")?;
    let mut pod = PodPlan {
        network: PodNamespace::Host,
        ipc: PodNamespace::Host,
        uts: PodNamespace::Host,
        pid: PodNamespace::Host,
        hostname: None,
        sysctls: std::collections::BTreeMap::new(),
        shared_memory: None,
        user: None,
        joined: None,
    };
    let mut joined = Joined::default();
    let mut container = NamespacePlan {
        network: NamespaceSource::Host,
        ipc: NamespaceSource::Host,
        uts: NamespaceSource::Host,
        pid: NamespaceSource::Host,
        cgroup: NamespaceSource::Host,
        user: NamespaceSource::Host,
    };
    let mut seen = Vec::new();
    for (at, namespace) in linux.namespaces().iter().flatten().enumerate() {
        let kind = namespace.typ();
        if seen.contains(&kind) {
            return Err(format!("linux.namespaces[{at}]: {kind} is there twice").into());
        }
        seen.push(kind);
        let path = namespace.path().clone();
        if path.as_ref().is_some_and(|path| !path.is_absolute()) {
            return Err(format!("linux.namespaces[{at}].path: is not an absolute path").into());
        }
        let refused = |why: &str| format!("linux.namespaces[{at}].path: {kind}: {why}");
        let (place, source) = match kind {
            Kind::Network if path.is_none() => {
                // As the pod's, which has its loopback device brought up.
                pod.network = PodNamespace::Own;
                container.network = NamespaceSource::Pod;
                continue;
            }
            Kind::Network => (&mut joined.network, &mut container.network),
            Kind::Ipc => (&mut joined.ipc, &mut container.ipc),
            Kind::Uts => (&mut joined.uts, &mut container.uts),
            Kind::Pid => (&mut joined.pid, &mut container.pid),
            Kind::Cgroup => (&mut joined.cgroup, &mut container.cgroup),
            Kind::Mount if path.is_none() => continue,
            Kind::Mount => return Err(refused("only a new one is supported").into()),
            Kind::User if path.is_none() => {
                pod.user = Some(ids(linux));
                container.user = NamespaceSource::Pod;
                continue;
            }
            Kind::User => return Err(refused("only a new one is supported").into()),
            Kind::Time => return Err(refused("is not supported").into()),
        };
        *source = NamespaceSource::Own;
        *place = path;
    }
    if !seen.contains(&Kind::Mount) {
        return Err("linux.namespaces: a container on the runtime's mount namespace is not supported".into());
    }
    pod.joined = Some(Box::new(joined));
    Ok((pod, container))
}

/// Namespaces that are there already become the pod's.
pub fn join(container: &mut NamespacePlan, pod: &PodPlan) {
    let Some(joined) = pod.joined.as_deref() else { return };
    for (source, path) in [
        (&mut container.network, &joined.network),
        (&mut container.ipc, &joined.ipc),
        (&mut container.uts, &joined.uts),
        (&mut container.pid, &joined.pid),
        (&mut container.cgroup, &joined.cgroup),
    ] {
        if path.is_some() {
            *source = NamespaceSource::Pod;
        }
    }
}

fn ids(linux: &oci::Linux) -> IdMappings {
    let read = |mappings: &Option<Vec<oci::LinuxIdMapping>>| {
        let one = |mapping: &oci::LinuxIdMapping| IdMapping {
            inside: mapping.container_id(),
            outside: mapping.host_id(),
            length: mapping.size(),
        };
        mappings.iter().flatten().map(one).collect()
    };
    IdMappings { uids: read(linux.uid_mappings()), gids: read(linux.gid_mappings()) }
}
