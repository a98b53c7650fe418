//! Pods go, whatever their network says.

use std::sync::Arc;

use e2e::cri::PodSandboxState;
use e2e::{Client, Netns, Node, needs, node::PATIENCE, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{all_is_well, kept, node, node_on, nothing_is_kept};

async fn stopped_and_removed(client: &Client, pod: &str) {
    client.stop_pod(pod).await.unwrap_or_else(|status| panic!("stopping: {status}"));
    client.remove_pod(pod).await.unwrap_or_else(|status| panic!("removing: {status}"));
}

#[tokio::test]
async fn while_a_plugin_is_uninstalled() {
    needs!("bridge", "host-local", "portmap");
    let mut node = node().await;
    let client = node.client();
    let pod = client.run_pod(node.pod()).await.unwrap();
    let (place, aside) = (node.path("plugins/between"), node.path("between"));
    std::fs::rename(&place, &aside).unwrap();
    stopped_and_removed(&client, &pod).await;
    assert_eq!(kept(&node).len(), 1, "what is put off is written down, the address is given back");
    // A pod isn't made by half a chain.
    let refused = client.run_pod(node.pod()).await.unwrap_err();
    assert!(refused.message().contains("between"), "{refused}");
    std::fs::rename(&aside, &place).unwrap();
    node.stop_daemon();
    node.start_daemon();
    nothing_is_kept(&node).await;
    until(PATIENCE, "the network to be ready", || async {
        node.client().run_pod(node.pod()).await.map(drop).map_err(|status| status.to_string())
    })
    .await;
}

#[tokio::test]
async fn while_nothing_is_configured() {
    needs!("bridge", "host-local", "portmap");
    let mut node = node().await;
    let client = node.client();
    let (first, second) =
        (client.run_pod(node.pod()).await.unwrap(), client.run_pod(node.pod()).await.unwrap());
    let (place, aside) = (node.path("cni/10-faults.conflist"), node.path("10-faults.conflist"));
    std::fs::rename(&place, &aside).unwrap();
    stopped_and_removed(&client, &first).await;
    node.stop_daemon();
    node.start_daemon();
    let client = node.client();
    let status = client.pod(&second).await.unwrap();
    assert_eq!(status.state, PodSandboxState::SandboxReady as i32);
    stopped_and_removed(&client, &second).await;
    nothing_is_kept(&node).await;
}

#[tokio::test]
async fn though_a_plugin_fails_for_ever() {
    needs!("bridge", "host-local", "portmap");
    let mut node = node().await;
    let client = node.client();
    let pod = client.run_pod(node.pod()).await.unwrap();
    let place = node.path("plugins/between");
    std::fs::rename(&place, node.path("between")).unwrap();
    let failing = "#!/bin/sh\necho '{\"code\":107,\"msg\":\"never\",\"details\":\"ever\"}'; exit 1\n";
    std::fs::write(&place, failing).unwrap();
    std::process::Command::new("chmod").arg("755").arg(&place).status().unwrap();
    for _ in 0..2 {
        let failed = client.stop_pod(&pod).await.unwrap_err();
        let message = failed.message();
        for word in ["'between'", "DEL", "never", "ever", "107"] {
            assert!(message.contains(word), "{word}: {message}");
        }
        assert_eq!(message.matches("never").count(), 1, "{message}");
    }
    client.remove_pod(&pod).await.expect("removal is never blocked by it");
    assert!(client.pods().await.unwrap().is_empty());
    std::fs::rename(node.path("between"), &place).unwrap();
    node.stop_daemon();
    node.start_daemon();
    nothing_is_kept(&node).await;
    all_is_well(&node, &node.client()).await;
}

/// State is on a tmpfs, processes, links and rules are the kernel's; root survives.
#[tokio::test]
async fn after_a_reboot() {
    needs!("bridge", "host-local", "portmap");
    let host = Arc::new(Netns::new());
    let mut node = node_on(&host).await;
    let client = node.client();
    for _ in 0..3 {
        client.run_pod(node.pod()).await.unwrap();
    }
    assert_eq!(kept(&node).len(), 6);
    node.kill_daemon();
    end_all(&node).await;
    host.sh("nft flush ruleset");
    std::fs::remove_dir_all(node.path("state")).unwrap();
    node.start_daemon();
    let client = node.client();
    assert!(client.pods().await.unwrap().is_empty());
    nothing_is_kept(&node).await;
    all_is_well(&node, &client).await;
}

/// Kills what a boot would, and waits until it is gone.
async fn end_all(node: &Node) {
    until(PATIENCE, "the supervisors' end", || async {
        let processes = node.traces().processes();
        for (pid, _) in &processes {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        if processes.is_empty() { Ok(()) } else { Err(processes) }
    })
    .await;
    for cgroup in node.traces().cgroups() {
        remove(&cgroup);
    }
}

fn remove(cgroup: &std::path::Path) {
    for entry in
        std::fs::read_dir(cgroup).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir())
    {
        remove(&entry.path());
    }
    let _ = std::fs::remove_dir(cgroup);
}
