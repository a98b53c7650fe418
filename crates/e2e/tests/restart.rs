//! The daemon is killed or ended at any moment: pods go on, exits and log lines are known afterwards.

use std::path::Path;
use std::time::Duration;

use e2e::cri::{ContainerState, Mount, PodSandboxState};
use e2e::{Client, DeadMount, Network, Node, node, until};

const PODS: usize = 50;

/// Counts without end, one line each.
const COUNTING: &str = "i=0; while :; do i=$((i+1)); echo line $i; usleep 20000; done";

struct Started {
    pod: String,
    container: String,
    log: std::path::PathBuf,
}

async fn start(node: &Node, client: &Client, script: &str) -> Started {
    let config = node.pod();
    let pod = client.run_pod(config.clone()).await.unwrap();
    let container = client.create(&pod, node.busybox("main", &["sh", "-c", script]), &config).await.unwrap();
    client.start(&container).await.unwrap();
    Started { pod, container, log: Path::new(&config.log_directory).join("main.log") }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_daemon_loses_no_pod_no_exit_code_and_no_log_line() {
    let mut node = Node::start(Network::BuiltIn).await;
    let client = node.client();
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    let flag = node.path("go");
    let mut counting = Vec::new();
    let mut waiting = Vec::new();
    for number in 0..PODS {
        if number % 10 == 9 {
            waiting.push(start_waiting(&node, &client, number).await);
        } else {
            counting.push(start(&node, &client, COUNTING).await);
        }
    }

    node.kill_daemon();
    std::fs::write(&flag, "").unwrap();
    for (started, _) in &waiting {
        until(Duration::from_secs(20), "the last line of a container that ends meanwhile", || async {
            let text = std::fs::read_to_string(&started.log).unwrap_or_default();
            if text.contains("stdout F bye") { Ok(()) } else { Err(text) }
        })
        .await;
    }
    node.start_daemon();

    let client = node.client();
    assert_eq!(client.pods().await.unwrap().len(), PODS);
    for started in &counting {
        let status = client.pod(&started.pod).await.unwrap();
        assert_eq!(status.state, PodSandboxState::SandboxReady as i32);
        let status = client.container(&started.container).await.unwrap();
        assert_eq!(status.state, ContainerState::ContainerRunning as i32, "{status:?}");
        assert_eq!(client.exec(&started.container, &["true"], 10).await.unwrap().exit_code, 0);
        client.stop(&started.container, 0).await.unwrap();
        assert_counts_without_gap(&std::fs::read_to_string(&started.log).unwrap());
    }
    for (started, code) in &waiting {
        let status = client.exited(&started.container).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (*code, "Error"), "{status:?}");
    }
}

/// A container that ends with a code of its own as soon as the flag file is there.
async fn start_waiting(node: &Node, client: &Client, number: usize) -> (Started, i32) {
    let code = 7 + i32::try_from(number).unwrap();
    let config = node.pod();
    let pod = client.run_pod(config.clone()).await.unwrap();
    let script = format!("while [ ! -e /node/go ]; do usleep 10000; done; echo bye; exit {code}");
    let mut wanted = node.busybox("main", &["sh", "-c", &script]);
    wanted.mounts.push(e2e::cri::Mount {
        container_path: "/node".into(),
        host_path: node.path("").display().to_string(),
        readonly: true,
        ..Default::default()
    });
    let container = client.create(&pod, wanted, &config).await.unwrap();
    client.start(&container).await.unwrap();
    (Started { pod, container, log: Path::new(&config.log_directory).join("main.log") }, code)
}

fn assert_counts_without_gap(log: &str) {
    let numbers: Vec<u32> = log.lines().filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    assert!(numbers.len() > 1, "nothing was counted: {log}");
    assert!(numbers.iter().zip(1..).all(|(number, expected)| *number == expected), "a gap: {numbers:?}");
}

#[tokio::test]
async fn an_ended_daemon_leaves_its_pods_running_and_takes_them_up_again() {
    let mut node = Node::start(Network::BuiltIn).await;
    let client = node.client();
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    let started = start(&node, &client, COUNTING).await;
    let before = client.container(&started.container).await.unwrap();
    let ip = client.pod(&started.pod).await.unwrap().network.unwrap().ip;
    node.stop_daemon();
    node.start_daemon();
    let client = node.client();
    assert_eq!(client.container(&started.container).await.unwrap(), before, "nothing about it changed");
    assert_eq!(client.pod(&started.pod).await.unwrap().network.unwrap().ip, ip);
    let config = node.pod();
    let other = client.run_pod(config).await.unwrap();
    assert_ne!(
        client.pod(&other).await.unwrap().network.unwrap().ip,
        ip,
        "its address is not given to another"
    );
}

#[tokio::test]
async fn images_and_created_containers_outlive_the_daemon() {
    let mut node = Node::start(Network::None).await;
    let client = node.client();
    let image = node.registry.image("busybox:latest");
    let reference = client.pull(&image).await.unwrap();
    let config = node.pod();
    let pod = client.run_pod(config.clone()).await.unwrap();
    let container = client.create(&pod, node.busybox("main", &["true"]), &config).await.unwrap();
    node.kill_daemon();
    node.start_daemon();
    let client = node.client();
    let listed =
        client.images.clone().list_images(e2e::cri::ListImagesRequest { filter: None }).await.unwrap();
    assert_eq!(listed.into_inner().images[0].id, reference);
    client.start(&container).await.unwrap();
    assert_eq!(client.exited(&container).await.reason, "Completed");
}

/// The daemon is killed while it prepares what the supervisor is to start: the container has not begun, and isn't said to have
/// ended. Whoever lost the answer asks again.
#[tokio::test]
async fn a_start_that_a_kill_cut_off_before_it_began_succeeds_when_asked_for_again() {
    let mut node = Node::start(Network::None).await;
    let client = node.client();
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    let source = node.path("volume");
    std::fs::create_dir(&source).unwrap();
    let config = node.pod();
    let pod = client.run_pod(config.clone()).await.unwrap();
    let mut wanted = node.busybox("main", &["sleep", "1000"]);
    let host_path = source.to_string_lossy().into_owned();
    wanted.mounts.push(Mount { container_path: "/data".into(), host_path, ..Default::default() });
    let container = client.create(&pod, wanted, &config).await.unwrap();
    let Some(dead) = DeadMount::new(source) else {
        return println!("skipped: {} needs /dev/fuse", module_path!());
    };
    let lost = tokio::spawn({
        let (client, container) = (client.clone(), container.clone());
        async move { client.start(&container).await }
    });
    let record = node.path("state").join("pods").join(&pod).join("containers").join(&container);
    until(node::PATIENCE, "a start that is written down and waits for its volume", || async {
        let text = std::fs::read_to_string(record.join("record.json")).unwrap_or_default();
        if text.to_lowercase().contains("starting") { Ok(()) } else { Err(text) }
    })
    .await;
    node.kill_daemon();
    lost.await.unwrap().unwrap_err();
    drop(dead);
    node.start_daemon();

    let client = node.client();
    let status = client.container(&container).await.unwrap();
    assert_eq!(status.state(), ContainerState::ContainerCreated, "{status:?}");
    client.start(&container).await.unwrap();
    let status = client.container(&container).await.unwrap();
    assert_eq!(status.state(), ContainerState::ContainerRunning, "{status:?}");
    client.remove_pod(&pod).await.unwrap();
}

#[tokio::test]
async fn a_killed_supervisor_is_noticed_and_its_pod_can_be_removed() {
    let node = Node::start(Network::BuiltIn).await;
    let client = node.client();
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    let started = start(&node, &client, COUNTING).await;
    let supervisors: Vec<i32> = node
        .traces()
        .processes()
        .into_iter()
        .filter(|(_, command)| command.contains("knarr-supervisor") && command.contains(&started.pod))
        .map(|(pid, _)| pid)
        .collect();
    assert_eq!(supervisors.len(), 1, "one supervisor a pod");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(supervisors[0]), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    let status = client.exited(&started.container).await;
    assert_ne!(status.exit_code, 0, "{status:?}");
    until(Duration::from_secs(10), "the pod to be not ready", || async {
        let pod = client.pod(&started.pod).await.unwrap();
        if pod.state == PodSandboxState::SandboxNotready as i32 { Ok(()) } else { Err(pod.state) }
    })
    .await;
    client.stop_pod(&started.pod).await.unwrap();
    client.remove_pod(&started.pod).await.unwrap();
}
