//! Starting a container of an external runtime: namespaces by path, cgroup, bundle and mounts, and the word to the supervisor.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use runtime::cgroup::Cgroup;
use runtime::external::{External, ExternalRuntime, attach, attach_shared_memory, detach, is_attached};
use runtime::plan::{NamespaceSource, Plan, ProcessPlan, SHARED_MEMORY_BYTES};
use runtime::spec::oci;

use super::spec::{Places, config};
use super::{bundle, shared_memory};
use crate::container::start::{Starting, make_log_directory, still_wanted};
use crate::container::{make, volumes};
use crate::error::Error;
use crate::id::ContainerId;
use crate::record::{self, ContainerFacts};
use crate::recover::Seen;
use crate::resources::Resources;
use crate::rootfs::MountFor;
use crate::shared::Shared;
use crate::sources::on_sources;
use crate::spec::{capabilities, resources};
use crate::stage::Stage;
use crate::supervisor::client::{Begun, Client, Start};

/// What is mounted for a container.
struct Mounts {
    root: Option<OwnedFd>,
    /// Image volumes by where they go.
    images: BTreeMap<PathBuf, OwnedFd>,
}

/// Has a container started by its runtime. Does again what an earlier try has not finished.
///
/// Not safe to cancel.
///
/// # Errors
/// Those of the steps; [`Error::Start`] with what the runtime has said.
pub(crate) async fn start(starting: Starting, runtime: ExternalRuntime) -> Result<Begun, Error> {
    let Starting { shared, client, facts, resources, ready, log, called_off } = starting;
    let directory = shared.store.container_dir(&facts.pod, &facts.id);
    let plan = match &ready {
        Some(ready) => ready.plan.clone(),
        None => record::read_json::<Plan>(&directory.join("plan.json"))?,
    };
    let bundle = bundle(&directory);
    // Of an earlier daemon's try: another mount of the same layers could not be made beside it.
    let is_mounted = is_attached(&bundle.join("rootfs"));
    let root = match ready {
        _ if is_mounted => None,
        Some(ready) => Some(ready.root),
        None => {
            let to = MountFor { users: None, label: plan.mount_label.clone() };
            Some(make::mount_again(&shared, &facts.id, to).await?)
        }
    };
    let images = match is_mounted {
        true => BTreeMap::new(),
        false => {
            let images = volumes::open(&shared, &facts, (&client, plan.mount_label.as_deref()));
            Stage::Volumes.of(images).await?
        }
    };
    let spec = described(&shared, (&client, &facts), (&plan, &resources)).await?;
    let mut limits = resources::without_devices(&resources)?;
    limits.set_devices(Some(make::device_rules(&spec)));
    let prepared = prepare(&shared, &facts, (limits, spec), Mounts { root, images });
    let cgroup = Stage::Prepare.of(prepared).await?;
    let process = ProcessPlan { seccomp: None, ..plan.process };
    let plan = Plan { sources: Vec::new(), steps: Vec::new(), hooks: None, process, ..plan };
    let external = Some(External { runtime, bundle });
    let request = Start { facts: &facts, plan, cgroup, descriptors: Vec::new(), external, log };
    still_wanted(&called_off, &facts)?;
    Stage::Start.of(client.start(request, shared.config.deadlines.start)).await
}

/// What the runtime is to make, with the limits that hold now: it applies those of its configuration once more.
async fn described(
    shared: &Shared,
    (client, facts): (&Client, &ContainerFacts),
    (plan, resources): (&Plan, &Resources),
) -> Result<oci::Spec, Error> {
    let after = shared.config.deadlines.namespaces;
    let pod = client.namespaces(after).await?;
    let target = match &plan.namespaces.pid {
        NamespaceSource::Container(id) => process_of(client, id, after).await?,
        NamespaceSource::Host | NamespaceSource::Pod | NamespaceSource::Own => None,
    };
    let directory = shared.store.container_dir(&facts.pod, &facts.id);
    let places = Places {
        namespaces: &plan.namespaces,
        pod: &pod,
        target,
        root: &bundle(&directory).join("rootfs"),
        shared_memory: &shared_memory(&shared.store.pod_dir(&facts.pod)),
        least_oom_score_adj: least_oom_score_adj(),
    };
    let spec = resources::updated(record::read_json(&directory.join("spec.json"))?, resources)?;
    config(spec, &places).map_err(|why| {
        Error::step("writing down what its runtime is to make", facts.id.as_str(), std::io::Error::other(why))
    })
}

async fn process_of(client: &Client, id: &str, after: std::time::Duration) -> Result<Option<i32>, Error> {
    let (mut seen, _netns) = client.snapshot(after).await?;
    let found = ContainerId::try_from(id.to_owned()).ok().and_then(|id| seen.remove(&id));
    Ok(match found {
        Some(Seen::Runs(process)) => Some(process.id.pid),
        Some(Seen::Begins | Seen::Ended(_)) | None => None,
    })
}

/// What this process has, where a lower one takes a capability that it lacks (proc_pid_oom_score_adj(5)).
fn least_oom_score_adj() -> Option<i32> {
    if capabilities::can_spare_processes() {
        return None;
    }
    std::fs::read_to_string("/proc/self/oom_score_adj").ok()?.trim().parse().ok()
}

async fn prepare(
    shared: &Arc<Shared>,
    facts: &Arc<ContainerFacts>,
    (limits, spec): (oci::LinuxResources, oci::Spec),
    mounts: Mounts,
) -> Result<Cgroup, Error> {
    let (store, host, facts) = (shared.store.clone(), shared.host.clone(), facts.clone());
    let subject = facts.id.to_string();
    on_sources(shared, ("preparing cgroup and bundle", &subject), move |looker| {
        let failed = |step| {
            let subject = facts.id.to_string();
            move |cause: runtime::Error| Error::step(step, subject, cause)
        };
        make_log_directory(&facts, looker)?;
        let cgroup = Cgroup::create(&host, &facts.cgroup).map_err(failed("creating the cgroup"))?;
        // A runtime that is told to leave cgroups alone limits nothing.
        cgroup.apply(&limits).map_err(failed("limiting the resources"))?;
        let memory = shared_memory(&store.pod_dir(&facts.pod));
        make_dir(&memory)?;
        attach_shared_memory(&memory, SHARED_MEMORY_BYTES).map_err(failed("mounting shared memory"))?;
        make_bundle(&store.container_dir(&facts.pod, &facts.id), &spec, mounts)?;
        Ok(cgroup)
    })
    .await
}

fn make_bundle(directory: &Path, spec: &oci::Spec, mounts: Mounts) -> Result<(), Error> {
    let failed = |cause| Error::step("mounting for its runtime", directory.display().to_string(), cause);
    let bundle = bundle(directory);
    for (place, image) in mounts.images {
        make_dir(&place)?;
        // What an earlier try has left.
        detach(&place).and_then(|()| attach(image.as_fd(), &place)).map_err(failed)?;
    }
    let root = bundle.join("rootfs");
    make_dir(&root)?;
    // Last: a root that is there says that everything is.
    if let Some(mount) = mounts.root {
        attach(mount.as_fd(), &root).map_err(failed)?;
    }
    record::write_json(&bundle.join("config.json"), spec)
}

fn make_dir(path: &Path) -> Result<(), Error> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|cause| Error::step("creating the directory", path.display().to_string(), cause))
}

#[cfg(test)]
mod tests {
    use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

    use super::*;

    fn detached() -> rustix::io::Result<OwnedFd> {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    }

    #[test]
    fn the_root_is_attached_when_all_else_is() {
        let (Ok(root), Ok(first), Ok(second)) = (detached(), detached(), detached()) else {
            println!("skipped: the_root_is_attached_when_all_else_is needs the right to mount");
            return;
        };
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| directory.path().join("images").join(name);
        std::fs::create_dir_all(place("0")).unwrap();
        std::fs::write(place("1"), "in the way").unwrap();
        let images = BTreeMap::from([(place("0"), first), (place("1"), second)]);
        let failed =
            make_bundle(directory.path(), &oci::Spec::default(), Mounts { root: Some(root), images });
        let left = (is_attached(&bundle(directory.path()).join("rootfs")), is_attached(&place("0")));
        let again = Mounts { root: None, images: BTreeMap::from([(place("0"), detached().unwrap())]) };
        let again = make_bundle(directory.path(), &oci::Spec::default(), again);
        for path in [bundle(directory.path()).join("rootfs"), place("0")] {
            detach(&path).unwrap();
        }
        assert!(failed.is_err());
        assert_eq!(left, (false, true), "the next try would take the images for attached");
        again.unwrap();
    }
}
