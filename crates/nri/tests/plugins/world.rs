//! A runtime without pods: what it has is what a test puts there.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use nri::api::{Container, ContainerEviction, ContainerUpdate, CreateContainerRequest, Event, PodSandbox};
use nri::{Config, News, Nri, Runtime, Snapshot, Validator};

/// What the runtime has, and what it was asked to do. What is called "hangs" does, and what is "unknown" fails.
#[derive(Debug, Default)]
pub(crate) struct Node {
    pub(crate) all: Mutex<Snapshot>,
    pub(crate) updated: Mutex<Vec<ContainerUpdate>>,
    pub(crate) evicted: Mutex<Vec<ContainerEviction>>,
}

#[async_trait]
impl Runtime for Node {
    async fn snapshot(&self) -> Snapshot {
        let all = self.all.lock().unwrap().clone();
        if all.pods.iter().any(|pod| pod.id == "hangs") {
            std::future::pending::<()>().await;
        }
        all
    }

    async fn update(&self, updates: Vec<ContainerUpdate>) -> Vec<ContainerUpdate> {
        if updates.iter().any(|update| update.container_id == "hangs") {
            std::future::pending::<()>().await;
        }
        let (done, failed): (Vec<_>, _) =
            updates.into_iter().partition(|update| update.container_id != "unknown");
        self.updated.lock().unwrap().extend(done);
        failed
    }

    async fn evict(&self, evictions: Vec<ContainerEviction>) {
        self.evicted.lock().unwrap().extend(evictions);
    }
}

pub(crate) struct World {
    pub(crate) nri: Arc<Nri>,
    pub(crate) node: Arc<Node>,
    pub(crate) socket: PathBuf,
    pub(crate) directory: tempfile::TempDir,
}

/// Patient with requests, since what is waited for comes at once.
pub(crate) fn world() -> World {
    world_with(Duration::from_secs(20), None)
}

pub(crate) fn world_with(request_timeout: Duration, validator: Option<Validator>) -> World {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("nri/nri.sock");
    let nri = Nri::new(Config {
        runtime_name: "test".into(),
        runtime_version: "1".into(),
        registration_timeout: request_timeout,
        request_timeout,
        validator,
    });
    let node = Arc::new(Node::default());
    nri.serve(node.clone());
    nri.listen(&socket).unwrap();
    World { nri: Arc::new(nri), node, socket, directory }
}

impl World {
    /// Waits until somebody is to be asked, or nobody any more.
    pub(crate) async fn idle(&self, idle: bool) {
        let changed = async {
            while self.nri.is_idle() != idle {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(crate::stub::PATIENCE, changed).await.expect("plugins come and go");
    }

    pub(crate) fn tell(&self, event: Event, container: Option<&str>) {
        let container = container.map(crate::world::container);
        self.nri.tell(News { event, about: Box::pin(async move { (pod("p"), container) }) });
    }
}

pub(crate) fn pod(id: &str) -> PodSandbox {
    PodSandbox { id: id.into(), ..PodSandbox::default() }
}

pub(crate) fn container(id: &str) -> Container {
    Container { id: id.into(), pod_sandbox_id: "p".into(), name: "main".into(), ..Container::default() }
}

pub(crate) fn creation(id: &str) -> CreateContainerRequest {
    CreateContainerRequest { pod: Some(pod("p")), container: Some(container(id)) }
}
