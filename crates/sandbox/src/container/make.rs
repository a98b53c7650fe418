//! Making a container: everything that can be refused is refused here, and nothing runs yet.
//!
//! | step | undone by |
//! |---|---|
//! | directory | removing it |
//! | root filesystem prepared and mounted (detached) | releasing it |
//! | volumes of images | releasing the root |
//! | sources, user, devices and seccomp profile looked at | – |
//! | specification and plan | – |
//! | plugins of the node asked, and what they change carried out (see `adjust`) | telling them that it came to nothing |
//! | records | removing the directory |

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use runtime::identity::{self, Identity};
use runtime::plan::{Bundle, Plan, PlanInput, ProcessPlan, Refusal};
use runtime::spec::oci;

use crate::cdi::{self, Edits};
use crate::clock;
use crate::container::config::{ContainerConfig, MountSource, Profile};
use crate::container::state::ContainerState;
use crate::container::status::{ContainerPhase, ProcessUser};
use crate::container::volumes::{self, Volumes};
use crate::container::{adjust, check};
use crate::error::Error;
use crate::handler::Handler;
use crate::id::ContainerId;
use crate::plugins::{self, Window};
use crate::pod;
use crate::record::{self, ContainerFacts, ContainerRecord, PodFacts};
use crate::resources::Resources;
use crate::rootfs::{MountFor, Prepared, RootfsError};
use crate::selinux::{Labels, relabel};
use crate::shared::{Shared, blocking, within};
use crate::signal::Signal;
use crate::sources::{Looker, on_sources};
use crate::spec::capabilities::Choice;
use crate::spec::refusals::{self, Asked};
use crate::spec::seccomp::Confinement;
use crate::spec::{self, SpecInput, devices, files};
use crate::stage::Stage;
use crate::supervisor::client::Client;
use crate::undo::Stack;
use crate::users::{self, UserMap};

/// A container that was made.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) facts: Arc<ContainerFacts>,
    /// What a further process in it is like; `None` when an earlier daemon's plan cannot be read.
    pub(crate) process: Option<Arc<ProcessPlan>>,
    /// What its start needs; gone once it was started, and read again from the records by a daemon that was not there.
    pub(crate) ready: Option<Ready>,
    /// Its limits, when plugins have changed those of the request.
    pub(crate) resources: Option<Resources>,
    /// What plugins were asked about, until it is shown.
    pub(crate) window: Option<Window>,
}

/// What the start of a container needs.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) plan: Plan,
    pub(crate) devices: Vec<oci::LinuxDeviceCgroup>,
    pub(crate) root: OwnedFd,
}

/// What a container consists of, for undoing.
#[derive(Debug, Clone, Copy)]
enum Part {
    Files,
    Rootfs,
}

/// What is asked.
#[derive(Debug)]
pub(crate) struct Making {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pod: Arc<PodFacts>,
    pub(crate) id: ContainerId,
    pub(crate) config: Arc<ContainerConfig>,
    /// The pod's supervisor, unless it is out of touch.
    pub(crate) client: Option<Client>,
}

/// Makes a container.
///
/// Not safe to cancel: what was begun would stay until the daemon is started again.
///
/// # Errors
/// Those of the steps. What was done is undone; [`Error::Undone`] lists what could not be.
pub(crate) async fn make(making: &Making) -> Result<Made, Error> {
    let mut undo = Stack::new();
    let error = match steps(making, &mut undo).await {
        Ok(made) => return Ok(made),
        Err(error) => error,
    };
    let left = undo.run(|part| take_down(making, part)).await;
    if left.is_empty() {
        return Err(error);
    }
    if left.iter().any(|(part, _)| matches!(part, Part::Rootfs)) {
        making.shared.leftovers.add(&making.pod.id, &making.id);
    }
    let left = left.iter().map(|(_, failure)| crate::error::chain(failure)).collect();
    Err(Error::Undone { left, cause: Arc::new(error) })
}

async fn take_down(making: &Making, part: Part) -> Result<(), Error> {
    match part {
        Part::Files => record::remove_dir(&making.shared.store.container_dir(&making.pod.id, &making.id)),
        Part::Rootfs => release(&making.shared, &making.id).await,
    }
}

async fn steps(making: &Making, undo: &mut Stack<Part>) -> Result<Made, Error> {
    let config = &making.config;
    check::check(&making.pod.config, config)?;
    image_handlers(making)?;
    check::external(&making.pod.handler, config)?;
    check::features(making.shared.features_of(&making.pod.handler), config)?;
    // Two short files of sysfs at most.
    spec::resources::check(&making.shared.host, &config.resources)?;
    let apparmor = making.shared.apparmor.profile(&config.security).await?;
    let selinux = making.shared.selinux.of_container(making.pod.selinux.as_ref(), &config.security)?;
    let label = selinux.as_ref().map(|labels| labels.mount.as_str());
    let log_path = files::log_path(&making.pod.config.log_directory, &config.log_path)?;
    let directory = making.shared.store.container_dir(&making.pod.id, &making.id);
    undo.push(Part::Files);
    record::make_dirs(&directory)
        .map_err(|cause| Error::step("creating the directory", directory.display().to_string(), cause))?;
    undo.push(Part::Rootfs);
    let (prepared, root) = Stage::Rootfs.of(root(making, label)).await?;
    let volumes = Stage::Volumes.of(volumes::prepare(making, &prepared.config, label)).await?;
    let found = Stage::Look.of(look(making, config, (&prepared, root))).await?;
    relabel_volumes(making, label).await?;
    let cgroup = format!("{}/{}", making.pod.cgroup, making.id);
    let parts = Parts {
        making,
        prepared: &prepared,
        volumes: &volumes,
        cgroup: &cgroup,
        apparmor: apparmor.as_deref(),
        selinux: selinux.as_ref(),
    };
    let written = Stage::Spec.at_once(|| parts.written(found))?;
    let facts = Arc::new(ContainerFacts {
        id: making.id.clone(),
        pod: making.pod.id.clone(),
        created_at: clock::now(),
        config: config.clone(),
        image_id: prepared.image_id.clone(),
        image_ref: prepared.image_ref.clone(),
        image_volumes: volumes.image_ids(),
        user: user(&written.found.identity),
        stop_signal: stop_signal(config, prepared.config.stop_signal.as_deref()),
        log_path,
        cgroup: cgroup.clone(),
        runtime: making.pod.handler.external.clone(),
    });
    let status = facts.status(&config.resources, ContainerPhase::Created);
    let (beginning, adjusted) = plugins::create(&making.shared, status, &written.spec).await?;
    let written = match adjusted {
        Some(adjusted) => adjust::adjust(&parts, written, adjusted).await?,
        None => written,
    };
    let Written { found, spec, plan, resources } = written;
    Stage::Record.at_once(|| save(making, &facts, (&spec, &plan, resources.as_ref())))?;
    let process = Some(Arc::new(plan.process.clone()));
    let devices = device_rules(&spec);
    let ready = Some(Ready { plan, devices, root: found.root });
    Ok(Made { facts, process, ready, resources, window: beginning.kept() })
}

/// What a container's specification is written from, beside what was found.
pub(super) struct Parts<'a> {
    pub(super) making: &'a Making,
    pub(super) prepared: &'a Prepared,
    volumes: &'a Volumes,
    cgroup: &'a str,
    apparmor: Option<&'a str>,
    selinux: Option<&'a Labels>,
}

/// A container's specification, and what came with it.
pub(super) struct Written {
    pub(super) found: Found,
    pub(super) spec: oci::Spec,
    pub(super) plan: Plan,
    /// Its limits, when they are not those of the request.
    pub(super) resources: Option<Resources>,
}

impl Parts<'_> {
    /// Writes the specification and plans it.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub(super) fn written(&self, found: Found) -> Result<Written, Error> {
        let making = self.making;
        let spec = spec::build(&SpecInput {
            pod: &making.pod.config,
            handler: &making.pod.handler,
            pod_dir: &making.shared.store.pod_dir(&making.pod.id),
            container: &making.config,
            image: &self.prepared.config,
            volumes: self.volumes,
            cdi: &found.cdi,
            identity: &found.identity,
            devices: &found.devices,
            cgroup: self.cgroup,
            hostname: &hostname(&making.pod),
            apparmor: self.apparmor,
            selinux: self.selinux,
            seccomp: found.confinement.as_ref().map(|confinement| &confinement.described),
        })?;
        let namespaces = spec::namespaces::plan(&making.pod.config, &making.config);
        let seccomp = found.confinement.as_ref().map(|confinement| confinement.filter.clone());
        let input = PlanInput { spec: &spec, namespaces, seccomp };
        let asked = Asked { container: &making.config, cdi: &found.cdi, spec: &spec };
        let plan = plan(making, &input).map_err(|refusal| refusals::refused(refusal, &asked))?;
        check::mounts_fit(&making.config, &plan)?;
        Ok(Written { found, spec, plan, resources: None })
    }
}

fn image_handlers(making: &Making) -> Result<(), Error> {
    let current = making.shared.current();
    let handlers = &current.settings.handlers;
    pod::check::image_handler(handlers, ("image", &making.config.image.runtime_handler))?;
    making.config.mounts.iter().enumerate().try_for_each(|(at, mount)| match &mount.source {
        MountSource::Image { image, .. } => {
            pod::check::image_handler(handlers, (&format!("mounts[{at}].image"), &image.runtime_handler))
        }
        MountSource::Host(_) => Ok(()),
    })
}

/// Ends what is no longer waited for.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Gives the volumes that ask for it the container's context. Off such a host kubelet asks for it all the same.
async fn relabel_volumes(making: &Making, label: Option<&str>) -> Result<(), Error> {
    let Some(label) = label.map(str::to_owned) else { return Ok(()) };
    if !making.config.mounts.iter().any(|mount| mount.selinux_relabel) {
        return Ok(());
    }
    let (config, stop) = (making.config.clone(), Arc::new(AtomicBool::new(false)));
    let stopped = stop.clone();
    let _stops = Stop(stop);
    let after = making.shared.config.deadlines.relabel;
    let work = blocking(("relabelling the volumes", making.id.as_str(), after), move || {
        for (at, mount) in config.mounts.iter().enumerate().filter(|(_, mount)| mount.selinux_relabel) {
            let MountSource::Host(path) = &mount.source else { continue };
            relabel::volume(path, &label, &stopped).map_err(|failed| failed.of_mount(at))?;
        }
        Ok(())
    });
    Stage::Volumes.of(work).await
}

async fn root(making: &Making, label: Option<&str>) -> Result<(Prepared, OwnedFd), Error> {
    let (id, rootfs) = (&making.id, &making.shared.rootfs);
    let after = making.shared.config.deadlines.rootfs;
    let users = match making.pod.config.namespaces.user {
        Some(_) => Some(users_of(making).await?),
        None => None,
    };
    let work = async {
        let image = &making.config.image.reference;
        let made = rootfs.make(id, image, MountFor { users, label: label.map(str::to_owned) }).await;
        made.map_err(|error| rootfs_error("preparing the root filesystem", id, error))
    };
    within(("preparing the root filesystem", id.as_str(), after), work).await
}

/// The users of a pod that has a user namespace.
pub(crate) async fn users_of(making: &Making) -> Result<UserMap, Error> {
    let pod = making.pod.id.to_string();
    let client = making.client.as_ref().ok_or(Error::OutOfTouch { pod })?;
    client.user_namespace(making.shared.config.deadlines.namespaces).await
}

/// Mounts a prepared root once more, for the users that it was prepared for.
pub(crate) async fn mount_again(shared: &Shared, id: &ContainerId, to: MountFor) -> Result<OwnedFd, Error> {
    let work = async {
        let mounted = shared.rootfs.mount(id, to).await;
        mounted.map_err(|error| rootfs_error("mounting the root filesystem", id, error))
    };
    within(("mounting the root filesystem", id.as_str(), shared.config.deadlines.rootfs), work).await
}

/// Throws a root away.
pub(crate) async fn release(shared: &Shared, id: &ContainerId) -> Result<(), Error> {
    let work = async {
        shared
            .rootfs
            .release(id)
            .await
            .map_err(|error| rootfs_error("releasing the root filesystem", id, error))
    };
    within(("releasing the root filesystem", id.as_str(), shared.config.deadlines.rootfs), work).await
}

/// A step with a container's root or volumes that failed.
pub(crate) fn rootfs_error(step: &'static str, id: &ContainerId, error: RootfsError) -> Error {
    match error {
        RootfsError::NoImage { image } => Error::NoImage { image },
        RootfsError::BadReference { cause, .. } => {
            Error::refused("image.image", crate::error::chain(&*cause))
        }
        RootfsError::Full(cause) => {
            Error::Exhausted { what: "disk space", subject: id.to_string(), cause: Some(cause) }
        }
        RootfsError::NoPath(cause) | RootfsError::Failed(cause) => Error::failed(step, id.as_str(), cause),
    }
}

/// What was found on the host and in the image.
pub(super) struct Found {
    pub(super) identity: Identity,
    devices: Vec<devices::HostDevice>,
    cdi: Edits,
    pub(super) root: OwnedFd,
    pub(super) confinement: Option<Confinement>,
}

/// Looks at all that `config` needs, which is the request's, or has more CDI devices.
pub(super) async fn look(
    making: &Making,
    config: &Arc<ContainerConfig>,
    (prepared, root): (&Prepared, OwnedFd),
) -> Result<Found, Error> {
    let found = look_at(making, config.clone(), (prepared, root)).await?;
    users::check_cdi_groups(&making.pod.config, &found.cdi.gids)?;
    users::check_identity(&making.pod.config, &found.identity)?;
    Ok(found)
}

async fn look_at(
    making: &Making,
    config: Arc<ContainerConfig>,
    (prepared, root): (&Prepared, OwnedFd),
) -> Result<Found, Error> {
    let pod = making.pod.clone();
    let request = spec::process::user_request(&config, &prepared.config);
    let directories = making.shared.current().settings.cdi_spec_dirs.clone();
    let attempt = ("looking at mount sources, user, devices and seccomp profile", making.id.as_str());
    on_sources(&making.shared, attempt, move |looker| {
        check::sources_exist(&config, looker)?;
        let mut cdi = cdi::edits(&directories, &config, looker)?;
        let mut identity =
            identity::resolve(root.as_fd(), &request).map_err(|error| identity_error(&config, &error))?;
        let all = config.security.privileged && !pod.handler.privileged_without_host_devices;
        let mut found = if all { devices::all() } else { Vec::new() };
        for asked in [devices::gather(&config.devices)?, std::mem::take(&mut cdi.devices)] {
            found.retain(|host| !asked.iter().any(|own| own.path == host.path));
            found.extend(asked);
        }
        devices::own(&mut found, &identity);
        identity.additional_gids.extend(&cdi.gids);
        identity.additional_gids.sort_unstable();
        identity.additional_gids.dedup();
        let confinement = confinement(&config, &pod.handler, looker)?;
        Ok(Found { identity, devices: found, cdi, root, confinement })
    })
    .await
}

fn confinement(
    config: &ContainerConfig,
    handler: &Handler,
    looker: &Looker,
) -> Result<Option<Confinement>, Error> {
    let _look = match &config.security.seccomp {
        Some(Profile::Localhost(path)) => Some(looker.at(Path::new(path))?),
        _ => None,
    };
    let capabilities = spec::capabilities::effective(&config.security, &Choice::of(handler))?;
    let confined = spec::seccomp::confinement(&config.security, handler.unset_seccomp, &capabilities)?;
    Ok(confined.map(|confinement| match &handler.external {
        None => confinement,
        Some(_) => {
            let words = (&confinement, &capabilities);
            let described =
                spec::seccomp::described_for_others(&config.security, handler.unset_seccomp, words);
            Confinement { described, ..confinement }
        }
    }))
}

fn identity_error(config: &ContainerConfig, error: &runtime::Error) -> Error {
    use crate::container::config::RunAs;
    let field = match config.security.run_as {
        // What is wrong is the image's own user.
        RunAs::Image => "image.image",
        RunAs::Uid { .. } => "linux.security_context.run_as_user",
        RunAs::Username { .. } => "linux.security_context.run_as_username",
    };
    Error::refused(field, crate::error::chain(error))
}

fn user(identity: &Identity) -> ProcessUser {
    let supplemental_groups = identity.additional_gids.clone();
    ProcessUser { uid: identity.uid, gid: identity.gid, supplemental_groups }
}

/// What processes of a pod see as their host's name.
fn hostname(pod: &PodFacts) -> String {
    if !pod.config.hostname.is_empty() {
        return pod.config.hostname.clone();
    }
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn stop_signal(config: &ContainerConfig, of_image: Option<&str>) -> Signal {
    // An image with nonsense in it still runs, as it does with other runtimes.
    let of_image = || of_image.and_then(|text| Signal::parse(text).ok());
    config.stop_signal.or_else(of_image).unwrap_or(Signal::TERM)
}

/// What the supervisor is told; the first field that the runtime refuses.
pub(super) fn plan(making: &Making, input: &PlanInput<'_>) -> Result<Plan, Refusal> {
    let directory = making.shared.store.container_dir(&making.pod.id, &making.id);
    let bundle = Bundle { id: making.id.as_str(), directory: &directory, root: &directory.join(BUNDLE_ROOT) };
    runtime::plan::plan_in_bundle(input, &bundle)
}

/// The device rules of a specification.
pub(crate) fn device_rules(spec: &oci::Spec) -> Vec<oci::LinuxDeviceCgroup> {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    resources.and_then(|resources| resources.devices().clone()).unwrap_or_default()
}

/// Where hooks find the root filesystem, in a container's directory: as the specification has it.
const BUNDLE_ROOT: &str = "rootfs";

/// Makes a container's directory the bundle that hooks look for.
fn for_hooks(directory: &Path) -> Result<(), Error> {
    let failed = |path: &Path| {
        let subject = path.display().to_string();
        move |cause: std::io::Error| Error::step("making a bundle for the hooks", subject, cause)
    };
    let (config, root) = (directory.join("config.json"), directory.join(BUNDLE_ROOT));
    std::fs::hard_link(directory.join("spec.json"), &config).map_err(failed(&config))?;
    std::fs::create_dir(&root).map_err(failed(&root))
}

fn save(
    making: &Making,
    facts: &Arc<ContainerFacts>,
    (spec, plan, resources): (&oci::Spec, &Plan, Option<&Resources>),
) -> Result<(), Error> {
    let store = &making.shared.store;
    let directory = store.container_dir(&making.pod.id, &making.id);
    record::write_json(&directory.join("spec.json"), spec)?;
    record::write_json(&directory.join("plan.json"), plan)?;
    if plan.hooks.is_some() {
        for_hooks(&directory)?;
    }
    // Last: a directory without this record is one that was never finished.
    let resources = resources.unwrap_or(&making.config.resources);
    match ContainerRecord::of(facts, resources, &ContainerState::Created) {
        Some(record) => store.save_container(&record),
        None => Ok(()),
    }
}
