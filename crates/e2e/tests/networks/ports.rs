//! Published ports: from the host, from outside and from pods, over both families, and gone with the pod.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use e2e::cri::{PortMapping, Protocol};
use e2e::{Netns, Network, Setup};
use serde_json::{Value, json};
use tonic::Code;

use crate::rig::{Member, Site};
use crate::traffic::{ask_tcp, at, reach_tcp, reach_udp, serve_tcp, serve_udp};

by_every_kind_of_plugins!(
    lead_to_the_pod_from_everywhere,
    of_one_address_of_the_host_are_open_there_alone,
    of_sctp_are_in_the_rules,
);

/// The host's addresses on the segment to the world outside, and the world's.
const HOST: [&str; 2] = ["198.51.100.1", "2001:db8:7::1"];
const OUTSIDE: [&str; 2] = ["198.51.100.2", "2001:db8:7::2"];

/// A host with a way outside and a dual-stack bridge for its pods.
struct Place {
    site: Site,
    outside: Netns,
}

impl Place {
    async fn new(plugins: Network) -> Self {
        Self::with(Setup::new(plugins).conflist("published", networks())).await
    }

    async fn with(setup: Setup) -> Self {
        let (host, outside) = (Arc::new(Netns::new()), Netns::new());
        host.connect("up0", &outside, "eth0");
        for (netns, device, addresses) in [(&*host, "up0", HOST), (&outside, "eth0", OUTSIDE)] {
            netns.sh(&format!("ip addr add {}/24 dev {device}", addresses[0]));
            netns.sh(&format!("ip addr add {}/64 dev {device} nodad", addresses[1]));
        }
        Self { site: Site::on(host, setup).await, outside }
    }

    async fn publishing(&self, ports: Vec<PortMapping>) -> Member {
        self.site.member_of("", |config| config.port_mappings = ports).await.expect("a pod")
    }
}

fn networks() -> Value {
    json!([
        { "type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
          "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.85.0.0/24" }], [{ "subnet": "fd00:85::/64" }]],
                    "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }] } },
        { "type": "portmap", "snat": true, "capabilities": { "portMappings": true } },
    ])
}

fn mapping(protocol: Protocol, container_port: i32, host_port: i32) -> PortMapping {
    PortMapping { protocol: protocol as i32, container_port, host_port, ..Default::default() }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

async fn lead_to_the_pod_from_everywhere(plugins: Network) {
    let mut place = Place::new(plugins).await;
    let outside = &place.outside;
    let ports = vec![mapping(Protocol::Tcp, 8080, 30080), mapping(Protocol::Udp, 9090, 30090)];
    let pod = place.publishing(ports).await;
    let other = place.site.member().await;
    let host = Arc::clone(&place.site.host);
    let _servers = [
        serve_tcp(&pod.inside, 8080),
        serve_udp(&pod.inside, SocketAddr::new(pod.v4(), 9090)),
        serve_udp(&pod.inside, SocketAddr::new(pod.v6(), 9090)),
    ];

    if plugins == Network::Native {
        let tentative = host.sh("ip -6 -o addr show dev pods0 tentative");
        assert_eq!(tentative, "", "the bridge asks for its neighbours at once");
    }

    let [v4, v6] = HOST;
    for (to, client) in [(v4, OUTSIDE[0]), (v6, OUTSIDE[1])] {
        let from = address(client);
        assert_eq!(reach_tcp(outside, at(to, 30080)).await, from, "from outside over TCP to {to}");
        assert_eq!(reach_udp(outside, at(to, 30090)).await, from, "from outside over UDP to {to}");
        for netns in [&*host, &other.inside, &pod.inside] {
            reach_tcp(netns, at(to, 30080)).await;
            reach_udp(netns, at(to, 30090)).await;
        }
    }
    reach_tcp(&host, at("127.0.0.1", 30080)).await;
    reach_udp(&host, at("127.0.0.1", 30090)).await;

    // The ports are the kernel's; and who comes after a crash knows what to take away.
    place.site.node.kill_daemon();
    assert_eq!(reach_tcp(outside, at(v6, 30080)).await, address(OUTSIDE[1]), "without a daemon");
    place.site.restart();
    place.site.remove(&pod).await;
    for (who, netns) in [("the host", &*host), ("outside", outside), ("a pod", &other.inside)] {
        for to in HOST {
            let left = ask_tcp(netns, at(to, 30080)).await;
            assert!(left.is_err(), "{who} still has an answer from {to}: {left:?}");
        }
    }
    let rules = host.sh("nft list ruleset");
    assert!(!rules.contains("30080") && !rules.contains("30090"), "{rules}");
}

async fn of_one_address_of_the_host_are_open_there_alone(plugins: Network) {
    let place = Place::new(plugins).await;
    let on_one = |host_ip: &str, host_port| PortMapping {
        host_ip: host_ip.to_owned(),
        ..mapping(Protocol::Tcp, 8080, host_port)
    };
    let pod = place.publishing(vec![on_one(HOST[0], 30080), on_one(HOST[1], 30081)]).await;
    let _server = serve_tcp(&pod.inside, 8080);
    place.site.host.sh("ip addr add 198.51.100.9/24 dev up0");
    reach_tcp(&place.outside, at(HOST[0], 30080)).await;
    reach_tcp(&place.outside, at(HOST[1], 30081)).await;
    for (host, port) in [(HOST[1], 30080), ("198.51.100.9", 30080), (HOST[0], 30081)] {
        let seen = ask_tcp(&place.outside, at(host, port)).await;
        assert!(seen.is_err(), "{host} at {port}: {seen:?}");
    }
    let local = ask_tcp(&place.site.host, at("127.0.0.1", 30080)).await;
    assert!(local.is_err(), "the host's loopback is another address: {local:?}");
}

#[tokio::test]
async fn of_the_built_in_network() {
    needs_own_node!();
    let place = Place::with(Setup::new(Network::BuiltIn)).await;
    let pod = place.publishing(vec![mapping(Protocol::Tcp, 8080, 30080)]).await;
    let _server = serve_tcp(&pod.inside, 8080);
    assert_eq!(reach_tcp(&place.outside, at(HOST[0], 30080)).await, address(OUTSIDE[0]));
    for (netns, host) in
        [(&*place.site.host, "127.0.0.1"), (&*place.site.host, HOST[0]), (&pod.inside, HOST[0])]
    {
        reach_tcp(netns, at(host, 30080)).await;
    }
    place.site.remove(&pod).await;
    let left = ask_tcp(&place.outside, at(HOST[0], 30080)).await;
    assert!(left.is_err(), "{left:?}");
}

#[tokio::test]
async fn that_another_pod_has_are_refused() {
    needs_own_node!();
    let place = Place::new(Network::Native).await;
    let on_one = |host_ip: &str, protocol| PortMapping {
        host_ip: host_ip.to_owned(),
        ..mapping(protocol, 8080, 30080)
    };
    let (everywhere, on_one_only) = (mapping(Protocol::Tcp, 8080, 30079), on_one(HOST[0], Protocol::Tcp));
    let pod = place.publishing(vec![everywhere.clone(), on_one_only.clone()]).await;
    let _server = serve_tcp(&pod.inside, 8080);
    let others = vec![on_one("198.51.100.9", Protocol::Tcp), on_one(HOST[0], Protocol::Udp)];
    let beside = place.publishing(others).await;
    for taken in [everywhere, on_one_only] {
        let port = taken.host_port.to_string();
        let ports = vec![mapping(Protocol::Tcp, 80, 30081), taken];
        let refused = place.site.member_of("", |config| config.port_mappings = ports).await;
        let refused = refused.map(|member| member.id).expect_err("a port that is taken");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        assert!(refused.message().contains(&port), "{refused:?}");
    }
    assert_eq!(place.site.client.pods().await.expect("a list").len(), 2);
    let rules = place.site.host.sh("nft list ruleset");
    assert!(!rules.contains("30081"), "what was refused left nothing: {rules}");
    for port in [30079, 30080] {
        assert_eq!(reach_tcp(&place.outside, at(HOST[0], port)).await, address(OUTSIDE[0]));
    }

    place.site.remove(&pod).await;
    place.site.remove(&beside).await;
    let ports = [30079, 30080].map(|port| mapping(Protocol::Tcp, 8080, port));
    place.publishing(ports.into()).await;
}

/// Not every kernel has sockets for SCTP, but all can translate its addresses.
async fn of_sctp_are_in_the_rules(plugins: Network) {
    let place = Place::new(plugins).await;
    let pod = place.publishing(vec![mapping(Protocol::Sctp, 7070, 30070)]).await;
    let rules = || place.site.host.sh("nft list ruleset");
    let text = rules();
    let is_there = |line: &&str| line.contains("sctp") && line.contains("30070");
    assert!(text.lines().any(|line| is_there(&line)), "{text}");
    place.site.remove(&pod).await;
    let text = rules();
    assert!(!text.lines().any(|line| is_there(&line)), "{text}");
}
