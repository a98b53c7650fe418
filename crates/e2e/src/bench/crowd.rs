//! Lists on a node that is full: a thousand containers, a hundred in each pod.

use proto::runtime::v1 as cri;
use proto::runtime::v1::runtime_service_client::RuntimeServiceClient;

use super::measure::{Figures, Network, container, pod, remove, run, timed};
use super::peers::Peer;

/// Containers in each pod.
const IN_A_POD: usize = 100;

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
        pods.push(id.clone());
        for member in 0..IN_A_POD.min(containers - number * IN_A_POD) {
            let mut wanted = container(Network::Host, image);
            wanted.metadata.get_or_insert_default().name = format!("c{member}");
            let made = client.create(&id, wanted, &config).await.expect("a container");
            client.start(&made).await.expect("a start");
        }
    }
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
    remove(&client, pods).await;
}
