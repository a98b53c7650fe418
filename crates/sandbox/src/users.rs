//! User namespaces: which mappings a pod may ask for, and how the ids of mounts are mapped.
//!
//! The mappings of a pod are one range of users and one of groups, each with root in it: what kubelet sends, and what
//! containerd takes. Everything in the pod has the same ones.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use runtime::identity::Identity;
use runtime::plan::{IdMapping, IdMappings};

use crate::container::config::ContainerConfig;
use crate::error::Error;
use crate::pod::config::{NamespaceMode, PodConfig, UserNamespace};

const OPTIONS: &str = "linux.security_context.namespace_options";

/// The mappings as the runtime takes them.
pub(crate) fn ids(user: &UserNamespace) -> IdMappings {
    let read = |mappings: &[(u32, u32, u32)]| {
        let one = |&(inside, outside, length): &(u32, u32, u32)| IdMapping { inside, outside, length };
        mappings.iter().map(one).collect()
    };
    IdMappings { uids: read(&user.uids), gids: read(&user.gids) }
}

/// Checks what a pod says about its users.
///
/// # Errors
/// [`Error::Refused`] with the path of the field.
pub(crate) fn check_pod(pod: &PodConfig) -> Result<(), Error> {
    let Some(user) = &pod.namespaces.user else { return Ok(()) };
    let list = |name: &str| format!("{OPTIONS}.userns_options.{name}");
    for (name, mappings) in [("uids", &user.uids), ("gids", &user.gids)] {
        match mappings.as_slice() {
            [] => return Err(Error::refused(list(name), "is empty")),
            [(0, ..)] => {}
            [_] => return Err(Error::refused(format!("{}[0]", list(name)), "does not map root")),
            several => {
                let why = format!("has {} mappings, and one is supported", several.len());
                return Err(Error::refused(list(name), why));
            }
        }
    }
    ids(user)
        .check((&list("uids"), &list("gids")))
        .map_err(|refusal| Error::refused(refusal.field, refusal.why))?;
    // A user namespace has no power over those, so neither procfs nor message queues could be mounted.
    for (field, mode) in [("pid", &pod.namespaces.pid), ("ipc", &pod.namespaces.ipc)] {
        if *mode == NamespaceMode::Node {
            let why = "is NODE, which a pod with a user namespace can't have";
            return Err(Error::refused(format!("{OPTIONS}.{field}"), why));
        }
    }
    if pod.security.privileged {
        return Err(privileged());
    }
    Ok(())
}

/// Checks what a container says about its users, which are its pod's.
///
/// # Errors
/// [`Error::Refused`] with the path of the field.
pub(crate) fn check_container(pod: &PodConfig, container: &ContainerConfig) -> Result<(), Error> {
    let of_pod = pod.namespaces.user.as_ref();
    let wanted = container.security.namespaces.user.as_ref();
    let is_pods = match wanted {
        None => true,
        Some(wanted) if *wanted == UserNamespace::default() => of_pod.is_none(),
        Some(_) => wanted == of_pod,
    };
    if !is_pods {
        let why = "is not what the sandbox has";
        return Err(Error::refused(format!("{OPTIONS}.userns_options"), why));
    }
    if of_pod.is_some() && container.security.privileged {
        return Err(privileged());
    }
    for (at, mount) in container.mounts.iter().enumerate() {
        let Some(mapping) = &mount.id_mapping else { continue };
        let list = |name: &str| format!("mounts[{at}].{name}");
        ids(mapping)
            .check((&list("uidMappings"), &list("gidMappings")))
            .map_err(|refusal| Error::refused(refusal.field, refusal.why))?;
    }
    Ok(())
}

fn privileged() -> Error {
    let why = "a container in a user namespace can't be privileged: the host would not let it";
    Error::refused("linux.security_context.privileged", why)
}

/// Checks that whom a container runs as is somebody outside of it.
///
/// # Errors
/// [`Error::Refused`] naming the user or group.
pub(crate) fn check_identity(pod: &PodConfig, identity: &Identity) -> Result<(), Error> {
    let Some(user) = &pod.namespaces.user else { return Ok(()) };
    let ids = ids(user);
    let refused = |field: &str, id: u32| {
        let why = format!("{id} is not mapped in the pod's user namespace");
        Error::refused(format!("linux.security_context.{field}"), why)
    };
    if ids.outside_uid(identity.uid).is_none() {
        return Err(refused("run_as_user", identity.uid));
    }
    if ids.outside_gid(identity.gid).is_none() {
        return Err(refused("run_as_group", identity.gid));
    }
    match identity.additional_gids.iter().find(|gid| ids.outside_gid(**gid).is_none()) {
        Some(gid) => Err(refused("supplemental_groups", *gid)),
        None => Ok(()),
    }
}

/// Checks the groups that CDI devices bring, before they are taken for the request's.
///
/// # Errors
/// [`Error::Refused`].
pub(crate) fn check_cdi_groups(pod: &PodConfig, gids: &[u32]) -> Result<(), Error> {
    let Some(user) = &pod.namespaces.user else { return Ok(()) };
    let ids = ids(user);
    match gids.iter().find(|gid| ids.outside_gid(**gid).is_none()) {
        Some(gid) => {
            let why = format!("additionalGids: {gid} is not mapped in the pod's user namespace");
            Err(Error::refused("CDI_devices", why))
        }
        None => Ok(()),
    }
}

/// A user namespace as it is needed for mapping the ids of mounts. Cloning gives another handle.
#[derive(Debug, Clone)]
pub struct UserMap(Arc<OwnedFd>);

impl UserMap {
    /// Opens the namespace at a path.
    ///
    /// # Errors
    /// [`Error::Step`] when there is none.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let opened = File::open(path)
            .map_err(|cause| Error::step("opening the user namespace", path.display().to_string(), cause))?;
        Ok(Self(Arc::new(opened.into())))
    }

    /// Has the files of a detached mount belong to those whom the namespace maps their owners to.
    ///
    /// # Errors
    /// The kernel's: EINVAL for a filesystem that can't do it.
    pub fn map_ids(&self, mount: BorrowedFd<'_>) -> std::io::Result<()> {
        runtime::mount::map_ids(mount, self.0.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uids: &[(u32, u32, u32)], gids: &[(u32, u32, u32)]) -> PodConfig {
        let mut pod = PodConfig::default();
        pod.namespaces.user = Some(UserNamespace { uids: uids.to_vec(), gids: gids.to_vec() });
        pod
    }

    const GOOD: &[(u32, u32, u32)] = &[(0, 65_536, 65_536)];

    fn field(checked: Result<(), Error>) -> String {
        match checked {
            Err(Error::Refused { field, .. }) => field.replace(&format!("{OPTIONS}."), ""),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_range_with_root_in_it_is_taken() {
        assert!(check_pod(&pod(GOOD, GOOD)).is_ok());
        assert!(check_pod(&pod(GOOD, &[(0, 9, 1)])).is_ok(), "users and groups are two things");
        assert!(check_pod(&PodConfig::default()).is_ok());
        let bad: [(&[_], &[_], &str); 8] = [
            (&[], GOOD, "userns_options.uids"),
            (GOOD, &[], "userns_options.gids"),
            (&[(1, 65_536, 9)], GOOD, "userns_options.uids[0]"),
            (GOOD, &[(1, 65_536, 9)], "userns_options.gids[0]"),
            (&[(0, 65_536, 0)], GOOD, "userns_options.uids[0]"),
            (&[(0, 1, 1), (1, 2, 1)], GOOD, "userns_options.uids"),
            (GOOD, &[(0, u32::MAX - 8, 9)], "userns_options.gids[0]"),
            (GOOD, &[(0, 1, 1), (0, 1, 1)], "userns_options.gids"),
        ];
        for (uids, gids, wanted) in bad {
            assert_eq!(field(check_pod(&pod(uids, gids))), wanted, "{uids:?} {gids:?}");
        }
    }

    #[test]
    fn what_a_user_namespace_has_no_power_over_is_refused() {
        let mut asked = pod(GOOD, GOOD);
        asked.namespaces.network = NamespaceMode::Node;
        assert!(check_pod(&asked).is_ok(), "the host's network is fine");
        asked.namespaces.pid = NamespaceMode::Node;
        assert_eq!(field(check_pod(&asked)), "pid");
        let mut asked = pod(GOOD, GOOD);
        asked.namespaces.ipc = NamespaceMode::Node;
        assert_eq!(field(check_pod(&asked)), "ipc");
        let mut asked = pod(GOOD, GOOD);
        asked.security.privileged = true;
        assert_eq!(field(check_pod(&asked)), "linux.security_context.privileged");
    }

    #[test]
    fn each_number_of_a_containers_users_is_its_pods() {
        let pod = pod(GOOD, GOOD);
        let asked = |uids: (u32, u32, u32), gids: (u32, u32, u32)| {
            let mut container = ContainerConfig::default();
            container.security.namespaces.user = Some(UserNamespace { uids: vec![uids], gids: vec![gids] });
            check_container(&pod, &container)
        };
        let good = GOOD[0];
        assert!(asked(good, good).is_ok());
        for other in [(1, good.1, good.2), (good.0, 1, good.2), (good.0, good.1, 1)] {
            assert_eq!(field(asked(other, good)), "userns_options", "uids {other:?}");
            assert_eq!(field(asked(good, other)), "userns_options", "gids {other:?}");
        }
    }

    #[test]
    fn a_container_has_its_pods_users() {
        let pod = pod(GOOD, GOOD);
        let mut container = ContainerConfig::default();
        assert!(check_container(&pod, &container).is_ok(), "unsaid");
        container.security.namespaces.user.clone_from(&pod.namespaces.user);
        assert!(check_container(&pod, &container).is_ok());
        assert_eq!(field(check_container(&PodConfig::default(), &container)), "userns_options");
        container.security.namespaces.user =
            Some(UserNamespace { uids: GOOD.to_vec(), gids: vec![(0, 9, 1)] });
        assert_eq!(field(check_container(&pod, &container)), "userns_options");
        container.security.namespaces.user = Some(UserNamespace::default());
        assert_eq!(field(check_container(&pod, &container)), "userns_options");
        assert!(check_container(&PodConfig::default(), &container).is_ok());
        container.security.namespaces.user = None;
        container.security.privileged = true;
        assert_eq!(field(check_container(&pod, &container)), "linux.security_context.privileged");
    }

    #[test]
    fn whoever_runs_is_somebody_outside() {
        let pod = pod(&[(0, 9, 10)], &[(0, 9, 20)]);
        let identity =
            |uid, gid, additional_gids| Identity { uid, gid, additional_gids, home: None, username: None };
        assert!(check_identity(&pod, &identity(9, 19, vec![3])).is_ok());
        for (identity, wanted) in [
            (identity(10, 0, vec![]), "linux.security_context.run_as_user"),
            (identity(0, 20, vec![]), "linux.security_context.run_as_group"),
            (identity(0, 0, vec![1, 20]), "linux.security_context.supplemental_groups"),
        ] {
            assert_eq!(field(check_identity(&pod, &identity)), wanted);
            assert!(check_identity(&PodConfig::default(), &identity).is_ok());
        }
        assert_eq!(field(check_cdi_groups(&pod, &[1, 20])), "CDI_devices");
        assert!(
            check_cdi_groups(&pod, &[1, 19]).is_ok()
                && check_cdi_groups(&PodConfig::default(), &[20]).is_ok()
        );
    }
}
