//! The independent client: the k8s-cri crate over a unix socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::*;
use tokio::net::UnixStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint, Uri};

/// Both services of a CRI endpoint. Cloning shares the connection.
#[derive(Clone)]
pub struct Client {
    /// RuntimeService, for calls that have no short form below.
    pub runtime: RuntimeServiceClient<Channel>,
    /// ImageService, likewise.
    pub images: ImageServiceClient<Channel>,
    channel: Channel,
}

/// What a container put out and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Standard output, lossily as text.
    pub stdout: String,
    /// Standard error, lossily as text.
    pub stderr: String,
    /// The exit code.
    pub exit_code: i32,
}

impl Client {
    /// A client of the socket at `path`; connects at its first call.
    pub fn new(path: &Path) -> Self {
        let path: PathBuf = path.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        });
        let channel = Endpoint::from_static("http://knarr.invalid").connect_with_connector_lazy(connector);
        Self {
            runtime: RuntimeServiceClient::new(channel.clone()),
            images: ImageServiceClient::new(channel.clone()),
            channel,
        }
    }

    /// The connection, for clients of newer contracts than k8s-cri knows.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Pulls `reference` and gives the image's reference as kubelet would keep it.
    pub async fn pull(&self, reference: &str) -> Result<String, Status> {
        let image = Some(image_spec(reference));
        let request = PullImageRequest { image, ..Default::default() };
        Ok(self.images.clone().pull_image(request).await?.into_inner().image_ref)
    }

    /// RunPodSandbox; gives the id.
    pub async fn run_pod(&self, config: PodSandboxConfig) -> Result<String, Status> {
        let request = RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        Ok(self.runtime.clone().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
    }

    /// StopPodSandbox.
    pub async fn stop_pod(&self, id: &str) -> Result<(), Status> {
        let request = StopPodSandboxRequest { pod_sandbox_id: id.into() };
        self.runtime.clone().stop_pod_sandbox(request).await.map(drop)
    }

    /// RemovePodSandbox.
    pub async fn remove_pod(&self, id: &str) -> Result<(), Status> {
        let request = RemovePodSandboxRequest { pod_sandbox_id: id.into() };
        self.runtime.clone().remove_pod_sandbox(request).await.map(drop)
    }

    /// PodSandboxStatus.
    pub async fn pod(&self, id: &str) -> Result<PodSandboxStatus, Status> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false };
        let answer = self.runtime.clone().pod_sandbox_status(request).await?.into_inner();
        answer.status.ok_or_else(|| Status::internal("answer without a status"))
    }

    /// ListPodSandbox without a filter.
    pub async fn pods(&self) -> Result<Vec<PodSandbox>, Status> {
        let request = ListPodSandboxRequest { filter: None };
        Ok(self.runtime.clone().list_pod_sandbox(request).await?.into_inner().items)
    }

    /// CreateContainer in `pod`, whose configuration goes along as the contract has it; gives the id.
    pub async fn create(
        &self,
        pod: &str,
        config: ContainerConfig,
        sandbox: &PodSandboxConfig,
    ) -> Result<String, Status> {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.into(),
            config: Some(config),
            sandbox_config: Some(sandbox.clone()),
        };
        Ok(self.runtime.clone().create_container(request).await?.into_inner().container_id)
    }

    /// StartContainer.
    pub async fn start(&self, id: &str) -> Result<(), Status> {
        let request = StartContainerRequest { container_id: id.into() };
        self.runtime.clone().start_container(request).await.map(drop)
    }

    /// StopContainer with a grace period in seconds.
    pub async fn stop(&self, id: &str, timeout: i64) -> Result<(), Status> {
        let request = StopContainerRequest { container_id: id.into(), timeout };
        self.runtime.clone().stop_container(request).await.map(drop)
    }

    /// RemoveContainer.
    pub async fn remove(&self, id: &str) -> Result<(), Status> {
        let request = RemoveContainerRequest { container_id: id.into() };
        self.runtime.clone().remove_container(request).await.map(drop)
    }

    /// ContainerStatus.
    pub async fn container(&self, id: &str) -> Result<ContainerStatus, Status> {
        let request = ContainerStatusRequest { container_id: id.into(), verbose: false };
        let answer = self.runtime.clone().container_status(request).await?.into_inner();
        answer.status.ok_or_else(|| Status::internal("answer without a status"))
    }

    /// ListContainers without a filter.
    pub async fn containers(&self) -> Result<Vec<Container>, Status> {
        let request = ListContainersRequest { filter: None };
        Ok(self.runtime.clone().list_containers(request).await?.into_inner().containers)
    }

    /// ExecSync with a time-out in seconds, 0 for none: as many times longer as [`crate::patience`] has it.
    pub async fn exec(&self, id: &str, command: &[&str], timeout: u64) -> Result<Output, Status> {
        let cmd = command.iter().map(ToString::to_string).collect();
        let timeout = crate::patience(Duration::from_secs(timeout)).as_secs().cast_signed();
        let request = ExecSyncRequest { container_id: id.into(), cmd, timeout };
        let answer = self.runtime.clone().exec_sync(request).await?.into_inner();
        Ok(Output {
            stdout: String::from_utf8_lossy(&answer.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&answer.stderr).into_owned(),
            exit_code: answer.exit_code,
        })
    }

    /// Waits until the container has exited and gives its status.
    pub async fn exited(&self, id: &str) -> ContainerStatus {
        crate::until(Duration::from_secs(30), "the container's exit", || async {
            let status = self.container(id).await.map_err(|e| e.to_string())?;
            if status.state == ContainerState::ContainerExited as i32 {
                Ok(status)
            } else {
                Err(format!("{status:?}"))
            }
        })
        .await
    }
}

/// The image named by `reference`, as a request carries it.
pub fn image_spec(reference: &str) -> ImageSpec {
    ImageSpec { image: reference.into(), user_specified_image: reference.into(), ..Default::default() }
}
