//! What tests of the tables stand on: pods and a world around a "host", made with `ip` and without our own code.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::netns::{Netns, sh};

pub(in crate::builtin) fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(in crate::builtin) fn forward() {
    sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
}

/// Waits until neighbours can be asked for on a link: that takes a link-local address, which comes a while after the carrier.
fn settle(link: &str) {
    let start = Instant::now();
    while sh(&format!("ip -6 -o address show dev {link} scope link -tentative")).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(20), "{link} has no address: {}", sh("ip address"));
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A namespace on a link of its own, which the host reaches and is reached by at these addresses.
pub(in crate::builtin) fn link(netns: &Netns, name: &str, ours: &[&str], theirs: &[&str]) {
    let peer = netns.path();
    sh(&format!(
        "ip link add {name} type veth peer name eth0 netns {}; ip link set {name} up",
        peer.display()
    ));
    let add = |link: &str, address: &str| drop(sh(&format!("ip address add {address} dev {link} nodad")));
    ours.iter().for_each(|address| add(name, address));
    netns.run(|| {
        theirs.iter().for_each(|address| add("eth0", address));
        sh("ip link set eth0 up");
        for address in ours {
            sh(&format!("ip route replace {address} dev eth0; ip route add default via {address} dev eth0"));
        }
    });
    for address in theirs {
        sh(&format!("ip route replace {address} dev {name}"));
    }
    settle(name);
    netns.run(|| settle("eth0"));
}

/// A bridge `br0`, 10.1.0.1/16 and fd01::1/64.
pub(in crate::builtin) fn bridge() {
    sh("ip link add br0 type bridge; ip link set br0 up");
    sh("ip address add 10.1.0.1/16 dev br0; ip address add fd01::1/64 dev br0 nodad");
}

/// A namespace at that bridge, 10.1.0.`number` and fd01::`number`.
pub(in crate::builtin) fn port(netns: &Netns, number: u8) {
    let (name, peer) = (format!("port{number}"), netns.path());
    sh(&format!("ip link add {name} type veth peer name eth0 netns {}", peer.display()));
    sh(&format!("ip link set {name} master br0 up; bridge link set dev {name} hairpin on"));
    netns.run(|| {
        sh(&format!(
            "ip address add 10.1.0.{number}/16 dev eth0; ip address add fd01::{number}/64 dev eth0 nodad"
        ));
        sh("ip link set eth0 up; ip route add default via 10.1.0.1; ip route add default via fd01::1");
        settle("eth0");
    });
    settle("br0");
}

/// A world outside, 192.0.2.2 and 2001:db8::2, to which the host is .1 and ::1.
pub(in crate::builtin) fn world() -> Netns {
    let world = Netns::new();
    link(&world, "world", &["192.0.2.1", "2001:db8::1"], &["192.0.2.2", "2001:db8::2"]);
    world
}
