//! The machine is booted: processes, cgroups, links and rules are gone; the root directory is kept.
//!
//! Addresses are given back: see `pod_networks/reboot.rs`, for each kind of network.

use std::path::PathBuf;
use std::sync::Arc;

use e2e::cri::{ContainerState, PodSandboxMetadata, PodSandboxState, ReopenContainerLogRequest};
use e2e::node::PATIENCE;
use e2e::{Client, Netns, Network, Node, Setup, until};
use nix::sys::signal::Signal;

use crate::{Started, kill, start};

/// What becomes of the state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is on a tmpfs, as it should be.
    Lost,
    /// It is on a disk.
    Kept,
}

async fn boot(node: &mut Node, host: &Netns, state: State) {
    node.kill_daemon();
    let traces = node.traces();
    for (pid, _) in traces.processes() {
        kill(pid, Signal::SIGKILL);
    }
    until(PATIENCE, "the end of all processes", || async {
        let left = traces.processes();
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
    for cgroup in traces.cgroup_parents() {
        e2e::node::remove_cgroups(&cgroup);
    }
    for link in host.links("type bridge").into_iter().chain(host.links("type veth")) {
        host.sh(&format!("ip link del {link} 2>/dev/null || :"));
    }
    host.sh("nft flush ruleset 2>/dev/null || :");
    match state {
        State::Lost => std::fs::remove_dir_all(node.path("state")).unwrap(),
        State::Kept => std::fs::write(node.path("state/boot"), "another\n").unwrap(),
    }
}

async fn node(host: &Arc<Netns>) -> (Node, Client) {
    let node = Setup::new(Network::BuiltIn).inside(host).start().await;
    let client = node.client();
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    (node, client)
}

async fn images(client: &Client) -> Vec<String> {
    let request = e2e::cri::ListImagesRequest { filter: None };
    let images = client.images.clone().list_images(request).await.unwrap().into_inner().images;
    images.into_iter().map(|image| image.id).collect()
}

/// Runs what ran before, from the images that are there.
async fn runs_again(node: &Node, client: &Client, metadata: PodSandboxMetadata) {
    let config = e2e::cri::PodSandboxConfig { metadata: Some(metadata), ..node.pod() };
    let pod = client.run_pod(config.clone()).await.expect("a pod of the name");
    let container = client.create(&pod, node.busybox("main", &["sleep", "1000"]), &config).await.unwrap();
    client.start(&container).await.unwrap();
    assert_eq!(client.exec(&container, &["true"], 20).await.unwrap().exit_code, 0);
}

/// Roots of containers, which are held by those that there are.
fn roots(node: &Node) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(node.path("root/containers")).into_iter().flatten().flatten();
    let named = entries.map(|entry| entry.path());
    named.filter(|path| path.file_name().is_some_and(|name| name.len() == 64)).collect()
}

#[tokio::test]
async fn a_state_that_is_lost_takes_the_pods_along_and_nothing_else() {
    let host = Arc::new(Netns::new());
    let (mut node, client) = node(&host).await;
    let ran = start(&node, &client, "echo before; exec sleep 1000").await;
    until(PATIENCE, "its output", || async {
        if std::fs::read_to_string(&ran.log).unwrap_or_default().contains("before") {
            Ok(())
        } else {
            Err("nothing")
        }
    })
    .await;
    let (metadata, before) = (client.pod(&ran.pod).await.unwrap().metadata.unwrap(), images(&client).await);
    boot(&mut node, &host, State::Lost).await;
    node.start_daemon();
    let client = node.client();
    assert!(client.pods().await.unwrap().is_empty() && client.containers().await.unwrap().is_empty());
    assert_eq!(images(&client).await, before, "and none is pulled again");
    assert_eq!(roots(&node), Vec::<PathBuf>::new());
    assert!(std::fs::read_to_string(&ran.log).unwrap().contains("stdout F before"), "the log is kubelet's");
    runs_again(&node, &client, metadata).await;
}

/// A container that has ended, one that runs, one that was only created.
async fn three(node: &Node, client: &Client) -> (Started, Started, String) {
    let ended = start(node, client, "echo ended; exit 7").await;
    client.exited(&ended.container).await;
    let ran = start(node, client, "echo ran; exec sleep 1000").await;
    let created = client.create(&ran.pod, node.busybox("created", &["true"]), &node.pod()).await.unwrap();
    (ended, ran, created)
}

#[tokio::test]
async fn a_state_that_is_kept_tells_what_has_ended_with_the_boot() {
    let host = Arc::new(Netns::new());
    let (mut node, client) = node(&host).await;
    let (ended, ran, created) = three(&node, &client).await;
    let metadata = client.pod(&ran.pod).await.unwrap().metadata.unwrap();
    boot(&mut node, &host, State::Kept).await;
    node.start_daemon();
    let client = node.client();
    let status = async |id: &str| client.container(id).await.unwrap();
    let (before, lost) = (status(&ended.container).await, status(&ran.container).await);
    assert_eq!((before.exit_code, before.reason.as_str()), (7, "Error"), "{before:?}");
    assert_eq!((lost.exit_code, lost.reason.as_str()), (255, "SupervisorLost"), "{lost:?}");
    assert!(lost.message.contains("the machine was booted"), "{lost:?}");
    assert_eq!(lost.state, ContainerState::ContainerExited as i32);
    assert_eq!(status(&created).await.state, ContainerState::ContainerCreated as i32);
    for pod in client.pods().await.unwrap() {
        assert_eq!(pod.state, PodSandboxState::SandboxNotready as i32);
    }
    let refused = client.start(&created).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");
    assert!(std::fs::read_to_string(&ran.log).unwrap().contains("stdout F ran"));
    let reopen = ReopenContainerLogRequest { container_id: ran.container.clone() };
    let refused = client.runtime.clone().reopen_container_log(reopen).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");
    // The next attempt of the pod, while the last one is still there.
    runs_again(&node, &client, PodSandboxMetadata { attempt: metadata.attempt + 1, ..metadata }).await;
    client.remove(&ran.container).await.unwrap();
    for pod in [&ended.pod, &ran.pod] {
        client.stop_pod(pod).await.unwrap();
        client.remove_pod(pod).await.unwrap();
    }
    assert_eq!(client.pods().await.unwrap().len(), 1);
    assert_eq!(roots(&node).len(), 1);
}

/// What a power cut leaves of files that nobody has synced: lengths without bytes. After the boot there is nothing behind them.
#[tokio::test]
async fn records_that_a_power_cut_has_damaged_keep_nothing() {
    let host = Arc::new(Netns::new());
    let (mut node, client) = node(&host).await;
    let (ended, ran, created) = three(&node, &client).await;
    let metadata = client.pod(&ended.pod).await.unwrap().metadata.unwrap();
    boot(&mut node, &host, State::Kept).await;
    let pod = |id: &str| node.path("state/pods").join(id);
    std::fs::write(pod(&ended.pod).join("record.json"), "").unwrap();
    std::fs::write(pod(&ran.pod).join("containers").join(&created).join("record.json"), [0; 64]).unwrap();
    std::fs::write(pod(&ran.pod).join("containers").join(&ran.container).join("plan.json"), "{\"ver")
        .unwrap();
    node.start_daemon();
    let client = node.client();
    assert_eq!(client.pods().await.unwrap().len(), 1);
    assert_eq!(client.containers().await.unwrap().len(), 1);
    assert_eq!(client.container(&ran.container).await.unwrap().exit_code, 255);
    assert_eq!(roots(&node).len(), 1, "what belongs to nobody has gone");
    runs_again(&node, &client, metadata).await;
}
