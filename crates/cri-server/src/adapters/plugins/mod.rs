//! `nri` as the plugins that `sandbox` asks and tells, and `sandbox` as the runtime whose pods and containers `nri` needs.
//!
//! Not here: the form in which pods and containers are told (see `describe`).

mod describe;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::future::join_all;
use nri::api::{self, Event};
use nri::{Nri, Question, Snapshot};
use sandbox::{
    About, Adjusted, ContainerView, Happened, News, Plugins, PodResources, PodStatus, Pods, Window, oci,
};

use crate::chain;

/// How many specifications are read at a time when a plugin is told all that there is.
const READERS: usize = 8;

/// Why a plugin's answer can't be taken.
type Cause = Arc<dyn std::error::Error + Send + Sync>;

/// The node's plugins.
pub(crate) struct NodePlugins(pub(crate) Arc<Nri>);

impl fmt::Debug for NodePlugins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodePlugins").finish_non_exhaustive()
    }
}

fn cause(error: nri::Error) -> Cause {
    Arc::new(error)
}

#[async_trait]
impl Plugins for NodePlugins {
    fn is_idle(&self) -> bool {
        self.0.is_idle()
    }

    fn pass(&self) -> Option<Window> {
        self.0.pass().map(Window::new)
    }

    async fn run_pod(&self, pod: Arc<PodStatus>) -> Result<Window, Cause> {
        self.0.run_pod(describe::pod(&pod)).await.map(Window::new).map_err(cause)
    }

    async fn stop_pod(&self, pod: Arc<PodStatus>) -> Result<(), Cause> {
        self.0.stop_pod(describe::pod(&pod)).await.map_err(cause)
    }

    async fn update_pod(&self, pod: Arc<PodStatus>, limits: &PodResources) -> Result<(), Cause> {
        let request = api::UpdatePodSandboxRequest {
            pod: Some(describe::pod(&pod)),
            overhead_linux_resources: limits.overhead.as_ref().and_then(describe::resources),
            linux_resources: limits.resources.as_ref().and_then(describe::resources),
        };
        self.0.consent(Question::UpdatePod(Box::new(request))).await.map_err(cause)
    }

    async fn create_container(&self, container: ContainerView) -> Result<Adjusted, Cause> {
        let (pod, container) = told(&container).await;
        let request = api::CreateContainerRequest { pod: Some(pod), container: Some(container) };
        let (nri::Adjusted { mut adjust }, window) = self.0.create(request).await.map_err(cause)?;
        let cdi_devices =
            std::mem::take(&mut adjust.cdi_devices).into_iter().map(|device| device.name).collect();
        Ok(Adjusted {
            cdi_devices,
            change: Box::new(move |spec| nri::spec::adjust(spec, &adjust).map_err(cause)),
            window: Window::new(window),
        })
    }

    async fn start_container(&self, container: ContainerView) -> Result<(), Cause> {
        let (pod, container) = told(&container).await;
        let request = api::StartContainerRequest { pod: Some(pod), container: Some(container) };
        self.0.consent(Question::Start(Box::new(request))).await.map_err(cause)
    }

    async fn update_container(
        &self,
        container: ContainerView,
        limits: oci::LinuxResources,
    ) -> Result<oci::LinuxResources, Cause> {
        let (pod, container) = told(&container).await;
        let linux_resources = Some(nri::spec::described(&limits));
        let request =
            api::UpdateContainerRequest { pod: Some(pod), container: Some(container), linux_resources };
        let answer = self.0.update(request).await.map_err(cause)?;
        nri::spec::limits(&answer).map_err(cause)
    }

    fn tell(&self, news: News) {
        let News { what, about } = news;
        let event = event(what, &about);
        let about = async move {
            match about {
                About::Pod(pod) => (describe::pod(&pod), None),
                About::Container(container) => {
                    let (pod, mut told) = told(&container).await;
                    if what == Happened::Ended {
                        // One that was never started, too: it is not going to be.
                        told.set_state(api::ContainerState::ContainerStopped);
                    }
                    (pod, Some(told))
                }
            }
        };
        self.0.tell(nri::News { event, about: Box::pin(about) });
    }
}

/// The plugins that are in, for people.
pub(crate) fn shown(plugins: Option<&Nri>) -> serde_json::Value {
    let Some(plugins) = plugins else { return serde_json::json!({ "enabled": false }) };
    let told =
        |plugin: nri::PluginStatus| serde_json::json!({ "name": plugin.name, "events": plugin.events });
    let all: Vec<_> = plugins.plugins().into_iter().map(told).collect();
    serde_json::json!({ "enabled": true, "plugins": all })
}

fn event(what: Happened, about: &About) -> Event {
    match (about, what) {
        (About::Container(_), Happened::Made) => Event::PostCreateContainer,
        (About::Container(_), Happened::Started) => Event::PostStartContainer,
        (About::Container(_), Happened::Updated) => Event::PostUpdateContainer,
        (About::Container(_), Happened::Ended) => Event::StopContainer,
        (About::Container(_), Happened::Removed) => Event::RemoveContainer,
        (About::Pod(_), Happened::Made | Happened::Started) => Event::RunPodSandbox,
        (About::Pod(_), Happened::Updated) => Event::PostUpdatePodSandbox,
        (About::Pod(_), Happened::Ended) => Event::StopPodSandbox,
        (About::Pod(_), Happened::Removed) => Event::RemovePodSandbox,
    }
}

async fn told(view: &ContainerView) -> (api::PodSandbox, api::Container) {
    let spec = view.spec().await;
    (describe::pod(&view.pod), describe::container(&view.status, spec.as_ref()))
}

/// The pods of this daemon, as plugins change them.
pub(crate) struct NodeContainers(pub(crate) Pods);

#[async_trait]
impl nri::Runtime for NodeContainers {
    async fn snapshot(&self) -> Snapshot {
        let (pods, containers) = self.0.views();
        // Each reads a file: not a thread for every container at once.
        let containers = futures::stream::iter(containers).map(|view| async move { told(&view).await.1 });
        let containers = containers.buffered(READERS).collect().await;
        Snapshot { pods: pods.iter().map(|pod| describe::pod(pod)).collect(), containers }
    }

    async fn update(&self, updates: Vec<api::ContainerUpdate>) -> Vec<api::ContainerUpdate> {
        // All of it is with the pods before the first one is waited for.
        let begun: Vec<_> = updates.into_iter().map(|update| (begin(&self.0, &update), update)).collect();
        let mut failed = Vec::new();
        for (begun, update) in begun {
            let outcome = match begun {
                Ok(Some(outcome)) => outcome.await.map_err(|error| chain(&error)),
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            let Err(error) = outcome else { continue };
            tracing::warn!(container = update.container_id, error, "a plugin's change of a container fails");
            if !update.ignore_failure {
                failed.push(update);
            }
        }
        failed
    }

    async fn evict(&self, evictions: Vec<api::ContainerEviction>) {
        let stops = evictions.into_iter().map(|eviction| async move {
            let api::ContainerEviction { container_id, reason } = eviction;
            tracing::info!(container = container_id, reason, "a plugin evicts a container");
            // The stop goes on in the pod's actor, whoever waits for it.
            if let Err(error) = self.0.stop_container(&container_id, Duration::ZERO).await {
                tracing::warn!(container = container_id, error = chain(&error), "an eviction fails");
            }
        });
        join_all(stops).await;
    }
}

/// Hands a change to its pod; `None` when there is nothing to change.
fn begin(
    pods: &Pods,
    update: &api::ContainerUpdate,
) -> Result<Option<impl Future<Output = Result<(), sandbox::Error>> + Send + use<>>, String> {
    let Some(limits) = update.linux.as_ref().and_then(|linux| linux.resources.as_ref()) else {
        return Ok(None);
    };
    if !limits.devices.is_empty() {
        return Err("linux.resources.devices: rules for devices can't be changed any more".to_owned());
    }
    let limits = nri::spec::limits(limits).map_err(|error| chain(&error))?;
    pods.change_limits(&update.container_id, &limits).map(Some).map_err(|error| chain(&error))
}
