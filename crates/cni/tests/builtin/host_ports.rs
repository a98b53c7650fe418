//! Host ports, and the tables that they are in.

use std::net::SocketAddr;

use cni::{Attachment, Error, PortMapping, Protocol};

use crate::support::netns::{Netns, on_own_host, sh};
use crate::support::{Node, attachment, shown};
use crate::{at, network, outside, plain, pod, port, state};
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

/// `nft list ruleset` into a file that is loaded at each boot, and whenever a service is restarted.
#[test]
fn a_host_port_of_saved_rules_is_nobodys_but_that_of_a_pod_is() {
    on_own_host(|| async {
        let node = Node::new();
        let networks = node.open_builtin(network());
        let ports = || vec![port(8080, Protocol::Tcp), port(8081, Protocol::Udp)];
        let gone = pod(&networks, "gone", vec![port(8080, Protocol::Tcp)]).await;
        let too = pod(&networks, "too", vec![port(8081, Protocol::Udp)]).await;
        sh(&format!("(echo flush ruleset; nft list ruleset) > {}", node.path("saved").display()));
        for gone in [gone, too] {
            networks.del(&gone.attachment).await.unwrap();
        }
        networks.settle().await.unwrap();
        sh(&format!("nft -f {}", node.path("saved").display()));
        assert!(sh("nft list ruleset").contains("test/gone/eth0"));
        let first = pod(&networks, "first", ports()).await;
        Netns::current().ask_tcp("127.0.0.1:8080".parse().unwrap()).unwrap();
        let ruleset = sh("nft list ruleset");
        assert!(!ruleset.contains("test/gone/eth0") && !ruleset.contains("test/too/eth0"), "{ruleset}");
        // Who has lost its link is there all the same, and so is a link whose record is lost.
        let netns = Netns::new();
        let second = Attachment { port_mappings: ports(), ..attachment("second", &netns.path()) };
        let is_taken = |outcome: Result<_, Error>| {
            let error = outcome.map(|_: cni::Added| ()).unwrap_err();
            assert!(matches!(error, Error::HostPortTaken { .. }), "{}", shown(&error));
        };
        let (record, aside) = (&node.records()[0], node.path("aside"));
        std::fs::rename(record, &aside).unwrap();
        is_taken(networks.add(&second).await);
        std::fs::rename(&aside, record).unwrap();
        first.netns.run(|| sh("ip link delete eth0"));
        is_taken(networks.add(&second).await);
    });
}
