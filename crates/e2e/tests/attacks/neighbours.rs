//! What a pod can do to its neighbours on the same segment.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::sync::Arc;

use e2e::node::PATIENCE;
use e2e::{Client, Netns, Network, Node, Setup, until};
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket, sockopt};
use serde_json::json;

/// A plugin that lays a cable to a bridge of the host's and does nothing else: no defence is its own.
const CABLE: &str = r#"#!/bin/sh -e
host=at$(printf %s "$CNI_CONTAINERID" | cut -c 1-10)
case $CNI_COMMAND in
ADD)
    ip link add "$host" type veth peer name "$CNI_IFNAME" netns "$CNI_NETNS"
    ip link set "$host" master segment up
    nsenter --net="$CNI_NETNS" ip link set "$CNI_IFNAME" up
    echo "{\"cniVersion\":\"1.0.0\",\"interfaces\":[{\"name\":\"$CNI_IFNAME\",\"sandbox\":\"$CNI_NETNS\"}]}" ;;
DEL) ip link del "$host" 2>/dev/null || : ;;
esac
"#;

/// The network that the attacker says it is the router of (RFC 3849).
const PREFIX: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 0);

/// A router advertisement (RFC 4861, section 4.2) with the prefix to make addresses of. The kernel adds the checksum.
fn advertisement() -> Vec<u8> {
    const HALF_AN_HOUR: u16 = 1800;
    let mut packet = vec![134, 0, 0, 0, 64, 0];
    packet.extend(HALF_AN_HOUR.to_be_bytes());
    packet.extend([0; 8]);
    // Prefix information: on the link, and for addresses of one's own.
    packet.extend([3, 4, 64, 0xc0]);
    packet.extend(u32::from(HALF_AN_HOUR).to_be_bytes());
    packet.extend(u32::from(HALF_AN_HOUR).to_be_bytes());
    packet.extend([0; 4]);
    packet.extend(PREFIX.octets());
    packet
}

/// Says to everybody on the segment of `eth0` to be their router.
fn advertise(attacker: &Netns) -> rustix::io::Result<()> {
    attacker.run(|| {
        let socket = socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::ICMPV6))?;
        // What has passed a router is not believed (section 6.1.2).
        sockopt::set_ipv6_multicast_hops(&socket, 255)?;
        let interface = rustix::net::netdevice::name_to_index(&socket, "eth0")?;
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        sendto(
            &socket,
            &advertisement(),
            SendFlags::empty(),
            &SocketAddrV6::new(all_nodes, 0, 0, interface),
        )?;
        Ok(())
    })
}

/// What an interface has learnt from advertisements.
fn learnt(netns: &Netns, interface: &str) -> Vec<String> {
    let said =
        netns.sh(&format!("ip -6 route show dev {interface}; ip -6 -oneline addr show dev {interface}"));
    said.lines()
        .filter(|line| line.contains("2001:db8:bad") || line.starts_with("default"))
        .map(str::to_owned)
        .collect()
}

/// How many advertisements have come to a pod.
fn heard(netns: &Netns) -> u32 {
    let counters = netns.sh("cat /proc/net/snmp6");
    let found = counters.lines().find_map(|line| line.strip_prefix("Icmp6InRouterAdvertisements"));
    found.and_then(|number| number.trim().parse().ok()).unwrap_or_default()
}

async fn pod(node: &Node, client: &Client) -> Netns {
    let config = node.pod();
    let pod = client.run_pod(config.clone()).await.unwrap();
    let container = client.create(&pod, node.busybox("main", &["sleep", "1000"]), &config).await.unwrap();
    client.start(&container).await.unwrap();
    Netns::of(*node.processes_of(&container).first().unwrap())
}

#[tokio::test]
async fn a_neighbour_does_not_become_the_router() {
    let host = Arc::new(Netns::new());
    host.sh("ip link add segment type bridge; ip link set segment up");
    let setup = Setup::new(Network::Plugins).inside(&host).plugin("cable", CABLE);
    let node = setup.conflist("segment", json!([{ "type": "cable" }])).start().await;
    let client = node.client();
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    let (attacker, victim) = (pod(&node, &client).await, pod(&node, &client).await);
    // Who believes what it is told sees that the attack is one.
    let witness = Netns::new();
    host.connect("witness", &witness, "eth0");
    host.sh("ip link set witness master segment");
    until(PATIENCE, "an advertisement", || async {
        // Refused while the attacker's address is still tried (RFC 4862, section 5.4).
        advertise(&attacker).map_err(|error| error.to_string())?;
        let learnt = learnt(&witness, "eth0");
        if learnt.len() > 2 { Ok(()) } else { Err(format!("{learnt:?}")) }
    })
    .await;
    // With the second the kernel is done with the first.
    until(PATIENCE, "two advertisements in the pod", || async {
        advertise(&attacker).map_err(|error| error.to_string())?;
        let heard = heard(&victim);
        if heard >= 2 { Ok(()) } else { Err(format!("{heard}")) }
    })
    .await;
    let learnt = learnt(&victim, "eth0");
    assert!(learnt.is_empty(), "the attack succeeded: {learnt:?}");
}
