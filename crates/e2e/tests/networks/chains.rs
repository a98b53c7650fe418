//! Chains as other tools and distributions write them, with plugins beside the usual: what is served in-process stands in
//! one chain with what is executed.

use std::sync::Arc;

use e2e::cri::{PortMapping, Protocol};
use e2e::{Netns, Network, Setup};
use serde_json::json;

use crate::rig::Site;
use crate::traffic::{at, reach_tcp, serve_tcp};

by_every_kind_of_plugins!(
    with_firewall_and_tuning,
    with_limits,
    of_addresses_by_another_plugin,
    point_to_point
);

fn published() -> Vec<PortMapping> {
    let protocol = Protocol::Tcp as i32;
    vec![PortMapping { protocol, container_port: 8080, host_port: 30080, ..Default::default() }]
}

/// What podman writes by default.
async fn with_firewall_and_tuning(plugins: Network) {
    let (host, outside) = (Arc::new(Netns::new()), Netns::new());
    host.connect("up0", &outside, "eth0");
    host.sh("ip addr add 198.51.100.1/24 dev up0");
    outside.sh("ip addr add 198.51.100.2/24 dev eth0");
    let chain = json!([
        { "type": "bridge", "bridge": "podman0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
          "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.94.0.0/24" }]], "routes": [{ "dst": "0.0.0.0/0" }] } },
        { "type": "portmap", "capabilities": { "portMappings": true } },
        { "type": "firewall" },
        { "type": "tuning", "sysctl": { "net.core.somaxconn": "321" }, "mtu": 1400 },
    ]);
    let site = Site::on(host, Setup::new(plugins).conflist("podman", chain)).await;
    // What lets nothing through but what a plugin allows.
    site.host.sh("iptables -P FORWARD DROP");
    let pod = site.member_of("", |config| config.port_mappings = published()).await.expect("a pod");
    assert_eq!(pod.sh("cat /proc/sys/net/core/somaxconn /sys/class/net/eth0/mtu").await, "321\n1400");
    let _servers = [serve_tcp(&pod.inside, 8080), serve_tcp(&outside, 8080)];
    reach_tcp(&site.host, at("127.0.0.1", 30080)).await;
    assert_eq!(reach_tcp(&pod.inside, at("198.51.100.2", 8080)).await.to_string(), "198.51.100.1");
    let address = pod.v4().to_string();
    site.remove(&pod).await;
    let rules = site.host.sh("nft list ruleset");
    assert!(!rules.contains(&address), "{address} in {rules}");
}

/// Limits of a pod's bandwidth, by Kubernetes' annotations: qdiscs on the host's side of the pod.
async fn with_limits(plugins: Network) {
    let chain = json!([
        { "type": "bridge", "bridge": "limited0", "isGateway": true,
          "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.95.0.0/24" }]] } },
        { "type": "bandwidth", "capabilities": { "bandwidth": true } },
    ]);
    let site = Site::new(Setup::new(plugins).conflist("limited", chain)).await;
    let limits = [("kubernetes.io/ingress-bandwidth", "8M"), ("kubernetes.io/egress-bandwidth", "16M")];
    let limits = limits.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let pod = site.member_of("", |config| config.annotations = limits.into()).await.expect("a pod");
    let other = site.member().await;
    let shapers = site.host.sh("tc qdisc show");
    let has = |rate: &str| shapers.lines().any(|line| line.contains("tbf") && line.contains(rate));
    assert!(has("rate 8Mbit") && has("rate 16Mbit"), "{shapers}");
    other.reaches(&pod, pod.v4()).await;
    site.remove(&pod).await;
    let shapers = site.host.sh("tc qdisc show");
    assert!(!shapers.contains("tbf"), "{shapers}");
}

/// Addresses that the configuration itself has, one pod's alone.
async fn of_addresses_by_another_plugin(plugins: Network) {
    let addresses =
        json!([{ "address": "10.96.0.7/24", "gateway": "10.96.0.1" }, { "address": "fd00:96::7/64" }]);
    let chain = json!([
        { "type": "bridge", "bridge": "static0", "isGateway": true,
          "ipam": { "type": "static", "addresses": addresses, "routes": [{ "dst": "0.0.0.0/0" }] } },
    ]);
    let site = Site::new(Setup::new(plugins).conflist("static", chain)).await;
    let pod = site.member().await;
    assert_eq!(
        (pod.v4().to_string(), pod.v6().to_string()),
        ("10.96.0.7".to_owned(), "fd00:96::7".to_owned())
    );
    let _server = serve_tcp(&pod.inside, 8080);
    assert_eq!(reach_tcp(&site.host, at("10.96.0.7", 8080)).await.to_string(), "10.96.0.1");
}

/// No bridge: a route of the host's for each pod.
async fn point_to_point(plugins: Network) {
    let chain = json!([
        { "type": "ptp", "ipMasq": true,
          "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.98.0.0/24" }]], "routes": [{ "dst": "0.0.0.0/0" }] } },
        { "type": "portmap", "capabilities": { "portMappings": true } },
    ]);
    let site = Site::new(Setup::new(plugins).conflist("ptp", chain)).await;
    let pod = site.member_of("", |config| config.port_mappings = published()).await.expect("a pod");
    let other = site.member().await;
    other.reaches(&pod, pod.v4()).await;
    let _server = serve_tcp(&pod.inside, 8080);
    reach_tcp(&site.host, at("127.0.0.1", 30080)).await;
    reach_tcp(&site.host, at(&pod.v4().to_string(), 8080)).await;
    site.remove(&pod).await;
    let routes = site.host.sh("ip route");
    assert!(!routes.contains(&pod.v4().to_string()), "{routes}");
}
