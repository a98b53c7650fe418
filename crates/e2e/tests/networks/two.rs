//! A pod on two networks: the cluster's by `eth0`, which is the one that CRI knows, and a physical segment by `eth1`.

use std::sync::Arc;

use e2e::cri::{PortMapping, Protocol};
use e2e::node::PATIENCE;
use e2e::{Network, Setup};
use serde_json::json;

use crate::rig::Site;
use crate::segment::{MACHINE, Segment, macvlan};
use crate::side_by_side::says_that_none_is_left;
use crate::traffic::{ask_tcp, at, reach_tcp, serve_tcp};

by_every_kind_of_plugins!(a_pod_is_on_both, a_pod_gets_both_or_nothing);

fn cluster() -> serde_json::Value {
    json!([
        { "type": "bridge", "bridge": "cluster0", "isGateway": true, "ipMasq": true,
          "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.93.0.0/24" }]], "routes": [{ "dst": "0.0.0.0/0" }] } },
        { "type": "portmap", "capabilities": { "portMappings": true } },
    ])
}

async fn a_pod_is_on_both(plugins: Network) {
    let segment = Segment::new();
    let setup =
        Setup::new(plugins).conflist("cluster", cluster()).conflist("storage", macvlan()).key("networks = 2");
    let mut site = Site::on(Arc::clone(&segment.host), setup).await;
    let published = PortMapping {
        protocol: Protocol::Tcp as i32,
        container_port: 8080,
        host_port: 30080,
        ..Default::default()
    };
    let pod = site.member_of("", |config| config.port_mappings = vec![published]).await.expect("a pod");
    let other = site.member().await;
    assert_eq!(pod.inside.links("up"), ["lo", "eth0", "eth1"]);
    assert_eq!(pod.addresses.len(), 1, "the cluster's alone: {:?}", pod.addresses);
    assert!(pod.v4().to_string().starts_with("10.93.0."), "{:?}", pod.addresses);
    pod.reaches(&other, other.v4()).await;

    let on_segment = pod.sh("ip -4 -o addr show eth1 | sed 's/.*inet \\([0-9.]*\\).*/\\1/'").await;
    assert!(on_segment.starts_with("192.0.2.1"), "{on_segment}");
    let _servers = [serve_tcp(&segment.machine, 8080), serve_tcp(&pod.inside, 8080)];
    let seen = reach_tcp(&pod.inside, at(MACHINE[0], 8080)).await;
    assert_eq!(seen.to_string(), on_segment, "directly, by the second interface");
    let seen = reach_tcp(&segment.machine, at(&on_segment, 8080)).await;
    assert_eq!(seen.to_string(), MACHINE[0]);
    let routes = pod.sh("ip route").await;
    assert!(routes.contains("default via 10.93.0.1 dev eth0"), "{routes}");
    reach_tcp(&site.host, at("127.0.0.1", 30080)).await;

    // Whoever comes after a crash knows of both.
    site.node.kill_daemon();
    site.restart();
    site.remove(&pod).await;
    let left = ask_tcp(&segment.machine, at(&on_segment, 8080)).await;
    assert!(left.is_err(), "{left:?}");
}

/// A second network that fails takes the first along, and the pod is refused as a whole.
async fn a_pod_gets_both_or_nothing(plugins: Network) {
    let segment = Segment::new();
    let single = json!([{ "type": "macvlan", "master": "seg0", "mode": "bridge", "ipam": { "type": "host-local",
        "ranges": [[{ "subnet": "192.0.2.0/24", "rangeStart": "192.0.2.100", "rangeEnd": "192.0.2.100" }]] } }]);
    let setup = Setup::new(plugins).conflist("cluster", cluster()).conflist("single", single);
    let site = Site::on(Arc::clone(&segment.host), setup.key("networks = 2")).await;
    let pod = site.member().await;
    let refused = site.member_of("", |_| {}).await.map(|member| member.addresses);
    let refused = refused.expect_err("half a pod");
    assert!(says_that_none_is_left(&refused), "{refused:?}");
    assert_eq!(site.client.pods().await.expect("a list").len(), 1);
    e2e::until(PATIENCE, "the end of what was made of the first network", || async {
        let ports = site.host.links("master cluster0");
        if ports.len() == 1 { Ok(()) } else { Err(ports) }
    })
    .await;
    site.remove(&pod).await;
    let again = e2e::until(PATIENCE, "the address that came back", || site.member_of("", |_| {})).await;
    assert_eq!(again.inside.links("up"), ["lo", "eth0", "eth1"]);
}
