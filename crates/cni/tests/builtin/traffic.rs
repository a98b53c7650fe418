//! What passes between pods, the host and the world, and what does not.

use std::net::IpAddr;

use cni::{BuiltinNetwork, Protocol};

use crate::support::Node;
use crate::support::netns::{Netns, on_own_host, sh};
use crate::{at, network, outside, plain, pod, port, subnet};
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
