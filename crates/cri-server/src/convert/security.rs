//! Namespaces, ids, profiles and labels: what the security contexts of pods and containers share.

use proto::runtime::v1 as cri;
use sandbox::{
    Error, NamespaceMode, PodNamespaces, Profile, SelinuxOptions, SupplementalGroupsPolicy, UserNamespace,
    user_id,
};

use super::known;

/// The namespace options of a pod or container.
///
/// # Errors
/// [`Error::Refused`] for a mode that the contract doesn't have, a target without an id or an id without a target.
pub(crate) fn namespaces(options: cri::NamespaceOption) -> Result<PodNamespaces, Error> {
    let path = |field: &str| format!("linux.security_context.namespace_options.{field}");
    let target = cri::NamespaceMode::Target as i32;
    if !options.target_id.is_empty() && ![options.network, options.pid, options.ipc].contains(&target) {
        return Err(Error::refused(path("target_id"), "is said, and no mode is TARGET"));
    }
    Ok(PodNamespaces {
        network: mode(options.network, &options.target_id, &path("network"))?,
        pid: mode(options.pid, &options.target_id, &path("pid"))?,
        ipc: mode(options.ipc, &options.target_id, &path("ipc"))?,
        user: options.userns_options.map(user_namespace).transpose()?.flatten(),
    })
}

fn mode(number: i32, target: &str, field: &str) -> Result<NamespaceMode, Error> {
    Ok(match known(number, field)? {
        cri::NamespaceMode::Pod => NamespaceMode::Pod,
        cri::NamespaceMode::Container => NamespaceMode::Container,
        cri::NamespaceMode::Node => NamespaceMode::Node,
        cri::NamespaceMode::Target if target.is_empty() => {
            return Err(Error::refused(field, "TARGET needs target_id"));
        }
        cri::NamespaceMode::Target => NamespaceMode::Target(target.to_owned()),
    })
}

/// Whether the users of the node are asked for in so many words.
pub(crate) fn wants_nodes_users(options: Option<&cri::NamespaceOption>) -> bool {
    let users = options.and_then(|options| options.userns_options.as_ref());
    users.is_some_and(|users| users.mode == cri::NamespaceMode::Node as i32)
}

/// `None` for the host's, which is what NODE asks for.
fn user_namespace(options: cri::UserNamespace) -> Result<Option<UserNamespace>, Error> {
    let field = "linux.security_context.namespace_options.userns_options.mode";
    match known(options.mode, field)? {
        cri::NamespaceMode::Node => Ok(None),
        cri::NamespaceMode::Pod => {
            let users = UserNamespace { uids: mappings(&options.uids), gids: mappings(&options.gids) };
            for (list, mappings) in [("uids", &users.uids), ("gids", &users.gids)] {
                if mappings.is_empty() {
                    return Err(Error::refused(field.replace("mode", list), "is empty"));
                }
            }
            Ok(Some(users))
        }
        cri::NamespaceMode::Container | cri::NamespaceMode::Target => {
            Err(Error::refused(field, "a user namespace is the pod's or the node's"))
        }
    }
}

/// Mappings as (inside, outside, length).
pub(crate) fn mappings(mappings: &[cri::IdMapping]) -> Vec<(u32, u32, u32)> {
    mappings.iter().map(|mapping| (mapping.container_id, mapping.host_id, mapping.length)).collect()
}

/// Supplemental groups.
///
/// # Errors
/// [`Error::Refused`] for a number that is no group id.
pub(crate) fn group_ids(groups: &[i64]) -> Result<Vec<u32>, Error> {
    let path = |at: usize| format!("linux.security_context.supplemental_groups[{at}]");
    groups.iter().enumerate().map(|(at, group)| user_id(path(at), *group)).collect()
}

/// Whether groups of the image's count.
///
/// # Errors
/// [`Error::Refused`] for a number that the contract doesn't have.
pub(crate) fn groups_policy(policy: i32) -> Result<SupplementalGroupsPolicy, Error> {
    Ok(match known(policy, "linux.security_context.supplemental_groups_policy")? {
        cri::SupplementalGroupsPolicy::Merge => SupplementalGroupsPolicy::Merge,
        cri::SupplementalGroupsPolicy::Strict => SupplementalGroupsPolicy::Strict,
    })
}

/// A seccomp or AppArmor profile.
///
/// # Errors
/// [`Error::Refused`] for a type that the contract doesn't have, or Localhost without a name.
pub(crate) fn profile(profile: Option<cri::SecurityProfile>, field: &str) -> Result<Option<Profile>, Error> {
    use cri::security_profile::ProfileType;
    let Some(profile) = profile else { return Ok(None) };
    Ok(Some(match known(profile.profile_type, &format!("{field}.profile_type"))? {
        ProfileType::RuntimeDefault => Profile::RuntimeDefault,
        ProfileType::Unconfined => Profile::Unconfined,
        ProfileType::Localhost if profile.localhost_ref.is_empty() => {
            return Err(Error::refused(
                format!("{field}.localhost_ref"),
                "is missing for a Localhost profile",
            ));
        }
        ProfileType::Localhost => Profile::Localhost(profile.localhost_ref),
    }))
}

/// An AppArmor profile. kubelet fills the old field beside the new one, which goes before it; tools that are older than the new one
/// fill the old one alone.
///
/// # Errors
/// As for [`profile`], and for words of the old field that say nothing.
pub(crate) fn apparmor(
    wanted: Option<cri::SecurityProfile>,
    deprecated: &str,
) -> Result<Option<Profile>, Error> {
    let wanted = profile(wanted, "linux.security_context.apparmor")?;
    Ok(match (wanted, deprecated) {
        // Either form of the name is sent in the new field.
        (Some(Profile::Localhost(name)), _) => {
            Some(Profile::Localhost(name.strip_prefix(LOCALHOST).unwrap_or(&name).to_owned()))
        }
        (Some(other), _) => Some(other),
        (None, "") => None,
        (None, "runtime/default") => Some(Profile::RuntimeDefault),
        (None, "unconfined") => Some(Profile::Unconfined),
        (None, text) => match text.strip_prefix(LOCALHOST).filter(|name| !name.is_empty()) {
            Some(name) => Some(Profile::Localhost(name.to_owned())),
            None => {
                let why = format!("\"{text}\" is not runtime/default, unconfined or localhost/ and a name");
                return Err(Error::refused("linux.security_context.apparmor_profile", why));
            }
        },
    })
}

/// What the name of a profile of the node's begins with in the old form.
const LOCALHOST: &str = "localhost/";

/// An SELinux context; one without content asks for nothing.
pub(crate) fn selinux(options: Option<cri::SeLinuxOption>) -> Option<SelinuxOptions> {
    let cri::SeLinuxOption { user, role, r#type: kind, level } = options?;
    Some(SelinuxOptions { user, role, kind, level }).filter(|options| *options != SelinuxOptions::default())
}

fn shown_users(users: &UserNamespace) -> cri::UserNamespace {
    let mode = cri::NamespaceMode::Pod as i32;
    cri::UserNamespace { mode, uids: shown_mappings(&users.uids), gids: shown_mappings(&users.gids) }
}

/// Mappings as an answer shows them.
pub(crate) fn shown_mappings(mappings: &[(u32, u32, u32)]) -> Vec<cri::IdMapping> {
    let shown =
        |&(container_id, host_id, length): &(u32, u32, u32)| cri::IdMapping { host_id, container_id, length };
    mappings.iter().map(shown).collect()
}

/// The namespace options as an answer shows them.
pub(crate) fn shown(namespaces: &PodNamespaces) -> cri::NamespaceOption {
    let number = |mode: &NamespaceMode| match mode {
        NamespaceMode::Pod => cri::NamespaceMode::Pod as i32,
        NamespaceMode::Container => cri::NamespaceMode::Container as i32,
        NamespaceMode::Node => cri::NamespaceMode::Node as i32,
        NamespaceMode::Target(_) => cri::NamespaceMode::Target as i32,
    };
    cri::NamespaceOption {
        network: number(&namespaces.network),
        pid: number(&namespaces.pid),
        ipc: number(&namespaces.ipc),
        userns_options: namespaces.user.as_ref().map(shown_users),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use cri::security_profile::ProfileType;

    use super::*;

    #[test]
    fn the_old_apparmor_field_counts_where_the_new_one_is_absent() {
        let new = |kind: ProfileType, name: &str| {
            Some(cri::SecurityProfile { profile_type: kind as i32, localhost_ref: name.into() })
        };
        let named = |name: &str| Some(Profile::Localhost(name.to_owned()));
        for (wanted, deprecated, expected) in [
            (None, "", None),
            (None, "runtime/default", Some(Profile::RuntimeDefault)),
            (None, "unconfined", Some(Profile::Unconfined)),
            (None, "localhost/mine", named("mine")),
            (new(ProfileType::Localhost, "localhost/mine"), "", named("mine")),
            (new(ProfileType::Localhost, "mine"), "localhost/other", named("mine")),
            (new(ProfileType::Unconfined, ""), "localhost/other", Some(Profile::Unconfined)),
            (new(ProfileType::RuntimeDefault, ""), "unconfined", Some(Profile::RuntimeDefault)),
        ] {
            assert_eq!(apparmor(wanted.clone(), deprecated).unwrap(), expected, "{wanted:?} {deprecated}");
        }
        for nonsense in ["mine", "localhost/", "docker/default"] {
            let refused = apparmor(None, nonsense).unwrap_err().to_string();
            assert!(refused.starts_with("linux.security_context.apparmor_profile: "), "{refused}");
        }
    }

    #[test]
    fn the_largest_group_that_kubernetes_has_is_one() {
        assert_eq!(group_ids(&[0, i64::from(i32::MAX)]).unwrap(), [0, 2_147_483_647]);
        for number in [-1, i64::from(i32::MAX) + 1] {
            let refused = group_ids(&[0, number]).unwrap_err().to_string();
            assert!(refused.starts_with("linux.security_context.supplemental_groups[1]: "), "{refused}");
        }
    }
}
