//! What a pod on the host's network could reach or take of ours: CVE-2020-15257; and whose the daemon's files are: CVE-2021-41103,
//! CVE-2024-25621.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};

use e2e::image::Layer;
use e2e::{Network, config};

use crate::rig::{Rig, output};

#[tokio::test]
async fn no_abstract_socket_is_ours() {
    let rig = Rig::with(Network::BuiltIn, |_| {}).await;
    let _running = rig.running(rig.script("sleep 1000")).await;
    let table = std::fs::read_to_string("/proc/net/unix").unwrap();
    let is_abstract = |inode: &str| {
        table.lines().any(|line| line.split_whitespace().nth(6) == Some(inode) && line.contains(" @"))
    };
    let processes = rig.node.traces().processes();
    assert!(processes.len() >= 2, "a daemon and a supervisor: {processes:?}");
    for (pid, command) in processes {
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
            let link = std::fs::read_link(entry.path()).unwrap_or_default().display().to_string();
            let inode = link.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
            assert!(
                !inode.is_some_and(is_abstract),
                "the attack succeeded: {link} of {command} can be reached"
            );
        }
    }
}

/// Who takes the names that a daemon might want must not keep it from coming back.
#[tokio::test]
async fn a_pod_on_the_hosts_network_cannot_keep_the_daemon_away() {
    let mut rig =
        Rig::with(Network::BuiltIn, |sandbox| *sandbox = config::on_host_network(sandbox.clone())).await;
    let bridge = rig.node.traces().bridge;
    let names = [format!("knarr-bridge-{bridge}"), bridge.clone(), "knarr".to_owned()];
    let arguments: Vec<&str> = ["squat"].into_iter().chain(names.iter().map(String::as_str)).collect();
    let (id, log) = rig.attacker((&arguments, "squatting on"), Layer::new(), |_| {}).await;
    rig.node.kill_daemon();
    e2e::until(e2e::node::PATIENCE, "the attacker's names", async || {
        let text = output(&log);
        if text.contains("squatting on 3") { Ok(()) } else { Err(text) }
    })
    .await;
    rig.node.start_daemon();
    rig.client = rig.node.client();
    rig.client.stop(&id, 0).await.expect("the attack succeeded: the daemon is not back");
    let networked = rig.client.run_pod(rig.node.pod()).await.expect("the attack succeeded: no network");
    rig.client.stop_pod(&networked).await.unwrap();
}

#[tokio::test]
async fn what_the_daemon_keeps_is_nobody_elses() {
    let rig = Rig::with(Network::BuiltIn, |_| {}).await;
    let _running = rig.running(rig.script("sleep 1000")).await;
    for (top, wanted) in [("state", 0o700), ("root", 0o700)] {
        let mode = rig.node.path(top).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, wanted, "the attack succeeded: {top} can be entered");
    }
    let mut todo = vec![rig.node.path("state")];
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(&directory).unwrap().flatten() {
            let meta = entry.path().symlink_metadata().unwrap();
            let mode = meta.permissions().mode() & 0o777;
            if meta.is_dir() {
                todo.push(entry.path());
                assert_eq!(mode & 0o077, 0, "the attack succeeded: {}", entry.path().display());
            }
            let most = if meta.file_type().is_socket() { 0o660 } else { 0o755 };
            assert_eq!(mode & !most, 0, "the attack succeeded: {} has {mode:o}", entry.path().display());
        }
    }
}
