//! Requests: what the names of a script stand for on the node.

use e2e::client::image_spec;
use e2e::cri::{self, ContainerConfig, ImageStatusRequest, PodSandboxConfig, RemoveImageRequest};
use e2e::{Client, Node, config};
use tonic::Status;

use crate::script::{Call, ContainerName, Containers, Kind, PodName, Pods, Variant};

/// What the label is called that says which of the script's things this is.
pub const LABEL: &str = "model";

/// What the label is called that tells a pod's variants apart.
pub const VARIANT: &str = "variant";

/// CPU shares of one unit of a script. The usual ones of a container are one unit.
pub const UNIT: i64 = 100;

/// A process that ends on SIGTERM, or doesn't, and when it is told to by a file.
const LOOP: &str = "while [ ! -e /told/$0 ]; do usleep 20000; done; exit 5";

/// Makes requests of a run.
pub struct Asker {
    client: Client,
    image: String,
    run: usize,
    parent: String,
    logs: std::path::PathBuf,
    told: std::path::PathBuf,
}

/// What came back.
#[derive(Debug)]
pub enum Reply {
    Done,
    Made(String),
    Refused(Status),
    Output(e2e::client::Output),
    Pod(Box<cri::PodSandboxStatus>),
    Container(Box<cri::ContainerStatus>),
    Pods(Vec<cri::PodSandbox>),
    Containers(Vec<cri::Container>),
    Image(bool),
}

impl Asker {
    pub fn new(node: &Node, run: usize) -> Self {
        Self {
            client: node.client(),
            image: node.registry.image("busybox:latest"),
            run,
            parent: node.cgroup_parent(),
            logs: node.path("logs"),
            told: node.path("told"),
        }
    }

    /// Makes a call about what has this id. Safe to cancel: a client goes away.
    pub async fn ask(&self, call: Call, id: String) -> Reply {
        self.reply(call, &id).await.unwrap_or_else(Reply::Refused)
    }

    async fn reply(&self, call: Call, id: &str) -> Result<Reply, Status> {
        let client = &self.client;
        match call {
            Call::Pull => client.pull(&self.image).await.map(|_| Reply::Done),
            Call::Unpull => self.unpull().await,
            Call::Image => self.has_image().await,
            Call::Run(name, variant) => client.run_pod(self.pod(name, variant)).await.map(Reply::Made),
            Call::StopPod(_) => client.stop_pod(id).await.map(|()| Reply::Done),
            Call::RemovePod(_) => client.remove_pod(id).await.map(|()| Reply::Done),
            Call::PodStatus(_) => client.pod(id).await.map(|pod| Reply::Pod(Box::new(pod))),
            Call::Pods(filter) => self.pods(filter).await,
            Call::Create(name, kind) => {
                let pod = self.pod(name.pod, Variant::Usual);
                client.create(id, self.container(name, kind), &pod).await.map(Reply::Made)
            }
            Call::Start(_) => client.start(id).await.map(|()| Reply::Done),
            Call::Stop(_, grace) => client.stop(id, grace.into()).await.map(|()| Reply::Done),
            Call::Remove(_) => client.remove(id).await.map(|()| Reply::Done),
            Call::Update(_, units) => self.update(id, units).await,
            Call::Exec(_) => client.exec(id, &["sh", "-c", "echo hi; exit 4"], 30).await.map(Reply::Output),
            Call::Status(_) => client.container(id).await.map(|one| Reply::Container(Box::new(one))),
            Call::Containers(filter) => self.containers(filter, id).await,
            Call::End(name) => {
                let written = std::fs::write(self.told.join(self.flag(name)), "");
                written.map(|()| Reply::Done).map_err(|error| Status::internal(error.to_string()))
            }
        }
    }

    async fn unpull(&self) -> Result<Reply, Status> {
        let request = RemoveImageRequest { image: Some(image_spec(&self.image)) };
        self.client.images.clone().remove_image(request).await.map(|_| Reply::Done)
    }

    async fn has_image(&self) -> Result<Reply, Status> {
        let request = ImageStatusRequest { image: Some(image_spec(&self.image)), verbose: false };
        let answer = self.client.images.clone().image_status(request).await?.into_inner();
        Ok(Reply::Image(answer.image.is_some()))
    }

    async fn update(&self, id: &str, units: u8) -> Result<Reply, Status> {
        let linux = cri::LinuxContainerResources { cpu_shares: shares(units), ..Default::default() };
        let request = cri::UpdateContainerResourcesRequest {
            container_id: id.into(),
            linux: Some(linux),
            ..Default::default()
        };
        self.client.runtime.clone().update_container_resources(request).await.map(|_| Reply::Done)
    }

    async fn pods(&self, wanted: Pods) -> Result<Reply, Status> {
        let state = |state: cri::PodSandboxState| Some(cri::PodSandboxStateValue { state: state as i32 });
        let mut filter = cri::PodSandboxFilter::default();
        match wanted {
            Pods::All => {}
            Pods::Ready => filter.state = state(cri::PodSandboxState::SandboxReady),
            Pods::NotReady => filter.state = state(cri::PodSandboxState::SandboxNotready),
            Pods::Labelled(variant) => {
                filter.label_selector = [(VARIANT.to_owned(), variant_word(variant))].into();
            }
        }
        let request = cri::ListPodSandboxRequest { filter: Some(filter) };
        Ok(Reply::Pods(self.client.runtime.clone().list_pod_sandbox(request).await?.into_inner().items))
    }

    async fn containers(&self, wanted: Containers, pod: &str) -> Result<Reply, Status> {
        let state = |state: cri::ContainerState| Some(cri::ContainerStateValue { state: state as i32 });
        let mut filter = cri::ContainerFilter::default();
        match wanted {
            Containers::All => {}
            Containers::Created => filter.state = state(cri::ContainerState::ContainerCreated),
            Containers::Running => filter.state = state(cri::ContainerState::ContainerRunning),
            Containers::Exited => filter.state = state(cri::ContainerState::ContainerExited),
            Containers::Of(_) => filter.pod_sandbox_id = pod.to_owned(),
        }
        let request = cri::ListContainersRequest { filter: Some(filter) };
        let answer = self.client.runtime.clone().list_containers(request).await?.into_inner();
        Ok(Reply::Containers(answer.containers))
    }

    fn pod(&self, name: PodName, variant: Variant) -> PodSandboxConfig {
        let full = format!("{}-{}", name.name, self.run);
        let mut config = config::pod(&full, &self.parent, &self.logs);
        if let Some(metadata) = &mut config.metadata {
            metadata.attempt = name.attempt.into();
        }
        config.labels.insert(LABEL.to_owned(), format!("{} {name}", self.run));
        config.labels.insert(VARIANT.to_owned(), variant_word(variant));
        config
    }

    fn container(&self, name: ContainerName, kind: Kind) -> ContainerConfig {
        let flag = self.flag(name);
        let polite = format!("trap 'exit 3' TERM; {LOOP}");
        let deaf = format!("trap '' TERM; {LOOP}");
        let command: &[&str] = match kind {
            Kind::Polite => &["sh", "-c", &polite, &flag],
            Kind::Deaf => &["sh", "-c", &deaf, &flag],
            Kind::Brief => &["sh", "-c", "exit 7"],
            Kind::Missing => &["/no/such/program"],
        };
        let mut config = config::container(&name.name.to_string(), &self.image, command);
        config.log_path = format!("{flag}.log");
        if let Some(metadata) = &mut config.metadata {
            metadata.attempt = name.attempt.into();
        }
        if let Some(linux) = &mut config.linux {
            linux.resources =
                Some(cri::LinuxContainerResources { cpu_shares: shares(0), ..Default::default() });
        }
        config.labels.insert(LABEL.to_owned(), format!("{} {name}", self.run));
        config.mounts.push(cri::Mount {
            container_path: "/told".into(),
            host_path: self.told.display().to_string(),
            readonly: true,
            ..Default::default()
        });
        config
    }

    /// The file that tells a container to end.
    fn flag(&self, name: ContainerName) -> String {
        format!("{}-{name}", self.run).replace('/', "-")
    }
}

fn shares(units: u8) -> i64 {
    UNIT * (i64::from(units) + 1)
}

fn variant_word(variant: Variant) -> String {
    match variant {
        Variant::Usual => "usual",
        Variant::Other => "other",
    }
    .to_owned()
}
