//! The handle through which everything is asked for.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;

use crate::config::Config;
use crate::container::config::ContainerConfig;
use crate::container::status::{ContainerFilter, ContainerStatus};
use crate::error::Error;
use crate::events::Event;
use crate::exec::{ExecOutput, ExecRequest};
use crate::id::{ContainerId, PodId};
use crate::network::Network;
use crate::pod::config::PodConfig;
use crate::pod::status::{PodFilter, PodStatus};
use crate::resources::Resources;
use crate::rootfs::RootFilesystems;
use crate::stats::{ContainerUsage, Usage};

/// All pods of this daemon. Cloning gives another handle to the same pods.
///
/// Ids may be given by an unambiguous beginning. Every async method is safe to cancel: the work goes on in the pod's actor, and a
/// retry joins it or finds it done.
#[derive(Clone)]
pub struct Pods {}

#[allow(unused_variables, missing_docs, clippy::missing_errors_doc, clippy::todo)]
impl Pods {
    pub async fn open(
        config: Config,
        network: Arc<dyn Network>,
        rootfs: Arc<dyn RootFilesystems>,
    ) -> Result<Self, Error> {
        todo!()
    }
    /// Makes a pod sandbox. Not to be called without an async runtime.
    pub async fn run(&self, config: PodConfig) -> Result<PodId, Error> {
        todo!()
    }
    pub async fn stop(&self, id: &str) -> Result<(), Error> {
        todo!()
    }
    pub async fn remove(&self, id: &str) -> Result<(), Error> {
        todo!()
    }
    pub fn pod(&self, id: &str) -> Result<Arc<PodStatus>, Error> {
        todo!()
    }
    pub fn pods(&self, filter: &PodFilter) -> Vec<Arc<PodStatus>> {
        todo!()
    }
    pub async fn create_container(&self, pod: &str, config: ContainerConfig) -> Result<ContainerId, Error> {
        todo!()
    }
    pub async fn start_container(&self, id: &str) -> Result<(), Error> {
        todo!()
    }
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error> {
        todo!()
    }
    pub async fn remove_container(&self, id: &str) -> Result<(), Error> {
        todo!()
    }
    pub fn container(&self, id: &str) -> Result<Arc<ContainerStatus>, Error> {
        todo!()
    }
    pub fn containers(&self, filter: &ContainerFilter) -> Vec<Arc<ContainerStatus>> {
        todo!()
    }
    pub async fn update_resources(&self, id: &str, resources: Resources) -> Result<(), Error> {
        todo!()
    }
    pub async fn reopen_log(&self, id: &str) -> Result<(), Error> {
        todo!()
    }
    pub async fn exec_sync(&self, id: &str, request: ExecRequest) -> Result<ExecOutput, Error> {
        todo!()
    }
    pub fn events(&self) -> broadcast::Receiver<Event> {
        todo!()
    }
    pub async fn container_stats(&self, id: &str) -> Result<ContainerUsage, Error> {
        todo!()
    }
    pub async fn pod_stats(&self, id: &str) -> Result<Usage, Error> {
        todo!()
    }
    /// The OCI specification of a container, as JSON, for verbose statuses.
    pub async fn container_spec(&self, id: &str) -> Result<serde_json::Value, Error> {
        todo!()
    }
    pub async fn shutdown(&self) {
        todo!()
    }
}
