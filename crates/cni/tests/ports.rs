//! Host ports by the thousand, as the executables are called, and by the library.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::process::ExitCode;

use cni::{Attachment, Config, Networks, PortMapping, Protocol, Status};
use serde_json::{Value, json};
use support::netns::{Netns, on_own_host, sh};
use support::{Node, attachment, shown, until};

const COUNT: u16 = 2000;
const FIRST: u16 = 20_000;

fn bridge(node: &Node) -> Value {
    json!({"type": "bridge", "bridge": "cnitest0", "isGateway": true, "ipam": {
        "type": "host-local", "dataDir": node.path("leases"),
        "ranges": [[{"subnet": "10.235.0.0/24"}], [{"subnet": "fd00:235::/64"}]]}})
}

/// Calls a plugin of that configuration: what it printed.
fn call(verb: &str, pod: &Netns, conf: &Value) -> Value {
    let get = |name: &str| match name {
        "CNI_COMMAND" => Some(verb.to_owned()),
        "CNI_CONTAINERID" => Some("pod".to_owned()),
        "CNI_IFNAME" => Some("eth0".to_owned()),
        "CNI_NETNS" => Some(pod.path().display().to_string()),
        "CNI_PATH" => Some("/nonexistent".to_owned()),
        _ => None,
    };
    let (mut printed, input) = (Vec::new(), conf.to_string());
    let plugin = conf["type"].as_str().unwrap();
    let code = cni::executable::run(plugin, &get, &mut input.as_bytes(), &mut printed);
    assert_eq!(code, ExitCode::SUCCESS, "{verb} {plugin}: {}", String::from_utf8_lossy(&printed));
    serde_json::from_slice(&printed).unwrap_or_default()
}

/// The first and the last of them lead to the pod, or nowhere.
fn ask(host: &Netns) -> Vec<bool> {
    let ask = |port| host.ask_tcp(format!("127.0.0.1:{port}").parse().unwrap()).is_ok();
    [FIRST, FIRST + COUNT - 1].map(ask).into()
}

#[test]
fn two_thousand_host_ports_go_through_the_executables() {
    on_own_host(|| async {
        let (node, host, pod) = (Node::new(), Netns::current(), Netns::new());
        let before = sh("nft list ruleset");
        let network = |mut plugin: Value, more: Value| {
            let fields = plugin.as_object_mut().unwrap();
            fields.extend(json!({"cniVersion": "1.1.0", "name": "net"}).as_object().unwrap().clone());
            fields.extend(more.as_object().unwrap().clone());
            plugin
        };
        let added = call("ADD", &pod, &network(bridge(&node), json!({})));
        pod.tcp_server("[::]:80");
        let mapping = |n| json!({"hostPort": FIRST + n, "containerPort": 80, "protocol": "tcp"});
        let mappings: Vec<Value> = (0..COUNT).map(mapping).collect();
        let more = json!({"prevResult": added, "runtimeConfig": {"portMappings": mappings}});
        let portmap = network(json!({"type": "portmap"}), more);
        assert_eq!(call("ADD", &pod, &portmap)["ips"], added["ips"]);
        assert_eq!(ask(&host), [true, true]);
        call("CHECK", &pod, &portmap);
        call("DEL", &pod, &portmap);
        assert_eq!(ask(&host), [false, false]);
        assert_eq!(sh("nft list ruleset"), before);
        call("DEL", &pod, &network(bridge(&node), json!({"prevResult": added})));
    });
}

#[test]
fn two_thousand_host_ports_are_a_pods() {
    on_own_host(|| async {
        let (node, host, pod) = (Node::new(), Netns::current(), Netns::new());
        let before = sh("nft list ruleset");
        let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
        let conf = json!({"cniVersion": "1.1.0", "name": "net", "plugins": [bridge(&node), portmap]});
        node.conf("10-net.conflist", &conf);
        let networks =
            Networks::open(Config { native: true, bin_dirs: vec![node.path("bin")], ..node.config() })
                .unwrap();
        let ready = Status::Ready { network: "net".into() };
        until("status", || networks.status(), |status| *status == ready).await;
        let (container_port, protocol, host_ip) = (80, Protocol::Tcp, None);
        let mapping = |n| PortMapping { host_port: FIRST + n, container_port, protocol, host_ip };
        let port_mappings = (0..COUNT).map(mapping).collect();
        let attachment = Attachment { port_mappings, ..attachment("pod", &pod.path()) };
        networks.add(&attachment).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
        pod.tcp_server("[::]:80");
        assert_eq!(ask(&host), [true, true]);
        networks.check(&attachment).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
        networks.del(&attachment).await.unwrap();
        assert_eq!(ask(&host), [false, false]);
        networks.settle().await.unwrap();
        assert_eq!(sh("nft list ruleset"), before);
    });
}
