//! What this crate needs of plugins of the node that hear of pods and containers, and change what containers are. The server plugs them in.
//!
//! | moment | asked or told |
//! |---|---|
//! | a pod has all that it consists of, before it is shown | asked; a refusal undoes it |
//! | a container's specification is written, before it is planned | asked what to change; a refusal undoes it |
//! | a container is about to start | asked; a refusal fails the start |
//! | limits of a container, of a pod are about to change | asked what they are to be; asked |
//! | a pod's containers have ended, before it is taken down | asked, and not obeyed |
//! | all that has happened: made, started, changed, ended, removed | told, in the order in which it happens |
//!
//! Whoever was told that something begins is told its end, also when it came to nothing ([`Beginning`]).
//!
//! Not here: the plugins themselves, and what they may change, which is in the terms of the runtime specification.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use runtime::spec::oci;

use crate::container::status::{ContainerPhase, ContainerStatus};
use crate::error::{Cause, Error};
use crate::id::ContainerId;
use crate::pod::limits::PodResources;
use crate::pod::status::PodStatus;
use crate::record;
use crate::shared::Shared;
use crate::spec;
use crate::stage::Stage;

/// Asks and tells plugins.
#[async_trait]
pub trait Plugins: fmt::Debug + Send + Sync + 'static {
    /// Whether there is nobody to ask or to tell.
    fn is_idle(&self) -> bool;

    /// The window of something that is about to be shown, if there is nobody to ask about it.
    fn pass(&self) -> Option<Window>;

    /// Asks whether a pod may be.
    ///
    /// # Errors
    /// Who refuses, and why. So have all of these.
    async fn run_pod(&self, pod: Arc<PodStatus>) -> Result<Window, Cause>;

    /// Asks to let a pod go.
    async fn stop_pod(&self, pod: Arc<PodStatus>) -> Result<(), Cause>;

    /// Asks whether a pod's limits may be changed.
    async fn update_pod(&self, pod: Arc<PodStatus>, limits: &PodResources) -> Result<(), Cause>;

    /// Asks what a container is to be like.
    async fn create_container(&self, container: ContainerView) -> Result<Adjusted, Cause>;

    /// Asks whether a container may start.
    async fn start_container(&self, container: ContainerView) -> Result<(), Cause>;

    /// Asks what a container's limits are to be.
    async fn update_container(
        &self,
        container: ContainerView,
        limits: oci::LinuxResources,
    ) -> Result<oci::LinuxResources, Cause>;

    /// Tells what has happened. Waits for nobody.
    fn tell(&self, news: News);
}

/// From the question about something new until lists show it: a plugin that came in between would hear of it in neither way. Whoever has
/// it drops it when lists show it.
pub struct Window(#[expect(dead_code, reason = "kept, and dropped")] Box<dyn std::any::Any + Send>);

impl Window {
    /// Whatever is to be dropped when the time has come.
    pub fn new(guard: impl Send + 'static) -> Self {
        Self(Box::new(guard))
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window").finish_non_exhaustive()
    }
}

/// A change of a specification.
pub type Change = Box<dyn FnOnce(&mut oci::Spec) -> Result<(), Cause> + Send>;

/// What is to be changed of a container that is being made.
pub struct Adjusted {
    /// CDI devices that it is to have besides.
    pub cdi_devices: Vec<String>,
    /// Changes its specification; what can't be changed is refused by name.
    pub change: Change,
    /// Until lists show it.
    pub window: Window,
}

impl fmt::Debug for Adjusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adjusted").field("cdi_devices", &self.cdi_devices).finish_non_exhaustive()
    }
}

/// Something that has happened.
#[derive(Debug)]
pub struct News {
    /// What.
    pub what: Happened,
    /// What it happened to.
    pub about: About,
}

/// What has happened to a pod or container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// A container was made.
    Made,
    /// A container runs.
    Started,
    /// Limits were changed.
    Updated,
    /// A container has ended; a pod is stopped, and nobody could be asked before.
    Ended,
    /// It is gone.
    Removed,
}

/// A pod or a container.
#[derive(Debug)]
pub enum About {
    /// A pod.
    Pod(Arc<PodStatus>),
    /// A container.
    Container(ContainerView),
}

/// A container at one moment, with its pod.
#[derive(Debug, Clone)]
pub struct ContainerView {
    /// The pod.
    pub pod: Arc<PodStatus>,
    /// The container.
    pub status: Arc<ContainerStatus>,
    specification: Specification,
}

#[derive(Debug, Clone)]
enum Specification {
    At(Arc<oci::Spec>),
    File(PathBuf),
    /// It went with its files.
    Gone,
}

impl ContainerView {
    /// Its specification with the limits that it has now; `None` when that is gone, or can't be read. Safe to cancel.
    pub async fn spec(&self) -> Option<oci::Spec> {
        let spec = match &self.specification {
            Specification::At(spec) => (**spec).clone(),
            Specification::File(path) => read(path.clone()).await?,
            Specification::Gone => return None,
        };
        spec::resources::updated(spec, &self.status.resources).ok()
    }
}

async fn read(path: PathBuf) -> Option<oci::Spec> {
    // The state directory may be on a disk.
    tokio::task::spawn_blocking(move || record::read_json(&path).ok()).await.ok().flatten()
}

impl Shared {
    /// Those who are to be asked or told, if there are any.
    pub(crate) fn plugins(&self) -> Option<&Arc<dyn Plugins>> {
        self.config.plugins.as_ref().filter(|plugins| !plugins.is_idle())
    }
}

/// The error of a question that was answered with no.
pub(crate) fn refused(subject: &str) -> impl FnOnce(Cause) -> Error {
    let subject = subject.to_owned();
    move |cause| Error::Step { step: "asking the plugins", subject, cause }
}

/// A container that lists show, with its pod.
pub(crate) fn view(shared: &Shared, id: &ContainerId) -> Option<ContainerView> {
    let (container, pod) = shared.registry.container_and_pod(id.as_str()).ok()?;
    Some(view_of(shared, pod.status?, container.status))
}

/// The same at the moment of `status`.
pub(crate) fn view_of(shared: &Shared, pod: Arc<PodStatus>, status: Arc<ContainerStatus>) -> ContainerView {
    let file = shared.store.container_dir(&status.pod, &status.id).join("spec.json");
    ContainerView { pod, status, specification: Specification::File(file) }
}

/// What is kept of a container's specification for the time when its files are gone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory(Arc<OnceLock<Arc<oci::Spec>>>);

impl Memory {
    /// To be called before the files are removed.
    pub(crate) async fn keep(&self, shared: &Shared, (pod, id): (&crate::id::PodId, &ContainerId)) {
        if shared.plugins().is_some()
            && let Some(spec) = read(shared.store.container_dir(pod, id).join("spec.json")).await
        {
            let _once = self.0.set(Arc::new(spec));
        }
    }

    /// A container whose files are gone.
    pub(crate) fn view(&self, pod: Arc<PodStatus>, status: Arc<ContainerStatus>) -> ContainerView {
        let specification = self.0.get().map_or(Specification::Gone, |spec| Specification::At(spec.clone()));
        ContainerView { pod, status, specification }
    }
}

/// Something new that plugins were asked about. Dropped before it was [`Beginning::kept`], it came to nothing, and they are told so.
pub(crate) struct Beginning {
    plugins: Option<Arc<dyn Plugins>>,
    about: Option<Box<dyn Fn() -> About + Send + Sync>>,
    window: Option<Window>,
}

impl Beginning {
    /// One that nobody was asked about.
    fn unasked(window: Option<Window>) -> Self {
        Self { plugins: None, about: None, window }
    }

    fn asked(plugins: &Arc<dyn Plugins>, about: impl Fn() -> About + Send + Sync + 'static) -> Self {
        Self { plugins: Some(plugins.clone()), about: Some(Box::new(about)), window: None }
    }

    /// It came to something, which is shown while the window is open.
    pub(crate) fn kept(mut self) -> Option<Window> {
        self.plugins = None;
        self.window.take()
    }
}

impl Drop for Beginning {
    fn drop(&mut self) {
        if let (Some(plugins), Some(about)) = (&self.plugins, &self.about) {
            plugins.tell(News { what: Happened::Ended, about: about() });
            plugins.tell(News { what: Happened::Removed, about: about() });
        }
    }
}

/// Asks whether a pod may be.
///
/// # Errors
/// [`Error::Step`] when a plugin refuses.
pub(crate) async fn run_pod(shared: &Shared, pod: Arc<PodStatus>) -> Result<Beginning, Error> {
    let Some(plugins) = &shared.config.plugins else { return Ok(Beginning::unasked(None)) };
    if let Some(window) = plugins.pass() {
        return Ok(Beginning::unasked(Some(window)));
    }
    let about = pod.clone();
    let mut beginning = Beginning::asked(plugins, move || About::Pod(about.clone()));
    let asked = async { plugins.run_pod(pod.clone()).await.map_err(refused(pod.id.as_str())) };
    let window = Stage::Plugins.of(asked).await?;
    beginning.window = Some(window);
    Ok(beginning)
}

/// What plugins want changed of a container that is being made; `None` when nobody was asked.
///
/// # Errors
/// [`Error::Step`] when a plugin refuses, or two of them can't agree.
pub(crate) async fn create(
    shared: &Shared,
    status: ContainerStatus,
    spec: &oci::Spec,
) -> Result<(Beginning, Option<Adjusted>), Error> {
    let Some(plugins) = &shared.config.plugins else { return Ok((Beginning::unasked(None), None)) };
    if let Some(window) = plugins.pass() {
        return Ok((Beginning::unasked(Some(window)), None));
    }
    // It is being made, so it is there.
    let pod = shared.registry.pod(status.pod.as_str())?.status.ok_or(Error::ShuttingDown)?;
    let view = ContainerView {
        pod,
        status: Arc::new(status),
        specification: Specification::At(Arc::new(spec.clone())),
    };
    let about = view.clone();
    let mut beginning = Beginning::asked(plugins, move || About::Container(about.clone()));
    let id = view.status.id.to_string();
    let asked = async { plugins.create_container(view).await.map_err(refused(&id)) };
    let mut adjusted = Stage::Plugins.of(asked).await?;
    beginning.window = Some(std::mem::replace(&mut adjusted.window, Window::new(())));
    Ok((beginning, Some(adjusted)))
}

/// Asks whether a container may start.
///
/// # Errors
/// [`Error::Step`] when a plugin refuses.
pub(crate) async fn start(shared: &Shared, id: &ContainerId) -> Result<(), Error> {
    let (Some(plugins), Some(view)) = (shared.plugins(), view(shared, id)) else { return Ok(()) };
    let asked = async { plugins.start_container(view).await.map_err(refused(id.as_str())) };
    Stage::Plugins.of(asked).await
}

/// Asks plugins to let a pod go. What they say keeps nobody from going.
pub(crate) async fn stop_pod(shared: &Shared, pod: Arc<PodStatus>) {
    if let Some(plugins) = shared.plugins()
        && let Err(error) = plugins.stop_pod(pod.clone()).await
    {
        tracing::warn!(pod = %pod.id, %error, "a plugin objects to a pod's end");
    }
}

impl crate::pods::Pods {
    /// All that plugins are told of when they come: all pods, and the containers that have not ended.
    pub fn views(&self) -> (Vec<Arc<PodStatus>>, Vec<ContainerView>) {
        let containers = self.shared.registry.containers(&Default::default());
        let alive = containers.iter().filter(|status| !matches!(status.phase, ContainerPhase::Exited(_)));
        let views = alive.filter_map(|status| view(&self.shared, &status.id)).collect();
        (self.shared.registry.pods(&Default::default()), views)
    }
}
