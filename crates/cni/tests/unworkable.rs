//! Configurations, of plugins that are served in-process, with which no pod could ever be attached: the network isn't ready, and
//! says why, in every version of CNI.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use cni::{Config, Networks, Status};
use serde_json::{Value, json};
use support::netns::on_own_host;
use support::{Node, until};

/// A bridge with a range of addresses, and with what is given instead.
fn bridge(fields: &Value, range: &Value) -> Value {
    let mut bridge = json!({"type": "bridge", "bridge": "cnitest0", "isGateway": true,
        "ipam": {"type": "host-local", "ranges": [[range]]}});
    for (name, value) in fields.as_object().unwrap() {
        bridge[name] = value.clone();
    }
    bridge
}

fn cases() -> [(Value, &'static str); 7] {
    let range = json!({"subnet": "10.235.0.0/24"});
    let none = json!({});
    let overlapping = json!({"type": "host-local", "ranges": [[range], [{"subnet": "10.235.0.0/25"}]]});
    [
        (bridge(&json!({"bridge": "much-too-long-a-name"}), &range), "much-too-long-a-name"),
        (bridge(&json!({"vlan": 4095}), &range), "vlan"),
        (bridge(&json!({"ipam": overlapping}), &range), "overlap"),
        (bridge(&none, &json!({"subnet": "10.235.0.5/24"})), "10.235.0.5/24"),
        (bridge(&none, &json!({"subnet": "10.235.0.0/31"})), "10.235.0.0/31"),
        (
            bridge(
                &none,
                &json!({"subnet": "10.235.0.0/24", "rangeStart": "10.235.0.9", "rangeEnd": "10.235.0.3"}),
            ),
            "10.235.0.9",
        ),
        (bridge(&none, &json!({"subnet": "garbage"})), "garbage"),
    ]
}

#[test]
fn a_network_that_no_pod_could_join_is_not_ready_and_says_why() {
    on_own_host(|| async {
        let node = Node::new();
        let write = |version: &str, plugin: &Value| {
            let conf = json!({"cniVersion": version, "name": "net", "plugins": [plugin]});
            node.conf("10-net.conflist", &conf);
        };
        let range = json!({"subnet": "10.235.0.0/24"});
        let good = bridge(&json!({}), &range);
        write("1.0.0", &good);
        let config = Config { native: true, bin_dirs: vec![node.path("bin")], ..node.config() };
        let networks = Networks::open(config).unwrap();
        let ready = Status::Ready { network: "net".into() };
        // Ranges may come with each pod.
        let told = json!({"ipam": {"type": "host-local"}, "capabilities": {"ipRanges": true}});
        for version in ["0.3.1", "1.0.0", "1.1.0"] {
            for good in [&good, &bridge(&told, &range)] {
                for (plugin, wanted) in cases() {
                    write(version, &plugin);
                    let says = |status: &Status| matches!(status, Status::NotReady { reason } if reason.contains(wanted));
                    until(&format!("{version}: {wanted}"), || networks.status(), says).await;
                }
                write(version, good);
                until(version, || networks.status(), |status| *status == ready).await;
            }
        }
    });
}
