//! The memory that is promised: of the daemon at rest, of a pod, and of each further container.
//!
//! Proportional set sizes (PSS): what is private, and of what is shared each one's share. Only what is installed keeps the promise:
//! programs built for tests are several times as large.

use std::time::Duration;

use e2e::needs::installed;
use e2e::{Network, Node, Pod, until_each};

/// The promises, in KiB: the daemon's idle, the daemon's with [`PODS`] pods, a pod's with one container (what the daemon grows by for
/// it among that), and what a further container adds to its pod's supervisor.
const IDLE: u64 = 8 << 10;
const WITH_PODS: u64 = 12 << 10;
const A_POD: u64 = 153;
const A_CONTAINER: u64 = 20;

/// How many pods are made.
const PODS: u64 = 50;

/// How often memory is looked at, and how long it may take until all that was used for a moment is given back: the daemon waits for
/// 5 s of rest.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// A process's share of memory, in KiB; none of one that has ended.
fn memory(pid: u32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or("0");
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The sum of all that the node's supervisors have, in KiB, and how many they are.
fn supervisors(node: &Node) -> (u64, u64) {
    let directory = node.path("").to_string_lossy().into_owned();
    let pids = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    let ours = |pid: &u32| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).into_owned();
        command.contains("knarr-supervisor") && command.contains(&directory)
    };
    pids.filter(ours).fold((0, 0), |(sum, count), pid| (sum + memory(pid), count + 1))
}

/// Waits until the node needs no more than `most` by `measured`; gives what it needs.
async fn settles(what: &str, most: u64, measured: impl Fn() -> u64) -> u64 {
    until_each(PATIENCE, &format!("{what} to be at most {most} KiB"), || {
        let now = measured();
        async move { if now <= most { Ok(now) } else { Err(format!("{now} KiB")) } }
    })
    .await
}

#[tokio::test]
async fn daemon_pods_and_containers_need_what_is_promised() {
    if let Err(reason) = installed() {
        println!("skipped: {reason}");
        return;
    }
    let node = Node::start(Network::None).await;
    let pid = node.pid();
    node.client().pull(&node.registry.image("busybox:latest")).await.unwrap();
    let idle = settles("the idle daemon", IDLE, || memory(pid)).await;
    let pod = Pod::on(node, |_| {}).await;
    let mut pods = vec![pod.id.clone()];
    for _ in 1..PODS {
        pods.push(pod.another(|_| {}).await.unwrap());
    }
    for id in &pods {
        start_one(&pod, id, "main").await;
    }
    let all = || memory(pid) + supervisors(&pod.node).0;
    assert_eq!(supervisors(&pod.node).1, PODS);
    let daemon = settles("the daemon with pods", WITH_PODS, || memory(pid)).await;
    let one = settles("daemon and pods", idle + PODS * A_POD, all).await;
    let before = supervisors(&pod.node).0;
    for id in &pods {
        start_one(&pod, id, "further").await;
    }
    let supervisor = || supervisors(&pod.node).0;
    let two = settles("pods of two containers", before + PODS * A_CONTAINER, supervisor).await;
    let daemon_of_two = settles("the daemon with pods of two containers", WITH_PODS, || memory(pid)).await;
    println!(
        "PSS: daemon {idle} KiB idle, {daemon} with {PODS} pods, {daemon_of_two} with two containers in each; {} a pod, {} a further \
         container",
        (one - idle) / PODS,
        two.saturating_sub(before) / PODS
    );
}

/// A waiting container in the pod `id`.
async fn start_one(pod: &Pod, id: &str, name: &str) {
    let request = proto::runtime::v1::CreateContainerRequest {
        pod_sandbox_id: id.to_owned(),
        config: Some(pod.script(name, "exec sleep 1000")),
        sandbox_config: Some(pod.sandbox.clone()),
    };
    let made = pod.runtime.clone().create_container(request).await.unwrap().into_inner();
    pod.client.start(&made.container_id).await.unwrap();
}
