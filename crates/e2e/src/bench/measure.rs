//! What is measured of a runtime, through CRI alone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_cri::v1::{ListContainerStatsRequest, NamespaceMode, PodSandboxConfig, RunPodSandboxRequest};

use super::peers::Peer;
use super::stages::Sums;
use crate::{Client, config};

/// Names of figures with what was measured, smaller is better unless the name says "a second".
pub type Figures = BTreeMap<String, Vec<f64>>;

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Life cycles one after another, on each network.
    pub cycles: usize,
    /// Pods started with ten in flight.
    pub burst: usize,
    /// Pods that stand while memory is read.
    pub standing: usize,
    /// Containers of a full node.
    pub crowd: usize,
    /// Pulls of each image.
    pub pulls: usize,
    /// Bytes through streams.
    pub streams: super::streams::Sizes,
}

/// Which of the figures are gained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// All.
    All,
    /// Those of pods on each network.
    Pods,
    /// Those of streams.
    Streams,
    /// Those of pulls.
    Pulls,
    /// Those of lists on a full node.
    Lists,
}

/// Which images are used, by reference.
#[derive(Debug, Clone)]
pub struct Images {
    /// Has `/bin/sleeper`-like behaviour under `sh`: busybox.
    pub busybox: String,
    /// Eight layers, by gzip.
    pub layered: String,
    /// The same layers by zstd.
    pub zstd: String,
    /// One layer of files of a few bytes.
    pub small_files: String,
}

/// How often each list is asked for.
const LISTS: usize = 20;

/// Pods under way at once in a burst.
const IN_FLIGHT: usize = 10;

/// Whether pods start at all: an old low-level runtime may refuse what a newer containerd asks for. What it left is removed.
///
/// # Errors
/// The runtime's own words.
pub async fn works(peer: &Peer, images: &Images) -> Result<(), String> {
    let client = peer.client();
    client.pull(&images.busybox).await.map_err(|status| status.to_string())?;
    let config = pod(peer, Network::Host, 0);
    let started = run(&client, peer, &config).await.map_err(|status| status.message().to_owned());
    for pod in client.pods().await.map_err(|status| status.to_string())? {
        // What didn't start may be half there.
        let _ = client.stop_pod(&pod.id).await;
        let _ = client.remove_pod(&pod.id).await;
    }
    started.map(drop)
}

/// Measures everything.
///
/// # Panics
/// When a call fails: a figure without its work is none.
pub async fn all(peer: &Peer, images: &Images, (rows, effort): (Rows, Effort)) -> Figures {
    let mut figures = Figures::new();
    let client = peer.client();
    if rows == Rows::Streams {
        super::streams::all(peer, images, effort.streams, &mut figures).await;
        return figures;
    }
    if rows == Rows::Pulls {
        super::pulls::all(peer, images, effort.pulls, &mut figures).await;
        return figures;
    }
    if rows == Rows::Lists {
        super::crowd::lists(peer, &images.busybox, effort.crowd, &mut figures).await;
        return figures;
    }
    if rows == Rows::Pods {
        client.pull(&images.busybox).await.expect("a pull");
        for network in [Network::Host, Network::Cni] {
            pods(peer, (network, images), effort, &mut figures).await;
        }
        return figures;
    }
    add(&mut figures, "daemon PSS, before the first pull, MiB", mib(peer.memory().0));
    super::pulls::all(peer, images, effort.pulls, &mut figures).await;
    client.pull(&images.busybox).await.expect("a pull");
    // What pulls have freed is given back in the background.
    settled(peer).await;
    let idle = peer.memory();
    add(&mut figures, "daemon PSS, idle, MiB", mib(idle.0));
    for network in [Network::Host, Network::Cni] {
        pods(peer, (network, images), effort, &mut figures).await;
    }
    standing(peer, images, effort.standing, &mut figures).await;
    super::crowd::lists(peer, &images.busybox, effort.crowd, &mut figures).await;
    super::streams::all(peer, images, effort.streams, &mut figures).await;
    super::logs::throughput(peer, &images.busybox, &mut figures).await;
    figures
}

/// Measures pods on the network of a daemon that serves plugins itself, under names of their own.
///
/// # Panics
/// As [`all`].
pub async fn native(peer: &Peer, images: &Images, effort: Effort) -> Figures {
    let mut figures = Figures::new();
    peer.client().pull(&images.busybox).await.expect("a pull");
    pods(peer, (Network::Cni, images), effort, &mut figures).await;
    figures.into_iter().map(|(name, values)| (format!("{NATIVE}{name}"), values)).collect()
}

/// Before the names of figures that others have without it: their plugins are always executed.
pub(super) const NATIVE: &str = "native ";

/// Life cycles of pods, one after another and ten at once.
async fn pods(peer: &Peer, (network, images): (Network, &Images), effort: Effort, figures: &mut Figures) {
    for _ in 0..3 {
        cycle(peer, network, &images.busybox, &mut Figures::new()).await;
    }
    let (before, stages) = (peer.processor_time(), Sums::read(&peer.log()));
    for _ in 0..effort.cycles {
        cycle(peer, network, &images.busybox, figures).await;
    }
    let each = (peer.processor_time() - before) as f64 / 1e6 / effort.cycles as f64;
    add(figures, &format!("{}: processor time per life cycle, ms", network.name()), each);
    Sums::read(&peer.log()).add_since(&stages, (network.name(), effort.cycles), figures);
    burst(peer, network, images, effort.burst, figures).await;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Network {
    Host,
    Cni,
}

impl Network {
    fn name(self) -> &'static str {
        match self {
            Self::Host => "host network",
            Self::Cni => "CNI",
        }
    }
}

pub(super) fn add(figures: &mut Figures, name: &str, value: f64) {
    figures.entry(name.to_owned()).or_default().push(value);
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

pub(super) async fn timed<T>(
    figures: &mut Figures,
    name: &str,
    work: impl Future<Output = Result<T, tonic::Status>>,
) -> T {
    let begun = Instant::now();
    let value = work.await.unwrap_or_else(|status| panic!("{name}: {status}"));
    add(figures, name, begun.elapsed().as_secs_f64() * 1000.0);
    value
}

pub(super) fn pod(peer: &Peer, network: Network, number: usize) -> PodSandboxConfig {
    static SERIAL: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let serial = SERIAL.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let logs = peer.path("logs").join(serial.to_string());
    std::fs::create_dir_all(&logs).expect("a log directory");
    let config = config::pod(&format!("bench-{number}-{serial}"), &format!("{}/pods", peer.cgroup), &logs);
    if network == Network::Cni {
        return config;
    }
    // As kubelet does: such a pod has the host's UTS namespace, in which runc sets no name.
    PodSandboxConfig { hostname: String::new(), ..config::on_host_network(config) }
}

pub(super) async fn run(
    client: &Client,
    peer: &Peer,
    config: &PodSandboxConfig,
) -> Result<String, tonic::Status> {
    let request = RunPodSandboxRequest {
        config: Some(config.clone()),
        runtime_handler: peer.kind.handler().to_owned(),
    };
    Ok(client.runtime.clone().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
}

/// Ends on SIGTERM also as the first process of its namespace.
const WAITING: [&str; 3] = ["sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"];

pub(super) fn container(network: Network, image: &str) -> k8s_cri::v1::ContainerConfig {
    let mut wanted = config::container("main", image, &WAITING);
    let context = config::security(&mut wanted);
    let net = if network == Network::Host { NamespaceMode::Node } else { NamespaceMode::Pod };
    context.namespace_options = Some(config::namespaces(net, NamespaceMode::Container));
    context.seccomp = Some(k8s_cri::v1::SecurityProfile::default());
    wanted
}

/// One pod from its start to its removal.
async fn cycle(peer: &Peer, network: Network, image: &str, figures: &mut Figures) {
    let client = peer.client();
    client.pods().await.expect("a connection");
    let name = |step: &str| format!("{}: {step}, ms", network.name());
    let config = pod(peer, network, 0);
    let begun = Instant::now();
    let pod = timed(figures, &name("RunPodSandbox"), run(&client, peer, &config)).await;
    let wanted = container(network, image);
    let id = timed(figures, &name("CreateContainer"), client.create(&pod, wanted, &config)).await;
    timed(figures, &name("StartContainer"), client.start(&id)).await;
    add(figures, &name("pod start"), begun.elapsed().as_secs_f64() * 1000.0);
    timed(figures, &name("ExecSync"), client.exec(&id, &["true"], 10)).await;
    timed(figures, &name("StopContainer"), client.stop(&id, 10)).await;
    timed(figures, &name("StopPodSandbox"), client.stop_pod(&pod)).await;
    timed(figures, &name("RemovePodSandbox"), client.remove_pod(&pod)).await;
}

/// A pod with a running container.
async fn start(client: Client, peer: &Peer, network: Network, image: &str, number: usize) -> String {
    let config = pod(peer, network, number);
    let pod = run(&client, peer, &config).await.expect("a pod");
    let id = client.create(&pod, container(network, image), &config).await.expect("a container");
    client.start(&id).await.expect("a start");
    pod
}

pub(super) async fn remove(client: &Client, pods: Vec<String>) {
    for pod in pods {
        client.stop_pod(&pod).await.expect("a stop");
        client.remove_pod(&pod).await.expect("a removal");
    }
}

async fn burst(peer: &Peer, network: Network, images: &Images, count: usize, figures: &mut Figures) {
    use tokio_stream::StreamExt;
    let client = peer.client();
    let begun = Instant::now();
    let mut pods = Vec::new();
    let mut waiting = futures::stream::FuturesUnordered::new();
    for number in 0..count {
        waiting.push(start(client.clone(), peer, network, &images.busybox, number));
        if waiting.len() == IN_FLIGHT {
            pods.extend(waiting.next().await);
        }
    }
    while let Some(pod) = waiting.next().await {
        pods.push(pod);
    }
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    add(figures, &format!("{}: pods started a second, 10 in flight", network.name()), rate);
    remove(&client, pods).await;
}

async fn standing(peer: &Peer, images: &Images, count: usize, figures: &mut Figures) {
    let client = peer.client();
    let idle = peer.memory();
    let mut pods = Vec::new();
    for number in 0..count {
        pods.push(start(client.clone(), peer, Network::Host, &images.busybox, number).await);
    }
    // What was freed after the last start is given back in the background.
    settled(peer).await;
    let (daemon, all) = peer.memory();
    add(figures, "daemon PSS, with standing pods, MiB", mib(daemon));
    let helpers = (all - daemon).saturating_sub(idle.1 - idle.0);
    add(figures, "per pod, its own processes of the runtime, PSS, MiB", mib(helpers) / count as f64);
    // The daemon's growth is a cost of the pods, too.
    add(
        figures,
        "per pod, all processes of the runtime, PSS, MiB",
        mib(all.saturating_sub(idle.1)) / count as f64,
    );
    lists(&client, figures).await;
    remove(&client, pods).await;
}

/// The lists that kubelet asks for again and again, with the standing pods. A runtime without one has no figure.
async fn lists(client: &Client, figures: &mut Figures) {
    let mut runtime = client.runtime.clone();
    let answers = runtime.list_container_stats(ListContainerStatsRequest::default()).await.is_ok();
    for _ in 0..LISTS {
        timed(figures, "ListContainers, ms", client.containers()).await;
        if answers {
            let stats = runtime.list_container_stats(ListContainerStatsRequest::default());
            timed(figures, "ListContainerStats, ms", stats).await;
        }
    }
}

/// How often memory is read until it has settled, and for how long: longer than any of the daemons waits before it gives back.
const SETTLING: (Duration, Duration) = (Duration::from_secs(8), Duration::from_secs(120));

/// Waits until two readings of the memory agree within a part in a hundred.
pub(super) async fn settled(peer: &Peer) {
    let last = std::cell::Cell::new(0);
    crate::until_each(SETTLING, "memory to settle", || {
        let now = peer.memory().1;
        let before = last.replace(now);
        async move { if now.abs_diff(before) * 100 <= now { Ok(()) } else { Err((before, now)) } }
    })
    .await;
}
