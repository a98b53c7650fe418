//! A physical segment, and pods that are hosts on it: by macvlan on an interface of the node's, or by that interface itself.
//! Both are Debian's plugins.

use std::sync::Arc;

use e2e::{Netns, Network, Setup};
use serde_json::{Value, json};

use crate::rig::Site;
use crate::traffic::{ask_tcp, at, reach_tcp, serve_tcp};

by_every_kind_of_plugins!(pods_are_hosts_on_the_segment, an_interface_is_lent_to_a_pod);

/// A switch with two ports: at one the host of a node, by `seg0`, at the other a machine, by `eth0`.
pub(crate) struct Segment {
    pub(crate) host: Arc<Netns>,
    pub(crate) machine: Netns,
    _switch: Netns,
}

/// The machine's addresses.
pub(crate) const MACHINE: [&str; 2] = ["192.0.2.10", "2001:db8:5::10"];

impl Segment {
    pub(crate) fn new() -> Self {
        let (switch, host, machine) = (Netns::new(), Arc::new(Netns::new()), Netns::new());
        switch.sh("ip link add switch0 type bridge; ip link set switch0 up");
        for (port, netns, device) in [("port1", &*host, "seg0"), ("port2", &machine, "eth0")] {
            switch.connect(port, netns, device);
            switch.sh(&format!("ip link set {port} master switch0"));
        }
        machine.sh(&format!(
            "ip addr add {}/24 dev eth0; ip addr add {}/64 dev eth0 nodad",
            MACHINE[0], MACHINE[1]
        ));
        Self { host, machine, _switch: switch }
    }
}

/// The plugins of a network on the segment.
pub(crate) fn macvlan() -> Value {
    json!([{ "type": "macvlan", "master": "seg0", "mode": "bridge",
             "ipam": { "type": "host-local", "ranges": [
                 [{ "subnet": "192.0.2.0/24", "rangeStart": "192.0.2.100", "rangeEnd": "192.0.2.199" }],
                 [{ "subnet": "2001:db8:5::/64", "rangeStart": "2001:db8:5::100", "rangeEnd": "2001:db8:5::199" }]] } }])
}

async fn pods_are_hosts_on_the_segment(plugins: Network) {
    let segment = Segment::new();
    let setup = Setup::new(plugins).conflist("segment", macvlan());
    let site = Site::on(Arc::clone(&segment.host), setup).await;
    let (one, other) = tokio::join!(site.member(), site.member());
    let _servers = [serve_tcp(&one.inside, 8080), serve_tcp(&segment.machine, 8080)];
    for (pod, machine) in [(one.v4(), MACHINE[0]), (one.v6(), MACHINE[1])] {
        let seen = reach_tcp(&segment.machine, at(&pod.to_string(), 8080)).await;
        assert_eq!(seen.to_string(), machine, "nothing between the machine and {pod}");
        let seen = reach_tcp(&one.inside, at(machine, 8080)).await;
        assert_eq!(seen, pod, "nothing between {pod} and the machine");
    }
    one.reaches(&other, other.v4()).await;
    other.reaches(&one, one.v6()).await;

    let mac = one.sh("cat /sys/class/net/eth0/address").await;
    let neighbour = segment.machine.sh(&format!("ip neigh show {}", one.v4()));
    assert!(neighbour.contains(&mac), "the segment knows the pod by {mac}: {neighbour}");

    let gone = one.v4().to_string();
    site.remove(&one).await;
    let left = ask_tcp(&segment.machine, at(&gone, 8080)).await;
    assert!(left.is_err(), "{left:?}");
    assert_eq!(site.host.links("type macvlan"), [] as [&str; 0], "in the host, where the pod's came from");
}

/// The interface itself is the pod's, as a network card's function would be, and comes back when the pod goes.
async fn an_interface_is_lent_to_a_pod(plugins: Network) {
    let segment = Segment::new();
    let lent = json!([{ "type": "host-device", "device": "seg0",
        "ipam": { "type": "host-local", "ranges": [[{ "subnet": "192.0.2.0/24", "rangeStart": "192.0.2.100" }]] } }]);
    let setup = Setup::new(plugins).conflist("lent", lent);
    let site = Site::on(Arc::clone(&segment.host), setup).await;
    let pod = site.member().await;
    let _server = serve_tcp(&segment.machine, 8080);
    assert_eq!(reach_tcp(&pod.inside, at(MACHINE[0], 8080)).await, pod.v4());
    assert_eq!(site.host.links("type veth"), [] as [&str; 0]);
    site.remove(&pod).await;
    assert_eq!(site.host.links("type veth"), ["seg0"], "back again");
    let again = site.member().await;
    assert_eq!(reach_tcp(&again.inside, at(MACHINE[0], 8080)).await, again.v4());
}
