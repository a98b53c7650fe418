//! What this runtime refuses about a container, before anything is done for it.
//!
//! What the specification can't express is found by `spec`, what the plan can't do by the runtime; here is the rest.

use runtime::plan::Plan;
use runtime::wire::MAX_DESCRIPTORS;

use crate::config::Features;
use crate::container::config::{ContainerConfig, Mount, MountAccess, MountSource, Profile, Propagation};
use crate::container::lengths;
use crate::error::{Error, chain};
use crate::handler::Handler;
use crate::pod::config::{NamespaceMode, PodConfig};
use crate::sources::Looker;
use crate::spec::seccomp;
use crate::users;

/// Checks all that can be checked from the request alone.
///
/// # Errors
/// [`Error::Refused`] with the first field that is wrong or not supported.
pub(crate) fn check(pod: &PodConfig, container: &ContainerConfig) -> Result<(), Error> {
    if container.metadata.name.is_empty() {
        return Err(Error::refused("metadata.name", "is empty"));
    }
    if container.image.reference.is_empty() {
        return Err(Error::refused("image.image", "is empty"));
    }
    if container.security.privileged && !pod.security.privileged {
        let why = "a privileged container needs a sandbox that allows it";
        return Err(Error::refused("linux.security_context.privileged", why));
    }
    namespaces(pod, container)?;
    users::check_container(pod, container)?;
    profiles(container)?;
    lengths::check(container)?;
    mounts(pod, container)
}

fn namespaces(pod: &PodConfig, container: &ContainerConfig) -> Result<(), Error> {
    let refuse = |field: &str, why: &str| {
        Err(Error::refused(format!("linux.security_context.namespace_options.{field}"), why))
    };
    let wanted = &container.security.namespaces;
    // Network and IPC follow the sandbox, as CRI has it; what would be something else is said to be refused.
    for (field, wanted) in [("network", &wanted.network), ("ipc", &wanted.ipc)] {
        match wanted {
            NamespaceMode::Pod | NamespaceMode::Node => {}
            NamespaceMode::Container | NamespaceMode::Target(_) => {
                return refuse(field, "can only be POD, or NODE where the sandbox has that");
            }
        }
    }
    let modes = [
        ("network", &wanted.network, &pod.namespaces.network),
        ("ipc", &wanted.ipc, &pod.namespaces.ipc),
        ("pid", &wanted.pid, &pod.namespaces.pid),
    ];
    for (field, wanted, given) in modes {
        if *wanted == NamespaceMode::Node && *given != NamespaceMode::Node {
            return refuse(field, "is NODE, and that of the sandbox is not");
        }
    }
    match &wanted.pid {
        NamespaceMode::Target(target) if target.is_empty() => refuse("target_id", "is empty"),
        NamespaceMode::Pod | NamespaceMode::Container | NamespaceMode::Node | NamespaceMode::Target(_) => {
            Ok(())
        }
    }
}

fn profiles(container: &ContainerConfig) -> Result<(), Error> {
    let security = &container.security;
    if let (Some(Profile::Localhost(path)), false) = (&security.seccomp, security.privileged) {
        seccomp::check(path)?;
    }
    Ok(())
}

fn mounts(pod: &PodConfig, container: &ContainerConfig) -> Result<(), Error> {
    for (at, mount) in container.mounts.iter().enumerate() {
        let refuse = |field: &str, why: &str| Err(Error::refused(format!("mounts[{at}].{field}"), why));
        if let MountSource::Image { .. } = &mount.source {
            // Mapped by the user namespace of the pod, as kubelet has it.
            if mount.id_mapping.is_some() && mount.id_mapping != pod.namespaces.user {
                return refuse(
                    "uidMappings",
                    "an image volume can only be mapped as the users of its pod are",
                );
            }
            if mount.access == MountAccess::ReadWrite {
                return refuse("readonly", "an image volume is always read-only");
            }
            if mount.propagation == Propagation::Bidirectional {
                return refuse("propagation", "nothing of the host's is below an image volume");
            }
        }
    }
    Ok(())
}

/// Checks that an external runtime can make it, when the handler has one: that none of it takes what only the internal one does.
///
/// # Errors
/// [`Error::Refused`] naming the mount.
pub(crate) fn external(handler: &Handler, container: &ContainerConfig) -> Result<(), Error> {
    match container.mounts.iter().position(|mount| mount.id_mapping.is_some()) {
        Some(at) if handler.external.is_some() => {
            let why = "mapped ids are not supported with the external runtime of its handler";
            Err(Error::refused(format!("mounts[{at}].uidMappings"), why))
        }
        _ => Ok(()),
    }
}

/// Checks that this host can do what is asked for.
///
/// # Errors
/// [`Error::RecursiveReadOnly`].
pub(crate) fn features(features: Features, container: &ContainerConfig) -> Result<(), Error> {
    let is_recursive = |mount: &Mount| mount.access == MountAccess::RecursiveReadOnly;
    match container.mounts.iter().position(is_recursive) {
        Some(at) if !features.recursive_read_only_mounts => {
            Err(Error::RecursiveReadOnly { field: format!("mounts[{at}].recursive_read_only") })
        }
        _ => Ok(()),
    }
}

/// Checks that the sources of all mounts are there and can be mounted as asked. Touches the host's filesystems, some of which may hang:
/// for a blocking thread.
///
/// # Errors
/// [`Error::Refused`] naming the source, [`Error::Deadline`] for one that hangs.
pub(crate) fn sources_exist(container: &ContainerConfig, looker: &Looker) -> Result<(), Error> {
    for (at, mount) in container.mounts.iter().enumerate() {
        let MountSource::Host(path) = &mount.source else { continue };
        let _look = looker.at(path)?;
        if let Err(error) = std::fs::metadata(path) {
            let why = format!("\"{}\": {error}", path.display());
            return Err(Error::refused(format!("mounts[{at}].host_path"), why));
        }
        let propagation = match mount.propagation {
            Propagation::Private => continue,
            Propagation::HostToContainer => runtime::plan::Propagation::Slave,
            Propagation::Bidirectional => runtime::plan::Propagation::Shared,
        };
        if let Err(cause) = runtime::mount::check_propagation(path, propagation) {
            return Err(Error::refused(format!("mounts[{at}].propagation"), chain(&cause)));
        }
    }
    Ok(())
}

/// Checks that a start can carry the descriptors of all that is mounted.
///
/// # Errors
/// [`Error::Refused`].
pub(crate) fn mounts_fit(container: &ContainerConfig, plan: &Plan) -> Result<(), Error> {
    // One of them is the root's.
    let most = MAX_DESCRIPTORS - 1;
    if plan.sources.len() <= most {
        return Ok(());
    }
    let ours = plan.sources.len().saturating_sub(container.mounts.len());
    Err(Error::refused("mounts", format!("are more than {}", most.saturating_sub(ours))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_cannot_do_is_refused_in_kubelets_words() {
        let mount = |access| Mount {
            container_path: "/data".into(),
            source: MountSource::Host("/srv".into()),
            access,
            propagation: Propagation::Private,
            selinux_relabel: false,
            id_mapping: None,
            options: vec![],
        };
        let mounts = vec![mount(MountAccess::ReadOnly), mount(MountAccess::RecursiveReadOnly)];
        let container = ContainerConfig { mounts, ..ContainerConfig::default() };
        let all = Features { recursive_read_only_mounts: true, user_namespaces: true };
        features(all, &container).unwrap();
        let none = Features { recursive_read_only_mounts: false, user_namespaces: true };
        let refused = features(none, &container).unwrap_err().to_string();
        assert!(refused.starts_with("RROUnsupported: mounts[1].recursive_read_only: "), "{refused}");
        assert!(refused.contains("handler"), "it may be the external runtime that can't: {refused}");
        features(none, &ContainerConfig::default()).unwrap();
    }
}
