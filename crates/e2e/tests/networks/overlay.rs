//! An overlay between two nodes: pods of both on one subnet, over vxlan, which a plugin of the chain brings along.

use std::sync::Arc;
use std::time::Instant;

use e2e::{Netns, Network, Setup, needs};
use serde_json::{Value, json};

use crate::rig::{Member, Site};

by_every_kind_of_plugins!(pods_of_two_nodes_reach_each_other);

/// What IPv4 (20 bytes), UDP (8), vxlan (8) and Ethernet (14) leave of 1500 (RFC 7348, section 5).
const MTU: usize = 1450;
/// How much is transferred each way, in MiB.
const SIZE: usize = 100;
const UNDERLAY: [&str; 2] = ["192.0.2.1", "192.0.2.2"];

/// A node, the first or the second, at a port of `underlay`.
async fn node(plugins: Network, underlay: &Netns, at: usize) -> Site {
    let host = Arc::new(Netns::new());
    underlay.connect(&format!("port{at}"), &host, "up0");
    underlay.sh(&format!("ip link set port{at} master switch0"));
    host.sh(&format!("ip addr add {}/24 dev up0", UNDERLAY[at]));
    let setup =
        Setup::new(plugins).conflist("overlay", networks(at)).plugin("vxlan", include_str!("vxlan.sh"));
    Site::on(host, setup).await
}

/// Each node gives out addresses of its own part of a subnet that both share.
fn networks(at: usize) -> Value {
    let part = at + 1;
    let v4 = json!({ "subnet": "10.244.0.0/16", "gateway": format!("10.244.{part}.1"),
                     "rangeStart": format!("10.244.{part}.2"), "rangeEnd": format!("10.244.{part}.254") });
    let v6 = json!({ "subnet": "fd00:244::/48", "gateway": format!("fd00:244:0:{part}::1"),
                     "rangeStart": format!("fd00:244:0:{part}::2"), "rangeEnd": format!("fd00:244:0:{part}::ff") });
    json!([
        { "type": "bridge", "bridge": "overlay0", "mtu": MTU, "isGateway": true, "ipMasq": true,
          "ipam": { "type": "host-local", "ranges": [[v4], [v6]],
                    "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }] } },
        { "type": "vxlan", "bridge": "overlay0", "device": "vx0", "vni": 42, "underlay": "up0",
          "remote": UNDERLAY[1 - at] },
        { "type": "portmap", "capabilities": { "portMappings": true } },
    ])
}

async fn pods_of_two_nodes_reach_each_other(plugins: Network) {
    needs!("jq", "flock");
    let underlay = Netns::new();
    underlay.sh("ip link add switch0 type bridge; ip link set switch0 up");
    let (near, far) = tokio::join!(node(plugins, &underlay, 0), node(plugins, &underlay, 1));
    let (one, neighbour, other) = tokio::join!(near.member(), near.member(), far.member());
    one.reaches(&other, other.v4()).await;
    other.reaches(&one, one.v6()).await;
    other.reaches(&neighbour, neighbour.v4()).await;
    for member in [&one, &other] {
        assert_eq!(member.sh("cat /sys/class/net/eth0/mtu").await, MTU.to_string());
    }
    // As much as fits into one packet: what IP (20 or 40 bytes) and ICMP (8) leave.
    one.sh(&format!("ping -c 1 -W 3 -s {} {}", MTU - 28, other.v4())).await;
    one.sh(&format!("ping6 -c 1 -W 3 -s {} {}", MTU - 48, other.v6())).await;

    transfer(&other, &one).await;
    transfer(&one, &other).await;
    for site in [&near, &far] {
        let carried = site.host.sh("ip -json -s link show vx0 | jq '.[0].stats64.rx.bytes'");
        let carried: usize = carried.trim().parse().expect("a number of bytes");
        assert!(carried > SIZE << 20, "{carried} bytes came over the overlay");
        assert_eq!(fragments(&site.host), 0, "packets that didn't fit");
    }

    near.remove(&one).await;
    other.reaches(&neighbour, neighbour.v4()).await;
    assert_eq!(near.host.links("type vxlan"), ["vx0"], "while anybody uses it");
    near.remove(&neighbour).await;
    assert_eq!(near.host.links("type vxlan"), [] as [&str; 0], "with the last pod");
}

/// Moves random bytes from pod to pod and compares them.
async fn transfer(from: &Member, to: &Member) {
    let made =
        from.sh(&format!("dd if=/dev/urandom of=/srv/data bs=1M count={SIZE} && sha256sum </srv/data")).await;
    let fetch = format!(
        "printf 'GET /data HTTP/1.0\\r\\n\\r\\n' | nc {} 80 |
         {{ while read -r line && [ \"$line\" != \"$(printf '\\r')\" ]; do :; done; sha256sum; }}",
        from.v4()
    );
    let begun = Instant::now();
    let got = to.sh(&fetch).await;
    let rate = SIZE as f64 / begun.elapsed().as_secs_f64();
    println!("{SIZE} MiB from {} to {}: {rate:.0} MiB/s, hashed on arrival", from.v4(), to.v4());
    assert_eq!(got, made.lines().last().unwrap_or_default());
}

/// How many packets a host has cut up or put together again (IPv4, /proc/net/snmp).
fn fragments(host: &Netns) -> u64 {
    let text = host.sh("grep ^Ip: /proc/thread-self/net/snmp");
    let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let counted = names.iter().zip(&values).filter(|(name, _)| ["ReasmReqds", "FragCreates"].contains(name));
    counted.map(|(_, value)| value.parse::<u64>().expect("a number")).sum()
}
