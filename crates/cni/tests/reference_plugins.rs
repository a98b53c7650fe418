//! The reference plugins as Debian packages them, executed on a "host" of each test's own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::net::IpAddr;

use cni::{Attachment, Error, PortMapping, Protocol, Status};
use serde_json::{Value, json};
use support::netns::{Netns, on_own_host, sh};
use support::{Node, attachment, installed, shown};

fn chain(node: &Node, version: &str) -> Value {
    json!({
        "cniVersion": version,
        "name": "reference",
        "plugins": [
            {
                "type": "bridge", "bridge": "cnitest0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": node.path("leases"),
                    "ranges": [[{"subnet": "10.233.0.0/24"}], [{"subnet": "fd00:233::/64"}]],
                    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
            {"type": "loopback"},
        ],
    })
}

fn leases(node: &Node) -> Vec<String> {
    let entries = fs::read_dir(node.path("leases/reference")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.parse::<IpAddr>().is_ok()).collect()
}

#[test]
fn a_chain_of_them_gives_both_families_and_host_ports() {
    if !installed() {
        return;
    }
    on_own_host(|| async {
        for version in ["0.3.1", "0.4.0", "1.0.0"] {
            let node = Node::new();
            node.conf("10-reference.conflist", &chain(&node, version));
            let networks = node.open();
            assert_eq!(networks.status(), Status::Ready { network: "reference".into() });
            let netns = Netns::new();
            let port_mappings = vec![PortMapping {
                host_port: 8090,
                container_port: 80,
                protocol: Protocol::Tcp,
                host_ip: None,
            }];
            let attachment = Attachment {
                port_mappings,
                args: vec![("K8S_POD_NAME".into(), "web".into())],
                ..attachment("pod1", &netns.path())
            };
            let added = networks.add(&attachment).await;
            let added = added.unwrap_or_else(|error| panic!("{version}: {}", shown(&error)));
            assert_eq!(added.ips, ["10.233.0.2".parse::<IpAddr>().unwrap(), "fd00:233::2".parse().unwrap()]);
            assert_eq!(added.result.cni_version, "1.1.0");
            netns.tcp_server("0.0.0.0:80");
            let host = Netns::current();
            host.ask_tcp("10.233.0.2:80".parse().unwrap()).unwrap();
            host.ask_tcp("10.233.0.1:8090".parse().unwrap()).unwrap();
            assert_eq!(leases(&node).len(), 2);
            networks.del(&attachment).await.unwrap();
            assert!(leases(&node).is_empty() && node.records().is_empty());
            assert!(!netns.run(|| sh("ip -br link")).contains("eth0"));
            assert!(!sh("iptables-save").contains("8090"));
            sh("ip link delete cnitest0");
        }
    });
}

#[test]
fn a_namespace_that_is_gone_is_detached_all_the_same() {
    if !installed() {
        return;
    }
    on_own_host(|| async {
        let node = Node::new();
        node.conf("10-reference.conflist", &chain(&node, "1.0.0"));
        let networks = node.open();
        let netns = Netns::new();
        let attachment = attachment("pod1", &netns.path());
        networks.add(&attachment).await.unwrap();
        // Without host ports, as portmap 1.1.1 looks for those of IPv4 among those of IPv6.
        networks.check(&attachment).await.unwrap();
        drop(netns);
        networks.del(&attachment).await.unwrap();
        assert!(leases(&node).is_empty() && node.records().is_empty());
    });
}

#[test]
fn what_the_last_of_a_chain_refuses_is_undone() {
    if !installed() {
        return;
    }
    on_own_host(|| async {
        let node = Node::new();
        let mut conf = chain(&node, "1.0.0");
        conf["plugins"].as_array_mut().unwrap().push(json!({"type": "refusing"}));
        node.plugin(
            "refusing",
            "[ \"$CNI_COMMAND\" != ADD ] || { echo '{\"code\":100,\"msg\":\"no\"}'; exit 1; }",
        );
        node.conf("10-reference.conflist", &conf);
        let netns = Netns::new();
        let error = node.open().add(&attachment("pod1", &netns.path())).await.unwrap_err();
        assert!(matches!(error, Error::PluginFailed { code: 100, .. }), "{}", shown(&error));
        assert!(leases(&node).is_empty() && node.records().is_empty());
        assert!(!netns.run(|| sh("ip -br link")).contains("eth0"));
    });
}
