//! The contract of today, for fields that the independent client doesn't know yet.

use k8s_cri::v1::{ContainerConfig, PodSandboxConfig};
use prost::Message;
use proto::runtime::v1 as cri;
use proto::runtime::v1::runtime_service_client::RuntimeServiceClient;
use tonic::Status;
use tonic::transport::Channel;

use crate::Client;

/// RuntimeService as of today.
#[derive(Clone)]
pub struct Newest(RuntimeServiceClient<Channel>);

impl Newest {
    /// On the connection of another client.
    pub fn of(client: &Client) -> Self {
        Self(RuntimeServiceClient::new(client.channel()))
    }

    /// CreateContainer; gives the id.
    pub async fn create(
        &self,
        pod: &str,
        config: cri::ContainerConfig,
        sandbox: &PodSandboxConfig,
    ) -> Result<String, Status> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod.into(),
            config: Some(config),
            sandbox_config: Some(translated(sandbox)),
        };
        Ok(self.0.clone().create_container(request).await?.into_inner().container_id)
    }

    /// ContainerStatus.
    pub async fn container(&self, id: &str) -> Result<cri::ContainerStatus, Status> {
        let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: false };
        let answer = self.0.clone().container_status(request).await?.into_inner();
        answer.status.ok_or_else(|| Status::internal("answer without a status"))
    }

    /// Status.
    pub async fn status(&self) -> Result<cri::StatusResponse, Status> {
        Ok(self.0.clone().status(cri::StatusRequest { verbose: false }).await?.into_inner())
    }
}

/// A container's configuration with the fields of today.
pub fn container(config: &ContainerConfig) -> cri::ContainerConfig {
    translated(config)
}

pub(crate) fn translated<T: Message + Default>(old: &impl Message) -> T {
    // Fields keep their numbers, so what one side doesn't know is the only thing that gets lost.
    T::decode(&*old.encode_to_vec()).unwrap_or_default()
}
