//! One pod from its start to its removal, as kubelet drives it.

use std::time::Duration;

use e2e::cri::{ContainerState, PodSandboxState};
use e2e::{Network, Node, until};
use tonic::Code;

#[tokio::test]
async fn a_pod_runs_and_is_gone() {
    let node = Node::start(Network::BuiltIn).await;
    let client = node.client();
    let config = node.pod();
    let image = node.registry.image("busybox:latest");
    client.pull(&image).await.unwrap();

    let pod = client.run_pod(config.clone()).await.unwrap();
    let status = client.pod(&pod).await.unwrap();
    assert_eq!(status.state, PodSandboxState::SandboxReady as i32);
    let ip = status.network.expect("a network status").ip;
    assert!(ip.starts_with(&node.subnet()), "address {ip}");

    let script = "echo to-out; echo to-err >&2; trap 'exit 3' TERM; while :; do sleep 0.05; done";
    let container = client.create(&pod, node.busybox("main", &["sh", "-c", script]), &config).await.unwrap();
    assert_eq!(client.container(&container).await.unwrap().state, ContainerState::ContainerCreated as i32);
    client.start(&container).await.unwrap();
    let running = client.container(&container).await.unwrap();
    assert_eq!(running.state, ContainerState::ContainerRunning as i32);
    assert!(running.started_at >= running.created_at);

    let log = std::path::Path::new(&config.log_directory).join("main.log");
    let text = until(Duration::from_secs(10), "two log lines", || async {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        if text.lines().count() == 2 { Ok(text) } else { Err(text) }
    })
    .await;
    assert!(text.contains(" stdout F to-out\n") && text.contains(" stderr F to-err\n"), "{text}");

    let output = client.exec(&container, &["sh", "-c", "hostname; echo oops >&2; exit 5"], 10).await.unwrap();
    let hostname = config.hostname.clone();
    assert_eq!(
        (output.stdout, output.stderr, output.exit_code),
        (format!("{hostname}\n"), "oops\n".into(), 5)
    );

    client.stop(&container, 10).await.unwrap();
    let exited = client.container(&container).await.unwrap();
    assert_eq!((exited.state, exited.exit_code), (ContainerState::ContainerExited as i32, 3));
    assert_eq!(exited.reason, "Error");
    client.remove(&container).await.unwrap();
    assert_eq!(client.container(&container).await.unwrap_err().code(), Code::NotFound);

    client.stop_pod(&pod).await.unwrap();
    let stopped = client.pod(&pod).await.unwrap();
    assert_eq!(stopped.state, PodSandboxState::SandboxNotready as i32);
    client.remove_pod(&pod).await.unwrap();
    assert_eq!(client.pod(&pod).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn stop_and_remove_are_idempotent_and_forgive_the_unknown() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    let config = node.pod();
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    let pod = client.run_pod(config.clone()).await.unwrap();
    let container = client.create(&pod, node.busybox("main", &["sleep", "1000"]), &config).await.unwrap();
    client.start(&container).await.unwrap();
    for _ in 0..2 {
        client.stop(&container, 0).await.unwrap();
    }
    for _ in 0..2 {
        client.stop_pod(&pod).await.unwrap();
    }
    for _ in 0..2 {
        client.remove(&container).await.unwrap();
    }
    for _ in 0..2 {
        client.remove_pod(&pod).await.unwrap();
    }
    let unknown = "0123456789abcdef".repeat(4);
    client.stop(&unknown, 0).await.unwrap();
    client.remove(&unknown).await.unwrap();
    client.stop_pod(&unknown).await.unwrap();
    client.remove_pod(&unknown).await.unwrap();
    assert_eq!(client.start(&unknown).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_retried_request_finds_the_finished_work() {
    let node = Node::start(Network::BuiltIn).await;
    let client = node.client();
    let config = node.pod();
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    let (first, second) = tokio::join!(client.run_pod(config.clone()), client.run_pod(config.clone()));
    let pod = first.unwrap();
    assert_eq!(pod, second.unwrap(), "two requests for one name make one pod");
    let wanted = || node.busybox("main", &["sleep", "1000"]);
    let (first, second) =
        tokio::join!(client.create(&pod, wanted(), &config), client.create(&pod, wanted(), &config));
    assert_eq!(first.unwrap(), second.unwrap(), "two requests for one name make one container");
    assert_eq!(client.pods().await.unwrap().len(), 1);
    assert_eq!(client.containers().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_stop_that_is_ignored_becomes_a_kill_after_the_grace_period() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    let config = node.pod();
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    let pod = client.run_pod(config.clone()).await.unwrap();
    let script = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let container = client.create(&pod, node.busybox("deaf", &["sh", "-c", script]), &config).await.unwrap();
    client.start(&container).await.unwrap();
    let log = std::path::Path::new(&config.log_directory).join("deaf.log");
    until(Duration::from_secs(10), "the trap", || async {
        std::fs::read_to_string(&log).ok().filter(|text| text.contains("ready")).ok_or("not ready")
    })
    .await;
    let begun = std::time::Instant::now();
    client.stop(&container, 1).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1), "the grace period was honoured");
    let status = client.container(&container).await.unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
}

#[tokio::test]
async fn two_daemons_run_side_by_side() {
    let (one, two) = (Node::start(Network::BuiltIn).await, Node::start(Network::BuiltIn).await);
    for node in [&one, &two] {
        let client = node.client();
        let config = node.pod();
        client.pull(&node.registry.image("busybox:latest")).await.unwrap();
        let pod = client.run_pod(config.clone()).await.unwrap();
        let container = client.create(&pod, node.busybox("main", &["sleep", "1000"]), &config).await.unwrap();
        client.start(&container).await.unwrap();
    }
    for node in [&one, &two] {
        assert_eq!(node.client().pods().await.unwrap().len(), 1, "each sees its own pod alone");
        let images = node.client().images.clone();
        let listed = { images }.list_images(e2e::cri::ListImagesRequest { filter: None }).await.unwrap();
        assert_eq!(listed.into_inner().images.len(), 1);
    }
}

#[tokio::test]
async fn a_second_daemon_on_the_same_directories_is_refused() {
    let node = Node::start(Network::BuiltIn).await;
    for taken in ["root", "state", "bridge"] {
        let beside =
            |name: &str| node.path(&if name == taken { name.to_owned() } else { format!("other-{name}") });
        let mut daemon = std::process::Command::new(e2e::node::binary("knarr"));
        daemon.arg("serve").arg("--listen").arg(format!("unix://{}", node.path("other.sock").display()));
        daemon.arg("--root").arg(beside("root")).arg("--state").arg(beside("state"));
        if taken == "bridge" {
            daemon.arg("--config").arg(node.path("knarr.toml"));
        }
        let output = daemon.stdin(std::process::Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("another daemon"), "{taken}: {said}");
        let is_named = said.contains(&format!("process {}", node.pid()));
        assert_eq!(is_named, taken != "bridge", "{taken}: {said}");
    }
}
