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

async fn server(networks: &Networks) -> Pod {
    let port = PortMapping { host_port: 8080, container_port: 80, protocol: Protocol::Tcp, host_ip: None };
    pod(networks, "server", vec![port]).await
}

/// The host port answers. Observed without the tables being looked at by anybody but the daemon.
async fn answers(what: &str) {
    let host = Netns::current();
    let ask = || host.ask_tcp(HOST_PORT.parse().unwrap());
    until(what, ask, Result::is_ok).await.unwrap();
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
        Netns::current().tcp_server("127.0.0.1:9000");
        other.netns.run(|| {
            sh("ip route add 127.0.0.1/32 via 10.231.0.1 table 5; ip rule add pref 0 to 127.0.0.1 table 5");
            sh("ip rule add pref 1 table local; ip rule del pref 0 table local; echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet");
        });
        let loopback: SocketAddr = "127.0.0.1:9000".parse().unwrap();
        let connect = || {
            let connect = || std::net::TcpStream::connect_timeout(&loopback, Duration::from_secs(1));
            other.netns.run(|| connect().is_ok())
        };
        assert!(!connect(), "as long as nobody flushes anything");
        sh("nft flush ruleset");
        assert!(connect(), "the test finds no way, and so proves nothing");
        until("the guard", connect, |connects| !connects).await;
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
