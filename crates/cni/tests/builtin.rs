//! The built-in network on a "host" of each test's own: packets that arrive, and nothing left when the last pod is gone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;

use cni::{Attachment, BuiltinNetwork, Cidr, Error, Networks, PortMapping, Protocol, Subnet};
use support::netns::{Netns, on_own_host, sh};
use support::{Node, attachment, shown, until};

fn subnet(address: &str, prefix: u8) -> Subnet {
    Subnet { network: Cidr { address: address.parse().unwrap(), prefix }, gateway: None }
}

fn network() -> BuiltinNetwork {
    BuiltinNetwork {
        name: "test".into(),
        bridge: "knarrtest0".into(),
        subnets: vec![subnet("10.231.0.0", 24), subnet("fd00:231::", 64)],
        mtu: None,
    }
}

fn port(host_port: u16, protocol: Protocol) -> PortMapping {
    PortMapping { host_port, container_port: 80, protocol, host_ip: None }
}

fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

struct Pod {
    netns: Netns,
    attachment: Attachment,
    ips: Vec<IpAddr>,
}

/// A pod with servers for both transports on port 80.
async fn pod(networks: &Networks, name: &str, port_mappings: Vec<PortMapping>) -> Pod {
    let netns = Netns::new();
    let attachment = Attachment { port_mappings, ..attachment(name, &netns.path()) };
    let added = networks.add(&attachment).await;
    let ips = added.unwrap_or_else(|error| panic!("{}", shown(&error))).ips;
    netns.tcp_server("[::]:80");
    netns.udp_server("[::]:80");
    Pod { netns, attachment, ips }
}

/// What the network state of the calling thread's namespace consists of.
fn state() -> String {
    sh("ip -br link | awk '{print $1}'; ip -br address; ip route; ip -6 route; nft list ruleset")
}

/// A world outside the host: 192.0.2.2 and 2001:db8::2, to which the host is .1 and ::1.
fn outside() -> Netns {
    let outside = Netns::new();
    sh(&format!("ip link add up0 type veth peer name eth0 netns {}", outside.path().display()));
    sh(
        "ip address add 192.0.2.1/24 dev up0; ip -6 address add 2001:db8::1/64 dev up0 nodad; ip link set up0 up",
    );
    outside.run(|| {
        sh("ip address add 192.0.2.2/24 dev eth0; ip -6 address add 2001:db8::2/64 dev eth0 nodad");
        sh("ip link set eth0 up");
        sh("ip route add default via 192.0.2.1; ip -6 route add default via 2001:db8::1");
    });
    sh("ip route add default via 192.0.2.2; ip -6 route add default via 2001:db8::2");
    outside.tcp_server("[::]:80");
    outside
}

/// IPv4 seen through a dual-stack socket is mapped.
fn plain(seen: Result<IpAddr, String>) -> Result<String, String> {
    seen.map(|address| address.to_canonical().to_string())
}

#[test]
fn pods_reach_each_other_the_host_and_the_world() {
    on_own_host(|| async {
        let (node, outside, host) = (Node::new(), outside(), Netns::current());
        let networks = node.open_builtin(network());
        let (first, second) =
            (pod(&networks, "first", Vec::new()).await, pod(&networks, "second", Vec::new()).await);
        assert_eq!(first.ips, ["10.231.0.2".parse::<IpAddr>().unwrap(), "fd00:231::2".parse().unwrap()]);
        for family in 0..2 {
            let (one, other) = (first.ips[family], second.ips[family]);
            assert_eq!(plain(first.netns.ask_tcp(at(other, 80))), Ok(one.to_string()));
            assert_eq!(plain(second.netns.ask_udp(at(one, 80))), Ok(other.to_string()));
            assert!(host.ask_tcp(at(one, 80)).is_ok());
        }
        // The world sees the host's address, not the pod's.
        for (world, seen) in [("192.0.2.2", "192.0.2.1"), ("2001:db8::2", "2001:db8::1")] {
            assert_eq!(plain(first.netns.ask_tcp(at(world.parse().unwrap(), 80))), Ok(seen.into()));
        }
        networks.check(&first.attachment).await.unwrap();
        outside.run(|| ());
    });
}

#[test]
fn host_ports_lead_to_the_pod_from_everywhere() {
    on_own_host(|| async {
        let (node, outside, host) = (Node::new(), outside(), Netns::current());
        let networks = node.open_builtin(network());
        let ports = vec![port(8080, Protocol::Tcp), port(8080, Protocol::Udp), port(8081, Protocol::Sctp)];
        let (server, other) =
            (pod(&networks, "server", ports).await, pod(&networks, "other", Vec::new()).await);
        for (of_host, world) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
            let target = at(of_host.parse().unwrap(), 8080);
            assert_eq!(plain(outside.ask_tcp(target)), Ok(world.into()), "source address kept");
            assert_eq!(plain(outside.ask_udp(target)), Ok(world.into()), "source address kept");
            assert!(host.ask_tcp(target).is_ok(), "from the host itself");
            // Whether what goes within the bridge passes the rules or not.
            for filtered in [0, 1] {
                let settings =
                    ["iptables", "ip6tables"].map(|of| format!("net.bridge.bridge-nf-call-{of}={filtered}"));
                sh(&format!("sysctl -qw {} || true", settings.join(" ")));
                other
                    .netns
                    .ask_tcp(target)
                    .unwrap_or_else(|error| panic!("another pod, {filtered}: {error}"));
                server.netns.ask_tcp(target).unwrap_or_else(|error| panic!("itself, {filtered}: {error}"));
            }
        }
        host.ask_tcp("127.0.0.1:8080".parse().unwrap()).expect("by the host's loopback");
        host.ask_udp("127.0.0.1:8080".parse().unwrap()).expect("by the host's loopback");
        let ruleset = sh("nft list table ip knarr");
        assert!(ruleset.contains("sctp . 8081 comment \"test/server/eth0\" : 10.231.0.2 . 80"), "{ruleset}");
        networks.del(&server.attachment).await.unwrap();
        assert!(outside.ask_tcp("192.0.2.1:8080".parse().unwrap()).is_err());
        let ruleset = sh("nft list ruleset");
        assert!(!ruleset.contains("8080") && !ruleset.contains("8081"), "{ruleset}");
    });
}

#[test]
fn datagrams_from_one_port_find_the_pod_that_is_there() {
    on_own_host(|| async {
        let (node, outside) = (Node::new(), outside());
        let networks = node.open_builtin(network());
        // With somebody attached, connections are remembered before the port is published.
        let _keeper = pod(&networks, "keeper", Vec::new()).await;
        let client = outside.run(|| std::net::UdpSocket::bind("192.0.2.2:4000").unwrap());
        client.connect("192.0.2.1:8080").unwrap();
        client.set_read_timeout(Some(std::time::Duration::from_secs(1))).unwrap();
        let ask = || client.send(b"?").and_then(|_| client.recv(&mut [0; 100]));
        for name in ["first", "second"] {
            assert_eq!(ask().unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused, "before {name}");
            let pod = pod(&networks, name, vec![port(8080, Protocol::Udp)]).await;
            ask().unwrap_or_else(|error| panic!("{name}: {error}"));
            networks.del(&pod.attachment).await.unwrap();
        }
        assert_eq!(ask().unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused, "after both");
    });
}

#[test]
fn what_comes_by_anothers_rule_keeps_its_source() {
    on_own_host(|| async {
        let node = Node::new();
        let networks = node.open_builtin(network());
        let server = pod(&networks, "server", vec![port(8080, Protocol::Tcp)]).await;
        let client = pod(&networks, "client", Vec::new()).await;
        server.netns.tcp_server("[::]:81");
        // As a service's rule does; answers on a bridge come back through it only with br_netfilter.
        sh("sysctl -qw net.bridge.bridge-nf-call-iptables=1");
        sh(
            "nft 'table ip services { chain c { type nat hook prerouting priority dstnat; ip daddr 10.96.0.1 tcp dport 81 dnat to 10.231.0.2:81; }; }'",
        );
        let seen = client.netns.ask_tcp("10.96.0.1:81".parse().unwrap());
        assert_eq!(plain(seen), Ok(client.ips[0].to_string()));
        drop(server);
    });
}

#[test]
fn a_host_port_of_one_address_answers_there_only() {
    on_own_host(|| async {
        let (node, outside) = (Node::new(), outside());
        sh("ip address add 192.0.2.9/24 dev up0");
        let networks = node.open_builtin(network());
        let of = |address: &str, host_port| PortMapping {
            host_ip: Some(address.parse().unwrap()),
            ..port(host_port, Protocol::Tcp)
        };
        let ports = vec![of("192.0.2.9", 8080), of("0.0.0.0", 8082)];
        let _pod = pod(&networks, "server", ports).await;
        outside.ask_tcp("192.0.2.9:8080".parse().unwrap()).unwrap();
        outside.ask_tcp("192.0.2.1:8080".parse().unwrap()).unwrap_err();
        outside.ask_tcp("192.0.2.1:8082".parse().unwrap()).unwrap();
    });
}

#[test]
fn a_host_port_is_given_once() {
    on_own_host(|| async {
        let node = Node::new();
        let networks = node.open_builtin(network());
        let first = pod(&networks, "first", vec![port(8080, Protocol::Tcp)]).await;
        let netns = Netns::new();
        let ports = vec![port(8083, Protocol::Tcp), port(8080, Protocol::Tcp)];
        let second = Attachment { port_mappings: ports, ..attachment("second", &netns.path()) };
        let error = networks.add(&second).await.unwrap_err();
        assert!(matches!(error, Error::HostPortTaken { port: 8080, .. }), "{}", shown(&error));
        // The first one's is untouched, of the second nothing is left.
        Netns::current().ask_tcp("127.0.0.1:8080".parse().unwrap()).unwrap();
        assert!(!sh("nft list ruleset").contains("8083"));
        assert!(!netns.run(|| sh("ip -br link")).contains("eth0"));
        assert_eq!(node.records().len(), 1);
        networks.del(&first.attachment).await.unwrap();
        networks.add(&second).await.unwrap();
    });
}

#[test]
fn nothing_is_left_after_the_last_pod() {
    on_own_host(|| async {
        let node = Node::new();
        // Sysctls apart, which stay as every network leaves them.
        let before = state();
        let networks = node.open_builtin(network());
        for round in 0..3 {
            let ports = vec![port(8080, Protocol::Tcp), port(8080, Protocol::Udp)];
            let first = pod(&networks, &format!("first{round}"), ports).await;
            let second = pod(&networks, &format!("second{round}"), Vec::new()).await;
            networks.del(&first.attachment).await.unwrap();
            assert!(sh("ip -br link").contains("knarrtest0"));
            // The namespace of the second goes before it is detached.
            let Pod { netns, attachment, .. } = second;
            drop(netns);
            networks.del(&attachment).await.unwrap();
            networks.del(&attachment).await.unwrap();
            networks.settle().await.unwrap();
            assert_eq!(state(), before);
        }
        assert!(node.records().is_empty());
        let files = fs::read_dir(node.path("state/addresses/test")).unwrap();
        let mut names: Vec<_> = files.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["last_reserved_ip.0", "last_reserved_ip.1", "lock"]);
    });
}

#[test]
fn the_ground_goes_by_itself_a_while_after_the_last_pod() {
    on_own_host(|| async {
        let node = Node::new();
        let before = state();
        let networks = node.open_builtin(network());
        let first = pod(&networks, "first", Vec::new()).await;
        networks.del(&first.attachment).await.unwrap();
        // Cut off at once, though the interface takes its time.
        assert!(Netns::current().ask_tcp(at(first.ips[0], 80)).is_err());
        until("state", state, |state| *state == before).await;
        pod(&networks, "second", Vec::new()).await;
    });
}

#[test]
fn another_daemon_finds_what_one_left_and_keeps_it() {
    on_own_host(|| async {
        let node = Node::new();
        let before = state();
        let networks = node.open_builtin(network());
        let first = pod(&networks, "first", vec![port(8080, Protocol::Tcp)]).await;
        drop(networks);
        let networks = node.open_builtin(network());
        let second = pod(&networks, "second", Vec::new()).await;
        assert_ne!(first.ips, second.ips);
        second.netns.ask_tcp(at(first.ips[0], 80)).unwrap();
        Netns::current().ask_tcp("127.0.0.1:8080".parse().unwrap()).unwrap();
        drop(networks);
        // Neither is valid any more: a collection leaves nothing of them.
        let networks = node.open_builtin(network());
        networks.gc(HashSet::new).await.unwrap();
        assert_eq!(state(), before);
        assert!(node.records().is_empty());
    });
}

#[test]
fn a_detach_that_was_not_finished_is_collected() {
    on_own_host(|| async {
        let node = Node::new();
        let before = state();
        let networks = node.open_builtin(network());
        let first = pod(&networks, "first", Vec::new()).await;
        let record = &node.records()[0];
        // As after a crash behind the answer to DEL.
        let mut text: serde_json::Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
        text["detached"] = true.into();
        fs::write(record, text.to_string()).unwrap();
        drop(networks);
        let networks = node.open_builtin(network());
        assert!(matches!(networks.check(&first.attachment).await, Err(Error::NotAttached { .. })));
        networks.gc(move || [first.attachment.id()].into()).await.unwrap();
        assert_eq!(state(), before);
        assert!(node.records().is_empty());
    });
}

#[test]
fn an_attachment_cut_short_is_cleaned_up_by_its_owner_alone() {
    on_own_host(|| async {
        let node = Node::new();
        let before = state();
        let networks = node.open_builtin(network());
        let first = pod(&networks, "first", vec![port(8080, Protocol::Tcp)]).await;
        drop(networks);
        let record = &node.records()[0];
        let mut text: serde_json::Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
        text["result"] = serde_json::Value::Null;
        fs::write(record, text.to_string()).unwrap();
        let networks = node.open_builtin(network());
        networks.del(&first.attachment).await.unwrap();
        networks.settle().await.unwrap();
        assert_eq!(state(), before);
        assert!(!node.path("state/addresses/test/10.231.0.2").exists());
    });
}

#[test]
fn many_at_once_get_different_addresses() {
    on_own_host(|| async {
        let node = Node::new();
        let before = state();
        let networks = node.open_builtin(network());
        let namespaces: Vec<Netns> = (0..40).map(|_| Netns::new()).collect();
        let attachments: Vec<Attachment> = namespaces
            .iter()
            .enumerate()
            .map(|(n, netns)| attachment(&format!("pod{n}"), &netns.path()))
            .collect();
        let adding: Vec<_> = attachments
            .iter()
            .map(|attachment| {
                let (networks, attachment) = (networks.clone(), attachment.clone());
                tokio::spawn(async move { networks.add(&attachment).await })
            })
            .collect();
        let mut addresses = std::collections::HashSet::new();
        for adding in adding {
            addresses.extend(adding.await.unwrap().unwrap().ips);
        }
        assert_eq!(addresses.len(), 80);
        let deleting: Vec<_> = attachments
            .iter()
            .map(|attachment| {
                let (networks, attachment) = (networks.clone(), attachment.clone());
                tokio::spawn(async move { networks.del(&attachment).await })
            })
            .collect();
        for deleting in deleting {
            deleting.await.unwrap().unwrap();
        }
        networks.settle().await.unwrap();
        assert_eq!(state(), before);
    });
}

#[test]
fn addresses_run_out_with_a_word_and_come_back() {
    on_own_host(|| async {
        let node = Node::new();
        let small = BuiltinNetwork { subnets: vec![subnet("10.232.0.0", 30)], ..network() };
        let networks = node.open_builtin(small);
        let first = pod(&networks, "first", Vec::new()).await;
        let netns = Netns::new();
        let second = attachment("second", &netns.path());
        let error = networks.add(&second).await.unwrap_err();
        assert!(matches!(error, Error::AddressesExhausted { .. }), "{error}");
        networks.del(&first.attachment).await.unwrap();
        networks.settle().await.unwrap();
        assert_eq!(networks.add(&second).await.unwrap().ips, first.ips);
    });
}

#[test]
fn the_mtu_is_that_of_the_way_out() {
    on_own_host(|| async {
        let (node, _outside) = (Node::new(), outside());
        sh("ip link set up0 mtu 1400");
        let networks = node.open_builtin(network());
        let pod = pod(&networks, "first", Vec::new()).await;
        let link = pod.netns.run(|| sh("ip link show eth0"));
        assert!(link.contains("mtu 1400"), "{link}");
        // Below what IPv6 needs, where the kernel has none of its settings.
        let narrow = BuiltinNetwork {
            name: "narrow".into(),
            bridge: "knarrtest1".into(),
            subnets: vec![subnet("10.232.0.0", 24)],
            mtu: Some(1000),
        };
        let node = Node::new();
        let networks = node.open_builtin(narrow);
        let pod = self::pod(&networks, "second", Vec::new()).await;
        let link = pod.netns.run(|| sh("ip link show eth0"));
        assert!(link.contains("mtu 1000"), "{link}");
        Netns::current().ask_tcp(at(pod.ips[0], 80)).unwrap();
    });
}

#[test]
fn a_pod_cannot_reach_the_hosts_loopback_nor_follow_a_router() {
    on_own_host(|| async {
        let (node, host) = (Node::new(), Netns::current());
        let networks = node.open_builtin(network());
        let pod = pod(&networks, "first", Vec::new()).await;
        host.tcp_server("127.0.0.1:9000");
        pod.netns.run(|| {
            sh("ip route add 127.0.0.1/32 via 10.231.0.1 table 5; ip rule add pref 0 to 127.0.0.1 table 5");
            sh("ip rule add pref 1 table local; ip rule del pref 0 table local; echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet");
        });
        pod.netns.ask_tcp("127.0.0.1:9000".parse().unwrap()).unwrap_err();
        let accept = pod.netns.run(|| sh("cat /proc/sys/net/ipv6/conf/eth0/accept_ra"));
        assert_eq!(accept.trim(), "0");
    });
}

#[test]
fn what_is_no_namespace_is_refused() {
    on_own_host(|| async {
        let node = Node::new();
        let before = state();
        let networks = node.open_builtin(network());
        for path in ["/etc/passwd", "/nonexistent"] {
            let error = networks.add(&attachment("first", path.as_ref())).await.unwrap_err();
            assert!(matches!(error, Error::Namespace { .. }), "{error}");
        }
        assert_eq!(state(), before);
        assert!(node.records().is_empty());
    });
}

#[test]
fn tables_that_somebody_flushes_come_back_with_the_host_ports_that_were_in_them() {
    on_own_host(|| async {
        let node = Node::new();
        let before = state();
        let networks = node.open_builtin(network());
        let first = pod(&networks, "first", vec![port(8080, Protocol::Tcp)]).await;
        let host_port: SocketAddr = "127.0.0.1:8080".parse().unwrap();
        sh("nft flush ruleset");
        Netns::current().ask_tcp(host_port).unwrap_err();
        let second = pod(&networks, "second", Vec::new()).await;
        Netns::current().ask_tcp(host_port).unwrap();
        // Nor does it take a new pod: the collection sees to it.
        sh("nft flush ruleset");
        let (one, two) = (first.attachment.id(), second.attachment.id());
        networks.gc(move || [one.clone(), two.clone()].into()).await.unwrap();
        Netns::current().ask_tcp(host_port).unwrap();
        for pod in [first, second] {
            networks.del(&pod.attachment).await.unwrap();
        }
        networks.settle().await.unwrap();
        assert_eq!(state(), before);
    });
}

#[test]
fn a_link_that_somebody_took_off_the_bridge_is_detached_all_the_same() {
    on_own_host(|| async {
        let node = Node::new();
        let before = state();
        let networks = node.open_builtin(network());
        for broken in
            ["ip link set \"$link\" down", "ip link set \"$link\" nomaster", "ip link delete knarrtest0"]
        {
            let pod = pod(&networks, "pod", Vec::new()).await;
            sh(&format!(
                "link=$(ip -br link show type veth | awk '{{print $1}}' | cut -d@ -f1 | head -1); {broken}"
            ));
            networks.del(&pod.attachment).await.unwrap_or_else(|error| panic!("{broken}: {}", shown(&error)));
            networks.settle().await.unwrap();
            assert_eq!(state(), before, "{broken}");
        }
    });
}

#[test]
fn a_bridge_is_one_daemons() {
    on_own_host(|| async {
        let (node, other) = (Node::new(), Node::new());
        let networks = node.open_builtin(network());
        let config = cni::Config { builtin: Some(network()), ..other.config() };
        assert!(matches!(Networks::open(config.clone()), Err(Error::BridgeTaken { .. })));
        drop(networks);
        Networks::open(config).unwrap();
    });
}

/// Pods outlive their daemon: another one, started meanwhile, would take them for leftovers.
#[test]
fn a_bridge_stays_one_daemons_while_its_pods_are_there_and_it_is_away() {
    on_own_host(|| async {
        let (node, other) = (Node::new(), Node::new());
        let config = cni::Config { builtin: Some(network()), ..other.config() };
        let networks = node.open_builtin(network());
        let first = pod(&networks, "first", Vec::new()).await;
        drop(networks);
        let refused = Networks::open(config.clone()).unwrap_err();
        assert!(shown(&refused).contains(node.path("state").to_str().unwrap()), "{}", shown(&refused));
        let networks = node.open_builtin(network());
        first.netns.ask_tcp(at(first.ips[0], 80)).unwrap();
        networks.del(&first.attachment).await.unwrap();
        networks.settle().await.unwrap();
        drop(networks);
        let networks = Networks::open(config).unwrap();
        let second = pod(&networks, "second", Vec::new()).await;
        drop(networks);
        // Nobody comes back to a directory that is gone.
        drop(other);
        node.open_builtin(network());
        drop(second);
    });
}

#[test]
fn a_bridge_that_somebody_else_made_stays() {
    on_own_host(|| async {
        let node = Node::new();
        sh("ip link add knarrtest0 type bridge; ip link set knarrtest0 mtu 1400 alias 'the operator'");
        let networks = node.open_builtin(network());
        // Before there has been any pod, and after the last.
        networks.gc(HashSet::new).await.unwrap();
        let before = sh("ip -d link show knarrtest0");
        assert!(before.contains("mtu 1400"));
        let first = pod(&networks, "first", Vec::new()).await;
        first.netns.ask_tcp(at(first.ips[0], 80)).unwrap();
        networks.del(&first.attachment).await.unwrap();
        networks.settle().await.unwrap();
        networks.gc(HashSet::new).await.unwrap();
        assert!(sh("ip link show knarrtest0").contains("alias the operator"));
        // One that somebody made a port of is in use, whoever made the bridge.
        sh("ip link delete knarrtest0");
        let second = pod(&networks, "second", Vec::new()).await;
        assert!(sh("ip link show knarrtest0").contains("alias knarr"));
        sh("ip link add other type veth peer name peer; ip link set other master knarrtest0");
        networks.del(&second.attachment).await.unwrap();
        networks.settle().await.unwrap();
        sh("ip link show knarrtest0; ip link delete other");
        networks.settle().await.unwrap();
        assert!(!sh("ip -br link").contains("knarrtest0"));
    });
}

#[test]
fn the_bridge_of_an_earlier_configuration_goes_unless_it_is_anothers_now() {
    on_own_host(|| async {
        let (node, other) = (Node::new(), Node::new());
        let before = state();
        let later = BuiltinNetwork {
            bridge: "knarrtest1".into(),
            subnets: vec![subnet("10.232.0.0", 24)],
            ..network()
        };
        for taken in [true, false] {
            let networks = node.open_builtin(network());
            let first = pod(&networks, "first", Vec::new()).await;
            drop(networks);
            let claimed = taken.then(|| {
                // Whose it was gets lost, for one, when /run is another: in a container.
                let namespace = fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
                fs::remove_file(format!("/run/knarr-bridges/knarrtest0@{namespace}")).unwrap();
                other.open_builtin(network())
            });
            let networks = node.open_builtin(later.clone());
            networks.del(&first.attachment).await.unwrap();
            networks.settle().await.unwrap();
            assert_eq!(sh("ip -br link").contains("knarrtest0"), taken);
            // Nobody is kept from it any more.
            let claimed = claimed.unwrap_or_else(|| other.open_builtin(network()));
            claimed.settle().await.unwrap();
            assert_eq!(state(), before);
        }
    });
}

#[test]
fn what_a_daemon_of_old_attached_is_detached() {
    on_own_host(|| async {
        let node = Node::new();
        let before = state();
        let networks = node.open_builtin(network());
        let first = pod(&networks, "first", Vec::new()).await;
        drop(networks);
        // Its interfaces had other names, its results no hardware addresses of the host's, its records no word on the means.
        let record = &node.records()[0];
        let mut text: serde_json::Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
        let port = &mut text["result"]["interfaces"][1];
        sh(&format!("ip link set {} name knarr0123456789", port["name"].as_str().unwrap()));
        *port = serde_json::json!({"name": "knarr0123456789", "mtu": 1500});
        text.as_object_mut().unwrap().remove("native");
        fs::write(record, text.to_string()).unwrap();
        let networks = node.open_builtin(network());
        networks.check(&first.attachment).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
        networks.del(&first.attachment).await.unwrap();
        assert!(Netns::current().ask_tcp(at(first.ips[0], 80)).is_err());
        networks.settle().await.unwrap();
        assert_eq!(state(), before);
        assert!(node.records().is_empty());
    });
}
