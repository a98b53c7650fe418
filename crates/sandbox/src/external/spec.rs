//! `config.json`: the specification that every container has, in the form in which other runtimes take it. Pure.

use std::path::{Path, PathBuf};

use runtime::plan::{NamespacePlan, NamespaceSource};
use runtime::spec::oci;
use runtime::wire::PodCreated;

/// The lowest version of the specification that has all that is said; older runtimes refuse a newer one.
const OCI_VERSION: &str = "1.0.2";

/// The file mode creation mask of containers.
const UMASK: u32 = 0o022;

/// What is known when a container is started.
pub(super) struct Places<'a> {
    /// Where its namespaces come from.
    pub(super) namespaces: &'a NamespacePlan,
    /// Where those of the pod can be opened.
    pub(super) pod: &'a PodCreated,
    /// The process of the container whose pid namespace it joins.
    pub(super) target: Option<i32>,
    /// Its root.
    pub(super) root: &'a Path,
    /// What the pod has as /dev/shm.
    pub(super) shared_memory: &'a Path,
    /// The lowest OOM score adjustment that can be had, where that is bounded.
    pub(super) least_oom_score_adj: Option<i32>,
}

/// The specification for an external runtime.
///
/// # Errors
/// What is missing, in words.
pub(super) fn config(mut spec: oci::Spec, places: &Places<'_>) -> Result<oci::Spec, String> {
    spec.set_version(OCI_VERSION.to_owned());
    if let Some(root) = spec.root_mut() {
        root.set_path(places.root.to_owned());
    }
    // The pod's has its name; one that a container has of its own there is not.
    spec.set_hostname(None);
    if let Some(process) = spec.process_mut() {
        let least = |score: i32| places.least_oom_score_adj.map_or(score, |least| score.max(least));
        process.set_oom_score_adj(process.oom_score_adj().map(least));
        let mut user = process.user().clone();
        user.set_umask(Some(user.umask().unwrap_or(UMASK)));
        process.set_user(user);
    }
    let propagation = propagation(spec.mounts().iter().flatten());
    for mount in spec.mounts_mut().iter_mut().flatten() {
        if places.namespaces.ipc == NamespaceSource::Pod && is_shared_memory(mount) {
            *mount = bind(places.shared_memory, mount.destination());
        }
    }
    let described = namespaces(places)?;
    if let Some(linux) = spec.linux_mut() {
        linux.set_namespaces(Some(described)).set_rootfs_propagation(propagation);
        if let Some(seccomp) = linux.seccomp_mut() {
            // The others only make it faster, and not all runtimes know any.
            let log = oci::LinuxSeccompFilterFlag::SeccompFilterFlagLog;
            let kept = seccomp.flags().iter().flatten().filter(|flag| **flag == log).copied().collect();
            seccomp.set_flags(Some(kept).filter(|flags: &Vec<_>| !flags.is_empty()));
        }
        if let Some(resources) = linux.resources_mut() {
            // Written by the daemon before the runtime is called, wherever the host has them.
            resources.set_hugepage_limits(None).set_unified(None);
        }
    }
    Ok(spec)
}

fn namespaces(places: &Places<'_>) -> Result<Vec<oci::LinuxNamespace>, String> {
    use oci::LinuxNamespaceType as Kind;
    let (plan, pod) = (places.namespaces, places.pod);
    let kinds = [
        (Kind::Network, &plan.network, &pod.network),
        (Kind::Ipc, &plan.ipc, &pod.ipc),
        (Kind::Uts, &plan.uts, &pod.uts),
        (Kind::Pid, &plan.pid, &pod.pid),
        (Kind::User, &plan.user, &pod.user),
        (Kind::Cgroup, &plan.cgroup, &None),
        (Kind::Mount, &NamespaceSource::Own, &None),
    ];
    let mut described = Vec::new();
    for (kind, source, of_pod) in kinds {
        let path = match source {
            NamespaceSource::Host => continue,
            NamespaceSource::Own => None,
            NamespaceSource::Pod => {
                Some(of_pod.clone().ok_or_else(|| format!("the pod has no {kind} namespace"))?)
            }
            NamespaceSource::Container(id) => {
                let pid = places.target.ok_or_else(|| format!("container \"{id}\" does not run"))?;
                Some(PathBuf::from(format!("/proc/{pid}/ns/pid")))
            }
        };
        let mut namespace = oci::LinuxNamespace::default();
        namespace.set_typ(kind).set_path(path);
        described.push(namespace);
    }
    Ok(described)
}

/// A volume propagates no further than the root that it is in.
fn propagation<'a>(mounts: impl Iterator<Item = &'a oci::Mount>) -> Option<String> {
    let options: Vec<&String> = mounts.flat_map(|mount| mount.options().iter().flatten()).collect();
    let known = ["rshared", "rslave"];
    known.into_iter().find(|wanted| options.iter().any(|option| option == wanted)).map(str::to_owned)
}

fn is_shared_memory(mount: &oci::Mount) -> bool {
    mount.destination() == Path::new("/dev/shm") && mount.typ().as_deref() == Some("tmpfs")
}

fn bind(source: &Path, destination: &Path) -> oci::Mount {
    let mut mount = oci::Mount::default();
    let options = ["rbind", "nosuid", "noexec", "nodev", "rprivate"].map(str::to_owned).to_vec();
    mount
        .set_destination(destination.to_owned())
        .set_typ(Some("bind".to_owned()))
        .set_source(Some(source.to_owned()))
        .set_options(Some(options));
    mount
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn plan(pid: NamespaceSource) -> NamespacePlan {
        NamespacePlan {
            network: NamespaceSource::Pod,
            ipc: NamespaceSource::Pod,
            uts: NamespaceSource::Host,
            pid,
            cgroup: NamespaceSource::Own,
            user: NamespaceSource::Host,
        }
    }

    fn made(plan: &NamespacePlan, target: Option<i32>) -> Result<Value, String> {
        let spec: oci::Spec = serde_json::from_value(json!({
            "ociVersion": "1.2.0",
            "hostname": "h",
            "root": { "path": "rootfs" },
            "process": { "cwd": "/", "user": { "uid": 5, "gid": 6 }, "args": ["x"], "oomScoreAdj": -900 },
            "mounts": [
                { "destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid"] },
                { "destination": "/data", "type": "bind", "source": "/srv", "options": ["rbind", "rslave"] },
            ],
            "linux": { "resources": { "hugepageLimits": [{ "pageSize": "2MB", "limit": 1 }] } },
        }))
        .unwrap();
        let pod = PodCreated {
            network: Some("/proc/7/fd/1".into()),
            ipc: Some("/proc/7/fd/2".into()),
            ..PodCreated::default()
        };
        let places = Places {
            namespaces: plan,
            pod: &pod,
            target,
            root: Path::new("/run/b/rootfs"),
            shared_memory: Path::new("/run/p/shm"),
            least_oom_score_adj: Some(0),
        };
        config(spec, &places).map(|spec| serde_json::to_value(spec).unwrap())
    }

    #[test]
    fn what_is_the_pods_is_given_by_path() {
        let config = made(&plan(NamespaceSource::Container("c".to_owned())), Some(9)).unwrap();
        assert_eq!(config["ociVersion"], "1.0.2");
        assert_eq!(config["root"]["path"], "/run/b/rootfs");
        assert_eq!(config.get("hostname"), None);
        assert_eq!(config["process"]["user"]["umask"], 0o022);
        assert_eq!(config["process"]["oomScoreAdj"], 0, "no lower than it can be had");
        let expected = json!([
            { "type": "network", "path": "/proc/7/fd/1" },
            { "type": "ipc", "path": "/proc/7/fd/2" },
            { "type": "pid", "path": "/proc/9/ns/pid" },
            { "type": "cgroup" },
            { "type": "mount" },
        ]);
        assert_eq!(config["linux"]["namespaces"], expected);
        assert_eq!(config["mounts"][0]["source"], "/run/p/shm");
        assert_eq!(config["mounts"][1]["source"], "/srv");
        assert_eq!(config["linux"]["rootfsPropagation"], "rslave");
        assert_eq!(config["linux"]["resources"].get("hugepageLimits"), None);
    }

    #[test]
    fn a_namespace_that_is_not_there_is_no_new_one() {
        assert!(made(&plan(NamespaceSource::Pod), None).unwrap_err().contains("pid"));
        assert!(made(&plan(NamespaceSource::Container("c".to_owned())), None).unwrap_err().contains("\"c\""));
    }
}
