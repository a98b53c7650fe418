//! What the demo does with its daemon, in the order in which kubelet would.

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use proto::runtime::v1::image_service_client::ImageServiceClient;
use proto::runtime::v1::runtime_service_client::RuntimeServiceClient;
use proto::runtime::v1::*;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use super::daemon::Daemon;
use super::{Interrupt, Screen};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Whose program runs in the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Workload {
    /// The demo's own, which says a line and can be asked for a greeting.
    Packed,
    /// The user's: only its start, address and stats are shown.
    Foreign,
}

/// How long the container gets to say its first line.
const FIRST_LINE: Duration = Duration::from_secs(10);

/// Runs everything once; the pod is removed also when a step in between failed or was interrupted.
pub(super) async fn tour(
    daemon: &Daemon,
    screen: &Screen,
    (image, workload): (&str, Workload),
    mut interrupt: Interrupt,
) -> Outcome<()> {
    screen.show("daemon", &daemon.address())?;
    let mut node = Node::connect(daemon);
    screen.busy(&format!("pulling {image}"))?;
    let begun = Instant::now();
    let id = interrupt.or(node.pull(image)).await?;
    screen.show("image", &format!("{image} ({id}) in {:.0?}", begun.elapsed()))?;
    let config = pod(&daemon.logs());
    // Not to be interrupted: a pod without an id is hard to remove.
    let pod = node.run(config.clone()).await?;
    let stage = Stage { pod: pod.clone(), config, image: image.to_owned(), workload };
    let shown = interrupt.or(node.show(screen, &stage)).await;
    let removed = node.remove(&pod).await;
    node.images.remove_image(RemoveImageRequest { image: Some(spec(image)) }).await?;
    shown.and(removed)
}

/// What is shown.
struct Stage {
    pod: String,
    config: PodSandboxConfig,
    image: String,
    workload: Workload,
}

struct Node {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

impl Node {
    fn connect(daemon: &Daemon) -> Self {
        let path = daemon.socket();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        });
        let channel = Endpoint::from_static("http://knarr.invalid").connect_with_connector_lazy(connector);
        Self { runtime: RuntimeServiceClient::new(channel.clone()), images: ImageServiceClient::new(channel) }
    }

    async fn pull(&mut self, image: &str) -> Outcome<String> {
        let request = PullImageRequest { image: Some(spec(image)), ..Default::default() };
        Ok(self.images.pull_image(request).await?.into_inner().image_ref)
    }

    async fn run(&mut self, config: PodSandboxConfig) -> Outcome<String> {
        let request = RunPodSandboxRequest { config: Some(config), ..Default::default() };
        Ok(self.runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
    }

    /// Starts the container and shows what can be seen of it.
    async fn show(&mut self, screen: &Screen, stage: &Stage) -> Outcome<()> {
        let Stage { pod, config, image, workload } = stage;
        let request = PodSandboxStatusRequest { pod_sandbox_id: pod.into(), verbose: false };
        let status = self.runtime.pod_sandbox_status(request).await?.into_inner().status;
        let ip = status.and_then(|status| status.network).map(|network| network.ip).unwrap_or_default();
        screen.show("pod", &format!("{} at {ip}", &pod[..12.min(pod.len())]))?;
        let begun = Instant::now();
        let container = self.start(pod, config, image).await?;
        screen.show("container", &format!("created and started in {:.1?}", begun.elapsed()))?;
        if *workload == Workload::Packed {
            screen.show(
                "log",
                first_line(Path::new(&config.log_directory).join("demo.log").as_path()).await?.trim_end(),
            )?;
            screen.show("exec", self.exec(&container).await?.trim_end())?;
        }
        screen.show("stats", &self.stats(&container).await?)?;
        let request = StopContainerRequest { container_id: container, timeout: 5 };
        self.runtime.stop_container(request).await?;
        Ok(())
    }

    async fn start(&mut self, pod: &str, sandbox: &PodSandboxConfig, image: &str) -> Outcome<String> {
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: "demo".into(), attempt: 0 }),
            image: Some(spec(image)),
            log_path: "demo.log".into(),
            linux: Some(LinuxContainerConfig::default()),
            ..Default::default()
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.into(),
            config: Some(config),
            sandbox_config: Some(sandbox.clone()),
        };
        let id = self.runtime.create_container(request).await?.into_inner().container_id;
        self.runtime.start_container(StartContainerRequest { container_id: id.clone() }).await?;
        Ok(id)
    }

    async fn exec(&mut self, container: &str) -> Outcome<String> {
        let cmd = ["/demo", "hello", "operator"].map(str::to_owned).to_vec();
        let request = ExecSyncRequest { container_id: container.into(), cmd, timeout: 10 };
        let answer = self.runtime.exec_sync(request).await?.into_inner();
        Ok(String::from_utf8_lossy(&answer.stdout).into_owned())
    }

    async fn stats(&mut self, container: &str) -> Outcome<String> {
        let request = ContainerStatsRequest { container_id: container.into() };
        let stats = self.runtime.container_stats(request).await?.into_inner().stats.unwrap_or_default();
        let cpu = stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds).map_or(0, |value| value.value);
        let memory = stats.memory.and_then(|memory| memory.working_set_bytes).map_or(0, |value| value.value);
        Ok(format!("{:.1} ms of processor time, {} KiB of memory", cpu as f64 / 1e6, memory / 1024))
    }

    async fn remove(&mut self, pod: &str) -> Outcome<()> {
        self.runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod.into() }).await?;
        self.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: pod.into() }).await?;
        Ok(())
    }
}

/// The first line of the container's log, as soon as it is there.
async fn first_line(log: &Path) -> Outcome<String> {
    let written = async {
        loop {
            let text = tokio::fs::read_to_string(log).await.unwrap_or_default();
            if let Some((line, _)) = text.split_once('\n') {
                return line.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let late = |_| format!("no line in \"{}\" after {FIRST_LINE:?}", log.display());
    Ok(tokio::time::timeout(FIRST_LINE, written).await.map_err(late)?)
}

fn pod(logs: &Path) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: "demo".into(),
            uid: "demo".into(),
            namespace: "default".into(),
            attempt: 0,
        }),
        hostname: "demo".into(),
        log_directory: logs.display().to_string(),
        linux: Some(LinuxPodSandboxConfig::default()),
        ..Default::default()
    }
}

fn spec(image: &str) -> ImageSpec {
    ImageSpec { image: image.into(), user_specified_image: image.into(), ..Default::default() }
}
