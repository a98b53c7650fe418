//! A stop always ends: of what forks, of what is frozen, of what hangs where no signal reaches it; and of several the shortest counts.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use e2e::{Network, Node, Pod, Setup, StuckMount, node, until};
use proto::runtime::v1 as cri;
use tonic::Code;

/// A container that says when its script has begun.
async fn running(
    pod: &Pod,
    name: &str,
    script: &str,
    change: impl FnOnce(&mut cri::ContainerConfig),
) -> String {
    let mut wanted = pod.script(name, &format!("echo begun; {script}"));
    change(&mut wanted);
    let id = pod.create(wanted).await.unwrap();
    pod.client.start(&id).await.unwrap();
    let log = pod.node.path("logs");
    until(node::PATIENCE, "the script", async || {
        let text = std::fs::read_to_string(find(&log, &format!("{name}.log"))).unwrap_or_default();
        if text.contains("begun") { Ok(()) } else { Err(text) }
    })
    .await;
    id
}

fn find(directory: &std::path::Path, name: &str) -> PathBuf {
    let pods = std::fs::read_dir(directory).unwrap().flatten();
    pods.map(|pod| pod.path().join(name)).find(|path| path.exists()).unwrap_or_default()
}

/// Where the figures are served, as the log says.
fn figures(node: &Node) -> String {
    let log = std::fs::read_to_string(node.path("daemon.log")).unwrap();
    let line = log.lines().rev().find_map(|line| line.split_once("serving metrics address=")).unwrap();
    let mut connection = TcpStream::connect(line.1.split_whitespace().next().unwrap()).unwrap();
    write!(connection, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test]
async fn what_hangs_in_the_kernel_is_named_and_nobody_waits_for_it() {
    let section = "[metrics]\nlisten = \"127.0.0.1:0\"";
    let mut pod = Pod::on(Setup::new(Network::None).section(section).start().await, |_| {}).await;
    let Some(stuck) = StuckMount::new(pod.node.path("volume/stuck")) else {
        println!("skipped: no FUSE here");
        return;
    };
    let mount = cri::Mount {
        host_path: pod.node.path("volume").to_string_lossy().into_owned(),
        container_path: "/volume".into(),
        ..Default::default()
    };
    let hangs =
        running(&pod, "hangs", "exec cat /volume/stuck/file", |wanted| wanted.mounts = vec![mount]).await;
    let pid = pod.node.processes_of(&hangs)[0];
    until(node::PATIENCE, "the process to hang", async || stuck.holds_somebody().then_some(()).ok_or(pid))
        .await;
    let asked = (pod.client.clone(), hangs.clone());
    let stop = tokio::spawn(async move { asked.0.stop(&asked.1, 0).await });
    until(node::PATIENCE, "a figure of the stage", async || {
        let figures = figures(&pod.node);
        let is_there = figures.contains("knarr_stages_under_way{stage=\"kill\"} 1");
        if is_there { Ok(()) } else { Err(figures) }
    })
    .await;
    // The others go on meanwhile.
    let other = running(&pod, "other", "exec sleep 1000", |_| {}).await;
    pod.client.stop(&other, 0).await.unwrap();
    let (stop, pod_stop, removal) =
        tokio::join!(stop, pod.client.stop_pod(&pod.id), pod.client.remove(&hangs));
    for refused in [stop.unwrap().unwrap_err(), pod_stop.unwrap_err(), removal.unwrap_err()] {
        assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused}");
        let names = format!("process {pid} (\"cat\") waits in the kernel");
        assert!(refused.message().contains(&names) && refused.message().contains("state D"), "{refused}");
    }
    let found = pod.client.container(&hangs).await.unwrap();
    assert_eq!(
        found.state,
        e2e::cri::ContainerState::ContainerRunning as i32,
        "nobody is told that it ended"
    );
    // Neither an end of the daemon nor a start waits for it.
    pod.node.stop_daemon();
    pod.node.start_daemon();
    pod.reconnect();
    drop(stuck);
    pod.client.exited(&hangs).await;
    pod.client.stop(&hangs, 0).await.unwrap();
    pod.client.remove(&hangs).await.unwrap();
}

/// Processes that each bear one and end: few at a time, and never the same.
const COMETS: &str = "comet() { ( comet ) & }; for i in 1 2 3 4 5 6 7 8; do comet; done; exec sleep 1000";

/// Each bears more and more. Not the first: a shell that may not fork ends.
const BOMB: &str = "bomb() { while :; do ( bomb ) & done; }; ( sleep 1; bomb ) 2>/dev/null & exec sleep 1000";

#[tokio::test]
async fn what_forks_all_the_time_is_ended() {
    let pod = Pod::new(Network::None, |_| {}).await;
    let comets = running(&pod, "comets", COMETS, |_| {}).await;
    let bomb = running(&pod, "bomb", BOMB, |_| {}).await;
    let limit = pod.node.traces().cgroup_path(&bomb, &["pids.max"]).expect("a limit of processes");
    std::fs::write(limit, "100").unwrap();
    until(node::PATIENCE, "the bomb", async || match pod.node.processes_of(&bomb).len() {
        few @ ..=90 => Err(few),
        _ => Ok(()),
    })
    .await;
    for id in [&comets, &bomb] {
        pod.client.stop(id, 0).await.unwrap();
        assert_eq!(pod.client.container(id).await.unwrap().exit_code, 137);
        pod.client.remove(id).await.unwrap();
        assert_eq!(pod.node.processes_of(id), Vec::<u32>::new());
    }
}

/// Freezes a cgroup and all below it.
fn freeze(pod: &Pod, cgroup: &str) -> PathBuf {
    let path = pod.node.traces().cgroup_path(cgroup, &["freezer.state", "cgroup.freeze"]).expect("a freezer");
    let word = if path.ends_with("freezer.state") { "FROZEN" } else { "1" };
    std::fs::write(&path, word).unwrap();
    path
}

#[tokio::test]
async fn what_is_frozen_is_ended_also_with_its_whole_pod() {
    let pod = Pod::new(Network::None, |_| {}).await;
    let alone = running(&pod, "alone", "exec sleep 1000", |_| {}).await;
    let together = running(&pod, "together", "exec sleep 1000", |_| {}).await;
    freeze(&pod, &alone);
    pod.client.stop(&alone, 1).await.unwrap();
    assert_eq!(pod.client.container(&alone).await.unwrap().exit_code, 137);
    // And its supervisor with it.
    freeze(&pod, &pod.id);
    pod.client.stop(&together, 0).await.unwrap();
    assert_eq!(pod.client.container(&together).await.unwrap().exit_code, 137);
    pod.client.stop_pod(&pod.id).await.unwrap();
}

#[tokio::test]
async fn of_several_stops_the_shortest_counts_and_one_that_nobody_waits_for_goes_on() {
    let pod = Pod::new(Network::None, |_| {}).await;
    let stubborn = "trap '' TERM; while :; do sleep 1; done";
    let (first, second) =
        (running(&pod, "first", stubborn, |_| {}).await, running(&pod, "second", stubborn, |_| {}).await);
    let begun = Instant::now();
    let (long, short, endless) = tokio::join!(
        pod.client.stop(&first, 3_600),
        pod.client.stop(&first, 1),
        pod.client.stop(&first, i64::MAX),
    );
    long.and(short).and(endless).unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1), "it had its grace");
    assert_eq!(pod.client.container(&first).await.unwrap().exit_code, 137);
    let asked = (pod.client.clone(), second.clone());
    let call = tokio::spawn(async move { asked.0.stop(&asked.1, 2).await });
    until(node::PATIENCE, "the stop to be under way", async || {
        let log = pod.node.log_tail();
        let state = std::fs::read_to_string(pod.node.path("daemon.log")).unwrap_or_default();
        if state.contains(&second) && !call.is_finished() { Ok(()) } else { Err(log) }
    })
    .await;
    tokio::task::yield_now().await;
    call.abort();
    // Unless it hadn't reached the daemon: asking joins it.
    pod.client.stop(&second, 3).await.unwrap();
    assert_eq!(pod.client.container(&second).await.unwrap().exit_code, 137);
}

#[tokio::test]
async fn a_stop_ends_what_execs_wait_for() {
    let pod = Pod::new(Network::None, |_| {}).await;
    let id = running(&pod, "main", "exec sleep 1000", |_| {}).await;
    let (client, container) = (pod.client.clone(), id.clone());
    let exec = tokio::spawn(async move { client.exec(&container, &["sleep", "900"], 0).await });
    until(node::PATIENCE, "the exec", async || match pod.node.processes_of(&id).len() {
        0 | 1 => Err("not there"),
        _ => Ok(()),
    })
    .await;
    pod.client.stop(&id, 0).await.unwrap();
    let ended = exec.await.unwrap();
    assert!(ended.is_err() || ended.as_ref().is_ok_and(|output| output.exit_code == 137), "{ended:?}");
}
