//! A node with a bystander: a pod with a running container that nothing may touch.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use e2e::cri::{ContainerState, ImageStatusRequest, PodSandboxState, RemoveImageRequest};
use e2e::image::{Image, Layer};
use e2e::{Client, Network, Node, Setup};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::faults::Armoury;
use super::procedures::{Before, Subject};

/// How long anything may take that is to come about by itself.
const SETTLES: Duration = Duration::from_secs(10);

/// The image of procedures of images.
const IMAGE: &str = "matrix:latest";

pub(super) struct Lane {
    /// Gone when it was given up.
    node: Option<Node>,
    pub(super) client: Client,
    pub(super) armoury: Armoury,
    pub(super) runtime: Arc<Runtime>,
    bystander: Bystander,
    /// What is there when the bystander is there alone.
    ground: BTreeSet<String>,
    _directory: TempDir,
}

struct Bystander {
    pod: String,
    container: String,
    processes: BTreeSet<u32>,
    started_at: i64,
}

impl Lane {
    /// A lane; `None` when the daemon knows of no faults.
    pub(super) fn start() -> Option<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = Arc::new(runtime.expect("an executor"));
        runtime.clone().block_on(Self::made(runtime))
    }

    async fn made(runtime: Arc<Runtime>) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        let faults = directory.path().to_str().expect("a path").to_owned();
        let node = Setup::new(Network::BuiltIn).environment(&[("KNARR_FAULTS", &faults)]).start().await;
        let armoury = Armoury::new(directory.path());
        armoury.passed()?;
        let client = node.client();
        client.pull(&node.registry.image("busybox:latest")).await.expect("the busybox image");
        let nobody = Bystander {
            pod: String::new(),
            container: String::new(),
            processes: BTreeSet::new(),
            started_at: 0,
        };
        let layers = ["one", "two"].map(|name| Layer::new().file(name, 0o644, name.as_bytes()));
        let image = layers.into_iter().fold(Image::new(serde_json::json!({})), Image::layer);
        image.push(node.registry.address(), IMAGE).await;
        let (node, ground) = (Some(node), BTreeSet::new());
        let mut lane =
            Self { node, client, armoury, runtime, bystander: nobody, ground, _directory: directory };
        lane.bystand().await;
        Some(lane)
    }

    async fn bystand(&mut self) {
        let subject = Subject::prepared(self, Before::Running).await.expect("a bystander");
        let (pod, container) = (subject.pod().to_owned(), subject.container().to_owned());
        let started_at = self.client.container(&container).await.expect("a status").started_at;
        // Until what the shell has cloned has become its command.
        let sleeps = async || {
            let processes = self.node().traces().processes();
            let sleeps = processes.iter().any(|(_, command)| command.starts_with("sleep"));
            if sleeps { Ok(()) } else { Err(format!("{processes:?}")) }
        };
        settles("the bystander's command", sleeps).await.expect("a bystander");
        let processes = self.node().processes_of(&container).into_iter().collect();
        self.bystander = Bystander { pod, container, processes, started_at };
        self.ground = self.there();
    }

    /// An image that no pod uses.
    pub(super) fn image(&self) -> String {
        self.node().registry.image(IMAGE)
    }

    pub(super) async fn has_image(&self) -> Result<bool, Status> {
        let image = Some(e2e::client::image_spec(&self.image()));
        let request = ImageStatusRequest { image, verbose: false };
        Ok(self.client.images.clone().image_status(request).await?.into_inner().image.is_some())
    }

    pub(super) async fn remove_image(&self) -> Result<(), Status> {
        let image = Some(e2e::client::image_spec(&self.image()));
        self.client.images.clone().remove_image(RemoveImageRequest { image }).await.map(drop)
    }

    /// `knarr image prune --all`, over the daemon's own service: its request has but that one field.
    pub(super) async fn prune(&self) -> Result<(), Status> {
        let mut service = tonic::client::Grpc::new(self.client.channel());
        service.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = PathAndQuery::from_static("/knarr.v1.Images/Prune");
        let codec = ProstCodec::<bool, ()>::default();
        service.unary(Request::new(true), path, codec).await.map(drop)
    }

    pub(super) fn node(&self) -> &Node {
        self.node.as_ref().expect("a node")
    }

    /// Kills the daemon, if it has not ended, and starts it again; an error when it didn't come up.
    pub(super) fn restart(&mut self) -> Result<(), String> {
        let node = self.node.as_mut().expect("a node");
        node.kill_daemon();
        let started = catch_unwind(AssertUnwindSafe(|| node.start_daemon()));
        self.client = node.client();
        started.map_err(|_| "the daemon did not come up".to_owned())
    }

    pub(super) async fn daemon_has_ended(&mut self) -> Result<(), String> {
        let node = self.node.as_mut().expect("a node");
        settles("the daemon's end", async || match node.has_ended() {
            Some(_) => Ok(()),
            None => Err("it runs".to_owned()),
        })
        .await
    }

    /// Supervisors of others than the bystander, and processes in the cgroups of their containers.
    pub(super) fn others(node: &e2e::leaks::Traces, bystander: &str) -> (Vec<i32>, Vec<i32>) {
        let of_others = node.processes().into_iter().filter(|(pid, command)| {
            !command.contains(bystander) && !cgroup(*pid).contains(bystander) && !command.contains(" serve ")
        });
        of_others.map(|(pid, command)| (pid, command.contains("knarr-supervisor"))).fold(
            (Vec::new(), Vec::new()),
            |(mut supervisors, mut workloads), (pid, is_supervisor)| {
                if is_supervisor {
                    supervisors.push(pid)
                } else {
                    workloads.push(pid)
                }
                (supervisors, workloads)
            },
        )
    }

    pub(super) fn bystander(&self) -> &str {
        &self.bystander.pod
    }

    /// The bystander is as it was, and lists answer.
    pub(super) async fn bystander_is_untouched(&self) -> Result<(), String> {
        settles("the bystander", async || self.bystander_as_it_was().await).await
    }

    async fn bystander_as_it_was(&self) -> Result<(), String> {
        let Bystander { pod, container, processes, started_at } = &self.bystander;
        let status = self.client.container(container).await.map_err(|status| status.to_string())?;
        let pods = self.client.pods().await.map_err(|status| status.to_string())?;
        let is_ready = pods
            .iter()
            .any(|listed| listed.id == *pod && listed.state == PodSandboxState::SandboxReady as i32);
        let now: BTreeSet<u32> = self.node().processes_of(container).into_iter().collect();
        let runs = status.state == ContainerState::ContainerRunning as i32;
        let executed = self.client.exec(container, &["true"], 10).await.map_err(|s| s.to_string())?;
        let is_as_it_was = is_ready
            && runs
            && now == *processes
            && status.started_at == *started_at
            && executed.exit_code == 0;
        if is_as_it_was { Ok(()) } else { Err(format!("the bystander was touched: {status:?}, {now:?}")) }
    }

    /// Takes all pods but the bystander's, and the image, away, and looks at what is left.
    pub(super) async fn clear(&self) -> Result<(), String> {
        for pod in self.client.pods().await.map_err(|status| status.to_string())? {
            if pod.id != self.bystander.pod {
                let failed = |what: &'static str| move |status| format!("{what} at the end: {status}");
                self.client.stop_pod(&pod.id).await.map_err(failed("stopping"))?;
                self.client.remove_pod(&pod.id).await.map_err(failed("removing"))?;
            }
        }
        self.remove_image().await.map_err(|status| format!("removing the image at the end: {status}"))?;
        settles("nothing to be left over", async || {
            let now = self.there();
            let differs: Vec<_> = now.symmetric_difference(&self.ground).cloned().collect();
            if differs.is_empty() { Ok(()) } else { Err(format!("left over: {differs:#?}")) }
        })
        .await
    }

    /// Processes, mounts, cgroups, addresses, ports of the bridge, and what is named after pods and containers on disk.
    fn there(&self) -> BTreeSet<String> {
        let daemon = format!("process {}:", self.node().pid());
        let found = self.node().traces().leftovers().into_iter();
        let mut found: BTreeSet<String> = found.filter(|line| !line.starts_with(&daemon)).collect();
        for place in ["state", "root"] {
            named(&self.node().path(place), 4, &mut found);
        }
        found
    }

    /// Ends it without judging: what a pair has left over is told already.
    pub(super) fn give_up(&mut self) {
        let node = self.node.take();
        let parents = node.as_ref().map(|node| node.traces().cgroup_parents()).unwrap_or_default();
        let ended = std::thread::spawn(move || {
            let _node = node;
            std::panic::resume_unwind(Box::new("given up"))
        });
        let _given_up: Result<(), _> = ended.join();
        // What was killed may take a moment to leave them, and the next lane may get the same name.
        self.runtime.clone().block_on(async {
            let gone = async || {
                parents.iter().for_each(|parent| e2e::node::remove_cgroups(parent));
                if parents.iter().any(|parent| parent.exists()) {
                    Err(format!("{parents:?}"))
                } else {
                    Ok(())
                }
            };
            settles("a lane's cgroups to go", gone).await.expect("no cgroups");
        });
    }

    /// Ends it, which looks at what the node has left.
    pub(super) fn end(self) {
        drop(self);
    }
}

/// Waits until an observation is `Ok`, and gives the last error when it never is.
pub(super) async fn settles(
    what: &str,
    mut observe: impl AsyncFnMut() -> Result<(), String>,
) -> Result<(), String> {
    let by = tokio::time::Instant::now() + e2e::patience(SETTLES);
    loop {
        match observe().await {
            Ok(()) => return Ok(()),
            Err(last) if tokio::time::Instant::now() > by => return Err(format!("{what}: {last}")),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

fn cgroup(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default()
}

/// Entries below a directory whose names are ids.
fn named(directory: &Path, depth: usize, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.len() >= 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            found.insert(format!("file {}", entry.path().display()));
        }
        if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            named(&entry.path(), depth - 1, found);
        }
    }
}
