//! Lists on a node that is full: a thousand containers, a hundred in each pod. And what each further container of a pod takes.

use proto::runtime::v1 as cri;
use proto::runtime::v1::runtime_service_client::RuntimeServiceClient;

use k8s_cri::v1::PodSandboxConfig;

use super::measure::{Figures, Network, add, container, pod, remove, run, settled, timed};
use super::peers::Peer;
use crate::Client;

/// Containers in each pod.
const IN_A_POD: usize = 100;

/// As many as peers' lists are compared with.
const FEW: usize = 100;

/// How often each list is asked for: peers take a second and more for one.
const LISTS: usize = 5;

/// As much as the largest answer takes, with room.
const LARGEST: usize = 256 << 20;

/// Measures the lists with so many containers running.
pub(super) async fn lists(peer: &Peer, image: &str, containers: usize, figures: &mut Figures) {
    let client = peer.client();
    client.pull(image).await.expect("a pull");
    let mut pods = Vec::new();
    for number in 0..containers.div_ceil(IN_A_POD) {
        let config = pod(peer, Network::Host, number);
        let id = run(&client, peer, &config).await.expect("a pod");
        start(&client, (&id, &config), (image, 0)).await;
        pods.push((id, config));
    }
    settled(peer).await;
    let first = peer.memory().1;
    let mut started = pods.len();
    for (number, (id, config)) in pods.iter().enumerate() {
        for member in 1..IN_A_POD.min(containers - number * IN_A_POD) {
            start(&client, (id, config), (image, member)).await;
            started += 1;
            if started == FEW && containers > FEW {
                ask(&client, started, figures).await;
            }
        }
    }
    settled(peer).await;
    let further = (started - pods.len()).max(1) as f64;
    let memory = peer.memory().1.saturating_sub(first) as f64 / 1024.0;
    add(figures, "per further container of a pod, PSS, MiB", memory / further);
    ask(&client, containers, figures).await;
    let pods = pods.into_iter().map(|(id, _)| id).collect();
    remove(&client, pods).await;
}

async fn start(client: &Client, (pod, config): (&str, &PodSandboxConfig), (image, member): (&str, usize)) {
    let mut wanted = container(Network::Host, image);
    wanted.metadata.get_or_insert_default().name = format!("c{member}");
    let made = client.create(pod, wanted, config).await.expect("a container");
    client.start(&made).await.expect("a start");
}

async fn ask(client: &Client, containers: usize, figures: &mut Figures) {
    let mut runtime = RuntimeServiceClient::new(client.channel()).max_decoding_message_size(LARGEST);
    let of = |name: &str| format!("{name} of {containers} containers, ms");
    for _ in 0..LISTS {
        timed(figures, &of("ListContainers"), client.containers()).await;
        let stats = runtime.list_container_stats(cri::ListContainerStatsRequest::default());
        timed(figures, &of("ListContainerStats"), stats).await;
        let stats = runtime.list_pod_sandbox_stats(cri::ListPodSandboxStatsRequest::default());
        timed(figures, &of("ListPodSandboxStats"), stats).await;
        let metrics = runtime.list_pod_sandbox_metrics(cri::ListPodSandboxMetricsRequest {});
        timed(figures, &of("ListPodSandboxMetrics"), metrics).await;
    }
}
