//! The daemon is killed before, during and after each plugin of the chain.

use e2e::cri::{PodSandboxConfig, PortMapping};
use e2e::{Client, Node, needs, node::PATIENCE, until};

use crate::{all_is_well, node, nothing_is_kept};

/// `host-local` is called by `bridge`, which is in the middle of its work then.
const PLACES: &[&str] = &[
    "before bridge",
    "before host-local",
    "after host-local",
    "after bridge",
    "before between",
    "after between",
    "before portmap",
    "after portmap",
];

/// Has a plugin wait, `<verb> <place> <plugin>`.
fn order(node: &Node, verb: &str, place: &str) {
    for file in ["go", "reached"] {
        let _ = std::fs::remove_file(node.path(file));
    }
    std::fs::write(node.path("order"), format!("{verb} {place}\n")).unwrap();
}

/// Kills the daemon when the plugin waits, starts it again, and lets the plugin go on: one that detaches at once, as the
/// next daemon waits for it, any other if it is still there.
async fn kill_there(node: &mut Node, verb: &str, place: &str) -> Client {
    until(PATIENCE, &format!("the plugin to be at its place: {place}"), || async {
        if node.path("reached").exists() { Ok(()) } else { Err(node.log_tail()) }
    })
    .await;
    node.kill_daemon();
    std::fs::remove_file(node.path("order")).unwrap();
    let go_on = |node: &Node| std::fs::write(node.path("go"), "").unwrap();
    if verb == "DEL" {
        go_on(node);
    }
    node.start_daemon();
    go_on(node);
    node.client()
}

fn pod(node: &Node) -> PodSandboxConfig {
    let mut config = node.pod();
    config.port_mappings =
        vec![PortMapping { container_port: 80, host_port: 8090, ..PortMapping::default() }];
    config
}

#[tokio::test]
async fn while_a_pod_is_attached() {
    needs!("bridge", "host-local", "portmap");
    let mut node = node().await;
    for place in PLACES {
        order(&node, "ADD", place);
        let config = pod(&node);
        let making = tokio::spawn({
            let (client, config) = (node.client(), config.clone());
            async move { client.run_pod(config).await }
        });
        let client = kill_there(&mut node, "ADD", place).await;
        making.await.unwrap().expect_err("its daemon was killed");
        // It had told nobody of the pod, which the next daemon takes down.
        until(PATIENCE, "the unfinished pod to be gone", || async {
            let pods = client.pods().await.unwrap();
            if pods.is_empty() { Ok(()) } else { Err((place, pods)) }
        })
        .await;
        nothing_is_kept(&node).await;
        let pod =
            client.run_pod(config).await.unwrap_or_else(|status| panic!("{place}: the retry: {status}"));
        client.stop_pod(&pod).await.unwrap();
        client.remove_pod(&pod).await.unwrap();
        nothing_is_kept(&node).await;
    }
}

#[tokio::test]
async fn while_a_pod_is_detached() {
    needs!("bridge", "host-local", "portmap");
    let mut node = node().await;
    for place in PLACES {
        let client = node.client();
        let pod = client.run_pod(pod(&node)).await.unwrap();
        order(&node, "DEL", place);
        let stopping = tokio::spawn({
            let (client, pod) = (node.client(), pod.clone());
            async move { client.stop_pod(&pod).await }
        });
        let client = kill_there(&mut node, "DEL", place).await;
        stopping.await.unwrap().expect_err("its daemon was killed");
        client.stop_pod(&pod).await.unwrap_or_else(|status| panic!("{place}: the retry: {status}"));
        client.remove_pod(&pod).await.unwrap();
        nothing_is_kept(&node).await;
    }
    all_is_well(&node, &node.client()).await;
}
