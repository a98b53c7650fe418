//! The built-in network on a "host" of each test's own: packets that arrive, and nothing left when the last pod is gone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod addresses;
mod bridges;
mod daemons;
mod ends;
mod host_ports;
#[path = "../support/mod.rs"]
mod support;
mod traffic;

use std::net::{IpAddr, SocketAddr};

use cni::{Attachment, BuiltinNetwork, Cidr, Networks, PortMapping, Protocol, Subnet};
use support::netns::{Netns, sh};
use support::{attachment, shown};

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
