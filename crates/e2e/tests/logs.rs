//! Logs as an operator meets them: limits, a copy in the journal, and what the daemon says when one can't be written.

use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::{Network, Node, needs};
use k8s_cri::v1::*;

/// Gives a node these keys, as its operator would: into the file, and a new start.
fn configure(node: &mut Node, keys: &str) {
    node.kill_daemon();
    let path = node.path("knarr.toml");
    let before = std::fs::read_to_string(&path).expect("the configuration");
    let kept = before.split("\n[logs]").next().expect("a part");
    std::fs::write(&path, format!("{}\n{keys}", kept.trim_end())).expect("writing the configuration");
    node.start_daemon();
}

/// A container that is started in a pod of its own; its id, and its log.
async fn start(node: &Node, script: &str) -> (String, PathBuf) {
    let client = node.client();
    client.pull(&node.registry.image("busybox:latest")).await.expect("the busybox image");
    let sandbox = node.pod();
    let pod = client.run_pod(sandbox.clone()).await.expect("a pod");
    let wanted = node.busybox("talker", &["sh", "-c", script]);
    let log = Path::new(&sandbox.log_directory).join(&wanted.log_path);
    let id = client.create(&pod, wanted, &sandbox).await.expect("a container");
    client.start(&id).await.expect("a start");
    (id, log)
}

async fn reopen(node: &Node, id: &str) -> Result<(), tonic::Status> {
    let request = ReopenContainerLogRequest { container_id: id.to_owned() };
    node.client().runtime.clone().reopen_container_log(request).await.map(drop)
}

/// Waits until a file has these words; gives all of it.
async fn has(path: &Path, words: &str) -> String {
    e2e::until(e2e::node::PATIENCE, words, || {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let last = text.lines().last().map(str::to_owned);
        async move { if text.contains(words) { Ok(text) } else { Err(last) } }
    })
    .await
}

const TALKS: &str = "trap 'exit 0' TERM; i=0; while :; do i=$((i+1)); echo $i; usleep 500; done";

#[tokio::test]
async fn a_limit_stays_with_its_container_whatever_the_daemon_is_told_later() {
    let mut node = Node::start(Network::None).await;
    configure(&mut node, "[logs]\nsize_limit = 65536\nrate_limit = 1048576\n");
    let (id, log) = start(&node, TALKS).await;
    let full = "the log has reached 65536 bytes (size_limit)";
    has(&log, full).await;
    configure(&mut node, "");
    std::fs::rename(&log, log.with_extension("1")).expect("a rotation");
    reopen(&node, &id).await.expect("a new log");
    let second = has(&log, full).await;
    let first = second.lines().next().expect("a line");
    assert!(first.contains(" stderr F knarr: ") && first.ends_with("65536 bytes (size_limit)"), "{first}");
    for path in [log.clone(), log.with_extension("1")] {
        assert!(std::fs::metadata(&path).expect("a log").len() <= 65536, "{}", path.display());
    }
    let (_, unlimited) = start(&node, "seq 1 20000; exec sleep 1000").await;
    has(&unlimited, " F 20000\n").await;
    node.client().stop(&id, 5).await.expect("a stop");
}

#[tokio::test]
async fn a_log_that_is_lost_is_told_and_comes_back() {
    let node = Node::start(Network::None).await;
    let (id, log) = start(&node, TALKS).await;
    has(&log, " F 3\n").await;
    let directory = log.parent().expect("a directory");
    std::fs::remove_dir_all(directory).expect("a removal");
    let told = has(&node.path("daemon.log"), "a container's log cannot be written").await;
    let line = told.lines().find(|line| line.contains("cannot be written")).expect("a line");
    assert!(line.contains(&id) && line.contains(&log.display().to_string()), "{line}");
    assert!(line.contains("No such file or directory"), "{line}");
    let refused = reopen(&node, &id).await.expect_err("no directory");
    let nowhere = format!("cannot open log \"{}\": No such file or directory (os error 2)", log.display());
    assert_eq!(refused.message(), format!("reopening the log of \"{id}\" failed: {nowhere}"));
    std::fs::create_dir(directory).expect("a directory");
    reopen(&node, &id).await.expect("a new log");
    let told = has(&node.path("daemon.log"), "a container's log has a gap").await;
    let line = told.lines().find(|line| line.contains("has a gap")).expect("a line");
    assert!(line.contains(&id) && line.contains("lines="), "{line}");
    assert_eq!(told.matches("cannot be written").count(), 1, "told more than once");
    let text = has(&log, " stdout F ").await;
    assert!(text.lines().next().is_some_and(|first| first.contains("missing here: No such file")), "{text}");
    node.client().stop(&id, 5).await.expect("a stop");
}

#[tokio::test]
async fn what_is_written_is_in_the_journal_too() {
    if let Err(reason) = needs::journald() {
        println!("skipped: {reason}");
        return;
    }
    let mut node = Node::start(Network::None).await;
    configure(&mut node, "[logs]\njournald = true\n");
    let (id, log) = start(&node, "echo to the journal; echo trouble >&2; exec sleep 1000").await;
    has(&log, "trouble").await;
    let entries = e2e::until(e2e::node::PATIENCE, "two entries in the journal", || {
        let journal =
            Command::new("journalctl").args(["-o", "json", &format!("CONTAINER_ID_FULL={id}")]).output();
        let text =
            journal.map(|found| String::from_utf8_lossy(&found.stdout).into_owned()).unwrap_or_default();
        let entries: Vec<serde_json::Value> =
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        async move { if entries.len() == 2 { Ok(entries) } else { Err(text) } }
    })
    .await;
    let fields =
        ["MESSAGE", "PRIORITY", "CONTAINER_NAME", "CONTAINER_ID", "POD_NAMESPACE", "SYSLOG_IDENTIFIER"];
    let seen =
        |entry: &serde_json::Value| fields.map(|field| entry[field].as_str().unwrap_or_default().to_owned());
    let short = &id[..12];
    assert_eq!(seen(&entries[0]), ["to the journal", "6", "talker", short, "e2e", "talker"]);
    assert_eq!(seen(&entries[1]), ["trouble", "3", "talker", short, "e2e", "talker"]);
    assert!(entries[0]["POD_NAME"].as_str().is_some_and(|name| name.starts_with("pod-")), "{}", entries[0]);
}

#[tokio::test]
async fn a_journal_that_is_not_there_is_told() {
    if needs::journald().is_ok() {
        println!("skipped: this machine has a journal");
        return;
    }
    let mut node = Node::start(Network::None).await;
    configure(&mut node, "[logs]\njournald = true\n");
    let (_, log) = start(&node, "echo here; exec sleep 1000").await;
    has(&log, " stdout F here\n").await;
    let told = has(&node.path("daemon.log"), "a container's log cannot be written").await;
    assert!(told.contains("/run/systemd/journal/socket"), "{told}");
}
