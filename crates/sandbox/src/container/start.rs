//! Starting a container: cgroup with its limits, descriptors of root and volumes, and the word to the supervisor.
//!
//! A start that fails leaves an exited container that says why; its cgroup is removed as after every end.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use runtime::cgroup::Cgroup;
use runtime::mount;
use runtime::plan::{NamespaceSource, Plan, Source};
use runtime::spec::oci;

use crate::clock;
use crate::container::end;
use crate::container::make::{self, Ready};
use crate::container::state::ContainerEvent;
use crate::container::status::{Exited, Reason};
use crate::container::volumes;
use crate::error::{Error, chain};
use crate::external;
use crate::plugins;
use crate::record::{self, ContainerFacts};
use crate::resources::Resources;
use crate::rootfs::MountFor;
use crate::shared::Shared;
use crate::sources::{Looker, on_sources};
use crate::spec;
use crate::stage::Stage;
use crate::supervisor::client::{Begun, Client, LogWish, Start};

/// The exit code of what never ran, as kubelet knows it from other runtimes.
const START_ERROR: i32 = 128;

/// What a start needs.
#[derive(Debug)]
pub(crate) struct Starting {
    pub(crate) shared: Arc<Shared>,
    pub(crate) client: Client,
    pub(crate) facts: Arc<ContainerFacts>,
    pub(crate) resources: Resources,
    /// `None` when an earlier daemon made the container.
    pub(crate) ready: Option<Ready>,
    pub(crate) log: LogWish,
    /// Set when nobody wants it any more: it ends before the supervisor is told.
    pub(crate) called_off: Arc<AtomicBool>,
}

/// The last moment for a start to end by itself.
///
/// # Errors
/// [`Error::CalledOff`].
pub(crate) fn still_wanted(called_off: &AtomicBool, facts: &ContainerFacts) -> Result<(), Error> {
    match called_off.load(Ordering::SeqCst) {
        true => Err(Error::CalledOff { container: facts.id.to_string() }),
        false => Ok(()),
    }
}

/// Starts a container. No event at all means that nobody can tell, since the supervisor has got out of touch: to be started once more
/// when it answers again.
///
/// Not safe to cancel: a process could be running that nobody knows of.
pub(crate) async fn start(starting: Starting) -> Vec<ContainerEvent> {
    let id = starting.facts.id.to_string();
    match steps(starting).await {
        Ok(Begun::Runs(process)) => vec![ContainerEvent::Started(process)],
        Ok(Begun::Ended(process, report)) => {
            vec![ContainerEvent::Started(process), ContainerEvent::Ended(end::exited(&report))]
        }
        Err(Error::OutOfTouch { .. }) => Vec::new(),
        Err(error) => {
            let message = failed_step(&error);
            let exited = Exited {
                exit_code: START_ERROR,
                reason: Reason::StartError,
                message,
                started_at: 0,
                finished_at: clock::now(),
            };
            let error = match error {
                Error::Step { .. } => Error::Start { container: id, cause: Arc::new(error) },
                other => other,
            };
            vec![ContainerEvent::StartFailed { exited, error }]
        }
    }
}

/// The failed step alone: the rest of the chain says that it was a start.
fn failed_step(error: &Error) -> String {
    match error {
        Error::Start { cause, .. } => chain(cause),
        Error::Exhausted { cause: Some(cause), .. } => {
            match (&**cause as &dyn std::error::Error).downcast_ref() {
                Some(start @ Error::Start { .. }) => failed_step(start),
                _ => chain(error),
            }
        }
        other => chain(other),
    }
}

async fn steps(starting: Starting) -> Result<Begun, Error> {
    plugins::start(&starting.shared, &starting.facts.id).await?;
    let begun = match starting.facts.runtime.clone() {
        Some(runtime) => external::start(starting, runtime).await,
        None => start_internal(starting).await,
    };
    begun.map_err(|error| match error {
        Error::Start { container, cause } => Error::start(container, cause),
        other => other,
    })
}

async fn start_internal(starting: Starting) -> Result<Begun, Error> {
    let Starting { shared, client, facts, resources, ready, log, called_off } = starting;
    let mut ready = match ready {
        Some(ready) => ready,
        None => read_again(&shared, &facts, &client).await?,
    };
    if let Some(profile) = &ready.plan.process.apparmor {
        shared.apparmor.stands(profile).await?;
    }
    let mut limits = spec::resources::without_devices(&resources)?;
    limits.set_devices(Some(ready.devices));
    // Of an update since it was made.
    ready.plan.process.oom_score_adj = Some(resources.oom_score());
    let images = volumes::open(&shared, &facts, (&client, ready.plan.mount_label.as_deref()));
    let images = Stage::Volumes.of(images).await?;
    let wanted = Wanted { sources: ready.plan.sources.clone(), images };
    let (cgroup, sources) = Stage::Prepare.of(prepare(&shared, &facts, (limits, wanted))).await?;
    let mut descriptors = vec![ready.root];
    descriptors.extend(sources);
    let request = Start { facts: &facts, plan: ready.plan, cgroup, descriptors, external: None, log };
    still_wanted(&called_off, &facts)?;
    Stage::Start.of(client.start(request, shared.config.deadlines.start)).await
}

async fn read_again(shared: &Shared, facts: &ContainerFacts, client: &Client) -> Result<Ready, Error> {
    let directory = shared.store.container_dir(&facts.pod, &facts.id);
    let plan: Plan = record::read_json(&directory.join("plan.json"))?;
    let spec: oci::Spec = record::read_json(&directory.join("spec.json"))?;
    let users = match plan.namespaces.user {
        NamespaceSource::Pod => Some(client.user_namespace(shared.config.deadlines.namespaces).await?),
        NamespaceSource::Host | NamespaceSource::Own | NamespaceSource::Container(_) => None,
    };
    let to = MountFor { users, label: plan.mount_label.clone() };
    let root = make::mount_again(shared, &facts.id, to).await?;
    Ok(Ready { plan, devices: make::device_rules(&spec), root })
}

/// What a container's plan says of its volumes.
struct Wanted {
    sources: Vec<Source>,
    /// Images, mounted already, by what stands for them among the sources.
    images: BTreeMap<PathBuf, OwnedFd>,
}

/// One trip to a blocking thread: making a cgroup waits for the kernel, opening a source for whatever is mounted there.
async fn prepare(
    shared: &Arc<Shared>,
    facts: &Arc<ContainerFacts>,
    (limits, mut wanted): (oci::LinuxResources, Wanted),
) -> Result<(Cgroup, Vec<OwnedFd>), Error> {
    let (host, facts) = (shared.host.clone(), facts.clone());
    let subject = facts.id.to_string();
    on_sources(shared, ("preparing cgroup and mount sources", &subject), move |looker| {
        let failed = |step| {
            let subject = facts.id.to_string();
            move |cause: runtime::Error| Error::step(step, subject, cause)
        };
        make_log_directory(&facts, looker)?;
        let cgroup = Cgroup::create(&host, &facts.cgroup).map_err(failed("creating the cgroup"))?;
        cgroup.apply(&limits).map_err(failed("limiting the resources"))?;
        let open = |source: &Source| {
            if let Some(image) = wanted.images.remove(&source.path) {
                return mount::take_source(image, source)
                    .map_err(failed("setting the flags of an image volume"));
            }
            let _look = looker.at(&source.path)?;
            mount::open_source(source).map_err(failed("opening the mount sources"))
        };
        let opened: Result<Vec<OwnedFd>, Error> = wanted.sources.iter().map(open).collect();
        Ok((cgroup, opened?))
    })
    .await
}

/// Makes the directory of the container's log. For a blocking thread.
pub(crate) fn make_log_directory(facts: &ContainerFacts, looker: &Looker) -> Result<(), Error> {
    let Some(directory) = facts.log_path.as_deref().and_then(Path::parent) else { return Ok(()) };
    let _look = looker.at(directory)?;
    std::fs::create_dir_all(directory)
        .map_err(|cause| Error::step("creating the log directory", directory.display().to_string(), cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_names_the_failed_step_alone() {
        let failure = |kind, errno: rustix::io::Errno| runtime::Failure {
            kind,
            step: runtime::FailedStep::Clone,
            errno: Some(errno.raw_os_error()),
            subject: String::new(),
        };
        let cases = [
            failure(runtime::FailureKind::System, rustix::io::Errno::PERM),
            failure(runtime::FailureKind::Exhausted, rustix::io::Errno::MFILE),
        ];
        for failure in cases {
            let alone = chain(&failure);
            assert_eq!(failed_step(&Error::start("c".to_owned(), Arc::new(failure))), alone);
        }
    }
}
