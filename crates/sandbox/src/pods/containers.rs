//! What is asked of containers and about them.
//!
//! Not here: what is asked of pods (see the parent module).

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tracing::Span;

use super::{Pods, outcome, post};
use crate::attach;
use crate::container::config::ContainerConfig;
use crate::container::status::{ContainerFilter, ContainerStatus};
use crate::error::Error;
use crate::exec::{self, ExecOutput, ExecRequest};
use crate::forward;
use crate::id::ContainerId;
use crate::plugins::{self, About, Happened, News};
use crate::pod::wish::{ContainerWish, Reply, Wish};
use crate::record;
use crate::registry::PodEntry;
use crate::resources::Resources;
use crate::shared::blocking;
use crate::spec;
use crate::stats::{self, ContainerUsage};
use crate::streams::{StreamChoice, StreamSession};

impl Pods {
    /// Makes a container in a pod. A retry joins as in [`Pods::run`].
    ///
    /// Safe to cancel.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the pod, [`Error::WrongState`] when it is not ready, [`Error::Refused`], [`Error::NoImage`], [`Error::NameTaken`], and those
    /// of the steps. Nothing is left then.
    pub async fn create_container(&self, pod: &str, config: ContainerConfig) -> Result<ContainerId, Error> {
        self.open_for_business()?;
        let entry = self.shared.registry.pod(pod)?;
        let (sender, answer) = oneshot::channel();
        let asker = (sender, Span::current());
        post(&entry.mailbox, pod, Wish::Create { config: Box::new(config), asker })?;
        outcome(answer).await
    }

    /// Starts a container. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::WrongState`], [`Error::Start`] with the step that failed; the container is exited then.
    pub async fn start_container(&self, id: &str) -> Result<(), Error> {
        let (container, pod) = self.shared.registry.container_and_pod(id)?;
        self.of_container((&container.status.id, &pod), ContainerWish::Start).await
    }

    /// Stops a container: its stop signal, then SIGKILL after the grace period. Idempotent; an unknown container is stopped.
    ///
    /// Safe to cancel; the stop goes on.
    ///
    /// # Errors
    /// [`Error::Deadline`] when it doesn't even end after SIGKILL; to be asked again.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error> {
        self.end_container(id, ContainerWish::Stop { grace }).await
    }

    /// Kills a container if it must be, and removes it. Its log stays. Idempotent; an unknown container is removed.
    ///
    /// Safe to cancel; the removal goes on.
    ///
    /// # Errors
    /// [`Error::Deadline`] and those of the steps; to be asked again.
    pub async fn remove_container(&self, id: &str) -> Result<(), Error> {
        self.end_container(id, ContainerWish::Remove).await
    }

    async fn end_container(&self, id: &str, wish: ContainerWish) -> Result<(), Error> {
        match self.shared.registry.container_and_pod(id) {
            Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
            Ok((container, pod)) => match self.of_container((&container.status.id, &pod), wish).await {
                // It went in this moment.
                Err(Error::NotFound { .. }) => Ok(()),
                outcome => outcome,
            },
        }
    }

    async fn of_container(
        &self,
        (id, pod): (&ContainerId, &PodEntry),
        wish: ContainerWish,
    ) -> Result<(), Error> {
        self.open_for_business()?;
        let (reply, answer) = Reply::channel(());
        post(&pod.mailbox, id.as_str(), Wish::Container { id: id.clone(), wish, reply })?;
        outcome(answer).await
    }

    /// What was published of a container.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ambiguous`].
    pub fn container(&self, id: &str) -> Result<Arc<ContainerStatus>, Error> {
        Ok(self.shared.registry.container(id)?.status)
    }

    /// All containers that a filter matches.
    pub fn containers(&self, filter: &ContainerFilter) -> Vec<Arc<ContainerStatus>> {
        self.shared.registry.containers(filter)
    }

    /// Changes a container's limits. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::WrongState`], [`Error::Refused`], and what the kernel refuses.
    pub async fn update_resources(&self, id: &str, resources: Resources) -> Result<(), Error> {
        let id = &self.container(id)?.id;
        let resources = self.as_plugins_have_it(id, resources).await?;
        self.change_resources(id.as_str(), resources).await?;
        if let (Some(plugins), Some(view)) = (self.shared.plugins(), plugins::view(&self.shared, id)) {
            plugins.tell(News { what: Happened::Updated, about: About::Container(view) });
        }
        Ok(())
    }

    /// The limits that plugins make of those that are asked for.
    async fn as_plugins_have_it(&self, id: &ContainerId, resources: Resources) -> Result<Resources, Error> {
        let (Some(plugins), Some(view)) = (self.shared.plugins(), plugins::view(&self.shared, id)) else {
            return Ok(resources);
        };
        let limits = spec::resources::without_devices(&resources)?;
        let limits = plugins.update_container(view, limits).await.map_err(plugins::refused(id.as_str()))?;
        spec::resources::kept(&limits, resources.oom_score_adj)
    }

    /// Changes a container's limits as a plugin wants: nobody is asked. The wish is with the pod when this returns, which fulfils wishes in
    /// their order; what it returns waits for the outcome, and is safe to cancel.
    ///
    /// # Errors
    /// As for [`Pods::update_resources`].
    pub fn change_limits(
        &self,
        id: &str,
        limits: &runtime::spec::oci::LinuxResources,
    ) -> Result<impl Future<Output = Result<(), Error>> + Send + use<>, Error> {
        self.begin_change(id, spec::resources::kept(limits, None)?)
    }

    async fn change_resources(&self, id: &str, resources: Resources) -> Result<(), Error> {
        self.begin_change(id, resources)?.await
    }

    fn begin_change(
        &self,
        id: &str,
        resources: Resources,
    ) -> Result<impl Future<Output = Result<(), Error>> + Send + use<>, Error> {
        self.open_for_business()?;
        let (container, pod) = self.shared.registry.container_and_pod(id)?;
        let (reply, answer) = Reply::channel(());
        let (id, resources) = (container.status.id.clone(), Box::new(resources));
        post(&pod.mailbox, container.status.id.as_str(), Wish::Update { id, resources, reply })?;
        Ok(outcome(answer))
    }

    /// Has a running container's log opened anew, after kubelet has moved the old one away. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::WrongState`] when it doesn't run, [`Error::Step`] when the file can't be opened.
    pub async fn reopen_log(&self, id: &str) -> Result<(), Error> {
        let (container, pod) = self.shared.registry.container_and_pod(id)?;
        let client = exec::running(&container, &pod, "have its log opened anew")?;
        client.reopen_log(&container.status.id, self.shared.config.deadlines.start).await
    }

    /// Runs a command in a running container and collects what it prints. Safe to cancel; the command is killed then.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::WrongState`] when it doesn't run, [`Error::Deadline`] when the command takes too long (it is killed),
    /// [`Error::Exec`] when it can't be executed.
    pub async fn exec_sync(&self, id: &str, request: ExecRequest) -> Result<ExecOutput, Error> {
        let (container, pod) = self.shared.registry.container_and_pod(id)?;
        exec::sync::collected(&self.shared, (&container, &pod), request).await
    }

    /// Runs a command in a running container for somebody who is connected to it. Safe to cancel; the command is killed then.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::WrongState`] when it doesn't run, [`Error::Refused`] for a command that is none, [`Error::Exec`] when it
    /// can't be executed.
    pub async fn exec(
        &self,
        container: &str,
        command: Vec<String>,
        streams: StreamChoice,
    ) -> Result<StreamSession, Error> {
        let (container, pod) = self.shared.registry.container_and_pod(container)?;
        exec::connected(&self.shared, (&container, &pod), (&command, streams)).await
    }

    /// Connects somebody to the streams of a running container's first process; there may be any number of them. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::WrongState`] when it doesn't run, [`Error::Refused`] when it has no terminal and one is expected.
    pub async fn attach(&self, container: &str, streams: StreamChoice) -> Result<StreamSession, Error> {
        let (container, pod) = self.shared.registry.container_and_pod(container)?;
        attach::connected((&container, &pod), streams).await
    }

    /// Connects to a port of a pod, on its loopback address. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::WrongState`] when the pod is not ready, [`Error::Step`] when nobody listens there, [`Error::Deadline`].
    pub async fn connect(&self, pod: &str, port: u16) -> Result<TcpStream, Error> {
        let pod = self.shared.registry.pod(pod)?;
        forward::connect(&self.shared, &pod, port).await
    }

    /// What a container uses. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Step`] when its counters can't be read.
    pub async fn container_stats(&self, id: &str) -> Result<ContainerUsage, Error> {
        let (container, pod) = self.shared.registry.container_and_pod(id)?;
        stats::container(&self.shared, (&container, &pod)).await
    }

    /// What all containers use that run and that a filter matches. One that ends meanwhile is left out. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::Deadline`] as for [`Pods::pods_stats`].
    pub async fn containers_stats(
        &self,
        filter: &ContainerFilter,
    ) -> Result<Vec<(Arc<ContainerStatus>, ContainerUsage)>, Error> {
        stats::containers(&self.shared, self.shared.registry.containers_and_pods(filter)).await
    }

    /// The OCI specification of a container, as JSON, with the limits that it has now: for verbose statuses. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Step`] when it can't be read.
    pub async fn container_spec(&self, id: &str) -> Result<serde_json::Value, Error> {
        let status = self.container(id)?;
        let path = self.shared.store.container_dir(&status.pod, &status.id).join("spec.json");
        // The state directory may be on a disk.
        let attempt = ("reading the specification", status.id.as_str(), self.shared.config.deadlines.cgroup);
        let resources = status.resources.clone();
        blocking(attempt, move || {
            let spec = spec::resources::updated(record::read_json(&path)?, &resources)?;
            serde_json::to_value(spec)
                .map_err(|cause| Error::step("reading the specification", path.display().to_string(), cause))
        })
        .await
    }
}
