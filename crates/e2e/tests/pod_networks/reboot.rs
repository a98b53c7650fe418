//! What a reboot leaves: the root directory, and nothing of the kernel's or of the state directory.

use std::net::IpAddr;

use e2e::{Netns, Network, Node, Setup};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::{native, on_own_host};

/// The addresses that are taken, by what either kind of network keeps of them.
fn taken(node: &Node) -> Vec<String> {
    let mut found = Vec::new();
    let mut look = vec![node.path("ipam"), node.path("root/networks")];
    while let Some(directory) = look.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.path().is_dir() {
                look.push(entry.path());
            } else if name.parse::<IpAddr>().is_ok() || name.ends_with(".json") {
                found.push(name);
            }
        }
    }
    found
}

/// Ends everything that a reboot ends: processes, links and rules, and what was on a tmpfs.
async fn reboot(node: &mut Node, host: &Netns) {
    node.kill_daemon();
    let traces = node.traces();
    for (pid, _) in traces.processes() {
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
    e2e::until(e2e::node::PATIENCE, "the end of all processes", || async {
        let left = traces.processes();
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
    for cgroup in traces.cgroup_parents() {
        e2e::node::remove_cgroups(&cgroup);
    }
    let state = node.path("state");
    std::fs::remove_dir_all(&state).unwrap();
    // A pod's end goes with its namespace, which the kernel takes its time for.
    for link in host.links("type bridge").into_iter().chain(host.links("type veth")) {
        host.sh(&format!("ip link del {link} 2>/dev/null || :"));
    }
    host.sh("nft flush ruleset 2>/dev/null || :");
}

async fn the_addresses_of_the_dead_come_back(setup: Setup) {
    let (host, setup) = on_own_host(setup);
    let mut node = setup.start().await;
    let client = node.client();
    for _ in 0..3 {
        client.run_pod(node.pod()).await.unwrap();
    }
    let before = taken(&node).len();
    assert!(before >= 6, "three addresses and three records: {:?}", taken(&node));
    reboot(&mut node, &host).await;
    assert_eq!(taken(&node).len(), before);
    node.start_daemon();
    let client = node.client();
    assert!(client.pods().await.unwrap().is_empty());
    e2e::until(e2e::node::PATIENCE, "the addresses", || async {
        let left = taken(&node);
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
    let pod = client.run_pod(node.pod()).await.unwrap();
    assert_ne!(client.pod(&pod).await.unwrap().network.unwrap().ip, "");
}

#[tokio::test]
async fn the_addresses_of_the_dead_come_back_by_plugins() {
    the_addresses_of_the_dead_come_back(Setup::new(Network::Plugins)).await;
}

#[tokio::test]
async fn the_addresses_of_the_dead_come_back_natively() {
    the_addresses_of_the_dead_come_back(native()).await;
}

#[tokio::test]
async fn the_addresses_of_the_dead_come_back_built_in() {
    the_addresses_of_the_dead_come_back(Setup::new(Network::BuiltIn)).await;
}

#[tokio::test]
async fn the_addresses_of_the_dead_come_back_of_several_networks() {
    let bridge = |name: &str, third: u8| {
        json!([{
            "type": "bridge", "bridge": name,
            "ipam": { "type": "host-local", "ranges": [[{ "subnet": format!("10.80.{third}.0/24") }]] },
        }])
    };
    let setup = Setup::new(Network::Plugins).key("networks = 2");
    let setup = setup.conflist("first", bridge("one0", 1)).conflist("second", bridge("two0", 2));
    the_addresses_of_the_dead_come_back(setup).await;
}
