//! Kernel parameters that a pod may set: those that belong to one of its own namespaces, one file each.
//!
//! CVE-2022-0811 and CVE-2022-0532: a name is a path below /proc/sys and nothing else, a value is written
//! verbatim to that one file, and a parameter of a namespace that is the host's is refused.

use std::collections::BTreeMap;

use super::build::refuse;
use super::{NamespacePlan, NamespaceSource, PodNamespace, PodPlan, Refusal};

/// The namespaces whose parameters may be set.
struct Owned {
    network: bool,
    ipc: bool,
    uts: bool,
}

/// Checks the mappings and the kernel parameters of a pod.
///
/// # Errors
/// The first that is malformed or would change the host.
pub fn check_pod(plan: &PodPlan) -> Result<(), Refusal> {
    if let Some(ids) = &plan.user {
        ids.check(("linux.uidMappings", "linux.gidMappings"))?;
    }
    let owned = Owned {
        network: plan.network == PodNamespace::Own,
        ipc: plan.ipc == PodNamespace::Own,
        uts: plan.uts == PodNamespace::Own,
    };
    refuse_doubles(plan.sysctls.keys().map(String::as_str))?;
    plan.sysctls.iter().try_for_each(|(name, value)| check_owned(name, value, &owned))
}

/// Two names of one parameter: which value it would get is anybody's guess.
pub(super) fn refuse_doubles<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), Refusal> {
    let mut known = BTreeMap::new();
    for name in names {
        let Some(path) = path(name) else { continue };
        if let Some(other) = known.insert(path, name) {
            return Err(refuse(format!("linux.sysctl[{name:?}]"), format!("is the same as {other:?}")));
        }
    }
    Ok(())
}

/// The place among others of the same container: by name, but what is about all links comes before what is about one.
pub(super) fn turn(name: &str) -> (bool, &str) {
    (link_of(name).is_some_and(|link| link != "all"), name)
}

pub(super) fn check(name: &str, value: &str, namespaces: &NamespacePlan) -> Result<(), Refusal> {
    let owned = Owned {
        network: namespaces.network != NamespaceSource::Host,
        ipc: namespaces.ipc != NamespaceSource::Host,
        uts: namespaces.uts != NamespaceSource::Host,
    };
    check_owned(name, value, &owned)
}

fn check_owned(name: &str, value: &str, owned: &Owned) -> Result<(), Refusal> {
    let field = || format!("linux.sysctl[{name:?}]");
    let path = path(name).ok_or_else(|| refuse(field(), "is not the name of a kernel parameter"))?;
    if value.is_empty() {
        return Err(refuse(field(), "has no value: writing nothing would change nothing"));
    }
    if value.contains(['\0', '\n']) {
        return Err(refuse(field(), "has a line break or zero byte in its value"));
    }
    let (namespace, is_owned) = match path.as_str() {
        p if p.starts_with("net/") => ("network", owned.network),
        p if p.starts_with("fs/mqueue/") => ("IPC", owned.ipc),
        "kernel/msgmax"
        | "kernel/msgmnb"
        | "kernel/msgmni"
        | "kernel/sem"
        | "kernel/shmall"
        | "kernel/shmmax"
        | "kernel/shmmni"
        | "kernel/shm_rmid_forced" => ("IPC", owned.ipc),
        "kernel/domainname" => ("UTS", owned.uts),
        _ => return Err(refuse(field(), "does not belong to a namespace")),
    };
    if is_owned {
        Ok(())
    } else {
        Err(refuse(field(), format!("would be set on the host: it has its {namespace} namespace")))
    }
}

/// The link that a parameter is about, by its name, or `all` or `default` (Documentation/networking/ip-sysctl, `conf/*`);
/// `None` for one of the namespace as a whole, and for those of other namespaces.
#[must_use]
pub fn link_of(name: &str) -> Option<String> {
    match path(name)?.split('/').collect::<Vec<_>>()[..] {
        ["net", _, "conf" | "neigh", link, _] => Some(link.to_owned()),
        _ => None,
    }
}

/// The path below /proc/sys of a parameter written with dots or, as sysctl(8) allows, with slashes (then a
/// dot is part of a name, as in the name of a VLAN interface).
pub(crate) fn path(name: &str) -> Option<String> {
    let first = name.find(['.', '/'])?;
    let path = match name.as_bytes().get(first) {
        Some(b'.') => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        _ => name.to_owned(),
    };
    let is_name = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "_-.@:".contains(c))
    };
    path.split('/').all(is_name).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned() -> Owned {
        Owned { network: true, ipc: false, uts: true }
    }

    #[test]
    fn names_become_paths_and_nothing_else() {
        assert_eq!(path("net.ipv4.ip_forward").as_deref(), Some("net/ipv4/ip_forward"));
        assert_eq!(
            path("net/ipv4/conf/eth0.100/rp_filter").as_deref(),
            Some("net/ipv4/conf/eth0.100/rp_filter")
        );
        assert_eq!(
            path("net.ipv4.conf.eth0/100.rp_filter").as_deref(),
            Some("net/ipv4/conf/eth0.100/rp_filter")
        );
        for bad in
            ["", "net", "net..x", "net/../kernel/core_pattern", "net/ipv4/", "net.a+kernel.b=c", "net. "]
        {
            assert_eq!(path(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn only_namespaces_of_the_pod_are_touched() {
        assert!(check_owned("net.core.somaxconn", "1024", &owned()).is_ok());
        assert!(check_owned("kernel.shmmax", "1", &owned()).is_err(), "the IPC namespace is the host's");
        assert!(check_owned("kernel.core_pattern", "|/x", &owned()).is_err());
        assert!(check_owned("net.core.somaxconn", "1\n2", &owned()).is_err());
        assert!(check_owned("net.core.somaxconn", "", &owned()).is_err(), "nothing would be written");
    }

    #[test]
    fn links_are_told_by_their_place() {
        let cases = [
            ("net.ipv4.conf.eth0.rp_filter", Some("eth0")),
            ("net/ipv6/conf/eth0.100/disable_ipv6", Some("eth0.100")),
            ("net.ipv4.neigh.eth0.base_reachable_time_ms", Some("eth0")),
            ("net.ipv6.conf.all.disable_ipv6", Some("all")),
            ("net.ipv4.ip_forward", None),
            ("net.ipv4.conf.eth0", None),
            ("kernel.msgmax", None),
            ("", None),
        ];
        for (name, link) in cases {
            assert_eq!(link_of(name).as_deref(), link, "{name}");
        }
    }

    #[test]
    fn one_link_has_the_last_word_about_itself() {
        let mut names =
            ["net.ipv4.conf.a0.tag", "net.ipv4.ip_forward", "net.ipv4.conf.all.tag", "kernel.msgmax"];
        names.sort_by_key(|name| turn(name));
        assert_eq!(
            names,
            ["kernel.msgmax", "net.ipv4.conf.all.tag", "net.ipv4.ip_forward", "net.ipv4.conf.a0.tag"]
        );
    }

    #[test]
    fn a_parameter_has_one_name() {
        let doubles =
            |names: &[&str]| refuse_doubles(names.iter().copied()).map_err(|refusal| refusal.to_string());
        assert_eq!(doubles(&["net.ipv4.ip_forward", "net.ipv4.conf.eth0/100.rp_filter"]), Ok(()));
        assert_eq!(
            doubles(&["net.ipv4.ip_forward", "net/ipv4/ip_forward"]).unwrap_err(),
            "linux.sysctl[\"net/ipv4/ip_forward\"]: is the same as \"net.ipv4.ip_forward\""
        );
        assert!(doubles(&["net.ipv4.conf.eth0/100.rp_filter", "net/ipv4/conf/eth0.100/rp_filter"]).is_err());
    }
}
