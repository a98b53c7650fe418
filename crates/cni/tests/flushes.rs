//! Rule sets that somebody flushes while pods are there: what was ours comes back by itself, without an ADD or a collection.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use cni::{Attachment, BuiltinNetwork, Cidr, Config, Networks, PortMapping, Protocol, Status, Subnet};
use serde_json::json;
use support::netns::{Netns, on_own_host, sh};
use support::{Node, attachment, shown, until};

const HOST_PORT: &str = "127.0.0.1:8080";

fn builtin(node: &Node) -> Networks {
    let network = Cidr { address: [10, 231, 0, 0].into(), prefix: 24 };
    node.open_builtin(BuiltinNetwork {
        name: "test".into(),
        bridge: "knarrtest0".into(),
        subnets: vec![Subnet { network, gateway: None }],
        mtu: None,
    })
}

/// A network of standard plugins, of which none but `portmap` uses the tables.
async fn configured(node: &Node) -> Networks {
    let bridge = json!({"type": "bridge", "bridge": "cnitest0", "isDefaultGateway": true, "ipam": {
        "type": "host-local", "dataDir": node.path("leases"), "ranges": [[{"subnet": "10.231.0.0/24"}]]}});
    let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    let conf = json!({"cniVersion": "1.1.0", "name": "test", "plugins": [bridge, portmap]});
    node.conf("10-test.conflist", &conf);
    let networks = Networks::open(Config { native: true, ..node.config() }).unwrap();
    let ready = Status::Ready { network: "test".into() };
    until("status", || networks.status(), |status| *status == ready).await;
    networks
}

struct Pod {
    netns: Netns,
    attachment: Attachment,
}

async fn pod(networks: &Networks, name: &str, port_mappings: Vec<PortMapping>) -> Pod {
    let netns = Netns::new();
    let attachment = Attachment { port_mappings, ..attachment(name, &netns.path()) };
    networks.add(&attachment).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
    netns.tcp_server("0.0.0.0:80");
    Pod { netns, attachment }
}

fn mapping(host_port: u16) -> Vec<PortMapping> {
    vec![PortMapping { host_port, container_port: 80, protocol: Protocol::Tcp, host_ip: None }]
}

async fn server(networks: &Networks) -> Pod {
    pod(networks, "server", mapping(8080)).await
}

/// The host port answers. Observed without the tables being looked at by anybody but the daemon.
async fn answers(what: &str) {
    let host = Netns::current();
    let ask = || host.ask_tcp(HOST_PORT.parse().unwrap());
    until(what, ask, Result::is_ok).await.unwrap();
}

/// Whether a pod reaches what listens on the host's loopback: a route that the pod has given itself leads there.
fn to_the_hosts_loopback(pod: &Pod) -> impl Fn() -> bool + '_ {
    let loopback: SocketAddr = "127.0.0.1:9000".parse().unwrap();
    Netns::current().tcp_server("127.0.0.1:9000");
    pod.netns.run(|| {
        sh("ip route add 127.0.0.1/32 via 10.231.0.1 table 5; ip rule add pref 0 to 127.0.0.1 table 5");
        sh("ip rule add pref 1 table local; ip rule del pref 0 table local; echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet");
    });
    let connect = move || std::net::TcpStream::connect_timeout(&loopback, Duration::from_secs(1)).is_ok();
    move || pod.netns.run(connect)
}

/// Whether the host's loopback network is routed by the bridge, and nobody guards it there.
fn is_open(is_builtin: bool) -> bool {
    let bridge = if is_builtin { "knarrtest0" } else { "cnitest0" };
    let is_guarded = sh("nft list ruleset").contains(&format!("{{ \"{bridge}\" comment"));
    !is_guarded && sh(&format!("cat /proc/sys/net/ipv4/conf/{bridge}/route_localnet")).trim() != "0"
}

/// How many sockets of nfnetlink there are on this host beside the kernel's own, whose port is 0 (net/netlink/af_netlink.c,
/// `netlink_native_seq_show`).
fn nfnetlink_sockets() -> usize {
    sh("awk '$2 == 12 && $3 != 0' /proc/thread-self/net/netlink | wc -l").trim().parse().unwrap()
}

#[test]
fn host_ports_come_back_by_themselves() {
    on_own_host(|| async {
        for is_builtin in [true, false] {
            let node = Node::new();
            let networks = if is_builtin { builtin(&node) } else { configured(&node).await };
            let server = server(&networks).await;
            answers("at first").await;
            for flush in ["nft flush ruleset", "nft delete table ip knarr", "nft flush table ip knarr"] {
                sh(flush);
                answers(flush).await;
            }
            networks.del(&server.attachment).await.unwrap();
            networks.settle().await.unwrap();
            assert!(sh("nft list ruleset").is_empty(), "{}", sh("nft list ruleset"));
        }
    });
}

/// `route_localnet` is still set on the bridge: without the guard what listens on the host's loopback is open to pods.
#[test]
fn the_hosts_loopback_is_guarded_again() {
    on_own_host(|| async {
        let node = Node::new();
        let networks = builtin(&node);
        let (_server, other) = (server(&networks).await, pod(&networks, "other", Vec::new()).await);
        let connect = to_the_hosts_loopback(&other);
        assert!(!connect(), "as long as nobody flushes anything");
        sh("nft flush ruleset");
        assert!(connect(), "the test finds no way, and so proves nothing");
        until("the guard", &connect, |connects| !connects).await;
        answers("and what it guards").await;
    });
}

/// While there is nothing nobody looks, and nothing is open for it.
#[test]
fn who_looks_has_one_socket_and_none_when_the_last_pod_has_gone() {
    on_own_host(|| async {
        let node = Node::new();
        let networks = builtin(&node);
        assert_eq!(nfnetlink_sockets(), 0);
        let server = server(&networks).await;
        until("a socket", nfnetlink_sockets, |count| *count == 1).await;
        sh("nft flush ruleset");
        answers("after a flush").await;
        until("one socket", nfnetlink_sockets, |count| *count == 1).await;
        networks.del(&server.attachment).await.unwrap();
        networks.settle().await.unwrap();
        until("none", nfnetlink_sockets, |count| *count == 0).await;
        drop(networks);
        // Nor for a daemon that has ended with pods on the host.
        let networks = builtin(&node);
        let _pod = pod(&networks, "pod", Vec::new()).await;
        until("a socket", nfnetlink_sockets, |count| *count == 1).await;
        drop(networks);
        until("none", nfnetlink_sockets, |count| *count == 0).await;
    });
}

/// The pod, the tables and the daemon that knew of them are gone; the bridge stays, and with it what was set on it.
#[test]
fn what_was_open_for_a_pod_is_shut_by_whoever_comes_next() {
    on_own_host(|| async {
        let node = Node::new();
        let setting = || sh("cat /proc/sys/net/ipv4/conf/cnitest0/route_localnet").trim().to_owned();
        let networks = configured(&node).await;
        let server = server(&networks).await;
        assert_ne!(setting(), "0");
        drop((networks, server));
        sh("nft flush ruleset");
        let networks = configured(&node).await;
        networks.gc(std::collections::HashSet::new).await.unwrap();
        assert_eq!(setting(), "0");
        assert!(sh("nft list ruleset").is_empty());
    });
}

/// As `nft list ruleset` prints it, to be loaded again: what an operator's service does, with all that was there then.
fn saved() -> String {
    format!("flush ruleset\n{}", sh("nft list ruleset"))
}

fn load(node: &Node, saved: &str) {
    let path = node.path("saved.nft");
    std::fs::write(&path, saved).unwrap();
    sh(&format!("nft -f {}", path.display()));
}

/// Without the order that entries are told in.
fn sorted(ruleset: &str) -> Vec<String> {
    let words = ruleset.split([',', '\n', '=', '{', '}']).map(str::trim);
    let mut words: Vec<String> = words.filter(|word| !word.is_empty()).map(str::to_owned).collect();
    words.sort();
    words
}

/// The tables stand, and all rules are there.
#[test]
fn what_a_saved_rule_set_lacks_comes_back_by_itself() {
    on_own_host(|| async {
        for is_builtin in [true, false] {
            let node = Node::new();
            let networks = if is_builtin { builtin(&node) } else { configured(&node).await };
            let other = pod(&networks, "other", mapping(8081)).await;
            let saved = saved();
            let server = server(&networks).await;
            answers("at first").await;
            let whole = sh("nft list ruleset");
            for _ in 0..2 {
                load(&node, &saved);
                assert!(!sh("nft list ruleset").contains("8080"));
                answers("a saved rule set").await;
            }
            for flush in
                ["flush map ip knarr ports", "flush map ip knarr hairpin", "flush set ip knarr localnet"]
            {
                sh(&format!("nft {flush}"));
                until(flush, || sorted(&sh("nft list ruleset")), |shown| *shown == sorted(&whole)).await;
            }
            for pod in [server, other] {
                networks.del(&pod.attachment).await.unwrap();
            }
            networks.settle().await.unwrap();
            assert!(sh("nft list ruleset").is_empty(), "{}", sh("nft list ruleset"));
        }
    });
}

/// Whoever had the host port when the rules were saved is gone, and has it again.
#[test]
fn who_is_gone_gives_way_to_whom_a_saved_rule_set_lacks() {
    on_own_host(|| async {
        for is_builtin in [true, false] {
            let node = Node::new();
            let networks = if is_builtin { builtin(&node) } else { configured(&node).await };
            let former = pod(&networks, "former", mapping(8080)).await;
            let saved = saved();
            networks.del(&former.attachment).await.unwrap();
            let server = server(&networks).await;
            answers("at first").await;
            load(&node, &saved);
            assert!(!sh("nft list map ip knarr ports").contains("/server/"));
            answers("a saved rule set").await;
            assert!(!sh("nft list map ip knarr ports").contains("/former/"));
            networks.del(&server.attachment).await.unwrap();
            networks.settle().await.unwrap();
            sh("nft flush ruleset");
        }
    });
}

/// Saved before there was any host port: the guard has nobody to guard against.
#[test]
fn a_saved_rule_set_opens_the_hosts_loopback_to_nobody() {
    on_own_host(|| async {
        let node = Node::new();
        let networks = builtin(&node);
        let other = pod(&networks, "other", Vec::new()).await;
        let saved = saved();
        let _server = server(&networks).await;
        let connects = to_the_hosts_loopback(&other);
        assert!(!connects());
        load(&node, &saved);
        assert!(connects(), "the test finds no way, and so proves nothing");
        until("the guard", &connects, |connects| !connects).await;
        answers("and what it guards").await;
    });
}

/// Nobody looks while there is no daemon; the next one looks at all there is.
#[test]
fn what_a_saved_rule_set_lacked_is_there_again_after_a_collection() {
    on_own_host(|| async {
        let node = Node::new();
        let networks = configured(&node).await;
        let other = pod(&networks, "other", mapping(8081)).await;
        let saved = saved();
        let server = server(&networks).await;
        let whole = sorted(&sh("nft list ruleset"));
        drop(networks);
        load(&node, &saved);
        let networks = configured(&node).await;
        let valid = std::collections::HashSet::from([other.attachment.id(), server.attachment.id()]);
        networks.gc(move || valid.clone()).await.unwrap();
        assert_eq!(sorted(&sh("nft list ruleset")), whole);
    });
}

/// What opened it is gone before anybody has seen that the guard is, whose set is empty or gone.
#[test]
fn what_was_open_for_the_last_host_port_is_shut_though_the_guard_had_gone_before() {
    let flushes = [
        "true",
        "nft flush ruleset",
        "nft delete table ip knarr",
        "nft flush table ip knarr",
        "nft flush set ip knarr localnet",
    ];
    for (is_builtin, flush) in [true, false].into_iter().flat_map(|kind| flushes.map(|flush| (kind, flush))) {
        on_own_host(move || async move {
            let node = Node::new();
            let networks = if is_builtin { builtin(&node) } else { configured(&node).await };
            let (server, other) = (server(&networks).await, pod(&networks, "other", Vec::new()).await);
            let connects = to_the_hosts_loopback(&other);
            sh(flush);
            networks.del(&server.attachment).await.unwrap();
            until(flush, &connects, |connects| !connects).await;
            until(flush, || is_open(is_builtin), |open| !open).await;
            let _pod = pod(&networks, "pod", Vec::new()).await;
            assert!(!connects() && !is_open(is_builtin), "{flush}");
        });
    }
}

/// The same while there is no daemon.
#[test]
fn what_was_open_for_the_last_host_port_is_shut_by_the_next_daemon() {
    for (is_builtin, all_go) in [(true, false), (false, false), (true, true), (false, true)] {
        on_own_host(move || async move {
            let node = Node::new();
            let of_node = async || if is_builtin { builtin(&node) } else { configured(&node).await };
            let networks = of_node().await;
            let (server, other) = (server(&networks).await, pod(&networks, "other", Vec::new()).await);
            drop(networks);
            sh("nft flush ruleset");
            let networks = of_node().await;
            networks.del(&server.attachment).await.unwrap();
            let other = if all_go {
                networks.del(&other.attachment).await.unwrap();
                pod(&networks, "another", Vec::new()).await
            } else {
                other
            };
            let connects = to_the_hosts_loopback(&other);
            until("the guard", &connects, |connects| !connects).await;
            until("the setting", || is_open(is_builtin), |open| !open).await;
        });
    }
}
