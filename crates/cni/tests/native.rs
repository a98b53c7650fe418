//! Configured networks whose standard plugins are served in-process: no executable of theirs is there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use cni::{Attachment, Config, Networks, PortMapping, Protocol, Status};
use serde_json::{Value, json};
use support::netns::{Netns, on_own_host, sh};
use support::{Node, attachment, shown, until};

/// Passes on what the plugin before it did.
const PASS: &str = r#"[ "$CNI_COMMAND" != ADD ] || printf '%s' "$config" | jq -c .prevResult"#;

fn config(node: &Node, native: bool) -> Config {
    Config { native, bin_dirs: vec![node.path("bin")], ..node.config() }
}

fn open(node: &Node, native: bool) -> Networks {
    Networks::open(config(node, native)).unwrap()
}

fn bridge(node: &Node) -> Value {
    json!({"type": "bridge", "bridge": "cnitest0", "isDefaultGateway": true, "ipMasq": true, "ipam": {
        "type": "host-local", "dataDir": node.path("leases"),
        "ranges": [[{"subnet": "10.234.0.0/24"}], [{"subnet": "fd00:234::/64"}]]}})
}

fn portmap() -> Value {
    json!({"type": "portmap", "capabilities": {"portMappings": true}})
}

fn write(node: &Node, version: &str, plugins: &[Value]) {
    let conf = json!({"cniVersion": version, "name": "net", "plugins": plugins});
    node.conf("10-net.conflist", &conf);
}

/// A network that masquerades, and namespaces for two pods. Names of fields are in any case.
async fn masquerading(node: &Node) -> (Networks, [Netns; 2]) {
    let mut conf = bridge(node);
    conf["ipmasq"] = conf.as_object_mut().unwrap().remove("ipMasq").unwrap();
    write(node, "1.1.0", &[conf, portmap()]);
    let networks = open(node, true);
    ready(&networks).await;
    (networks, [Netns::new(), Netns::new()])
}

async fn ready(networks: &Networks) {
    let ready = Status::Ready { network: "net".into() };
    until("status", || networks.status(), |status| *status == ready).await;
}

/// What a host's network consists of.
fn state() -> String {
    sh("ip -br link | awk '{print $1}'; ip -br address; ip route; ip -6 route; nft list ruleset")
}

fn leases(node: &Node) -> usize {
    let entries = fs::read_dir(node.path("leases/net")).into_iter().flatten();
    entries
        .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().parse::<IpAddr>().is_ok())
        .count()
}

#[test]
fn a_network_of_standard_plugins_needs_no_executable() {
    on_own_host(|| async {
        // The bridge stays, as the reference plugin leaves it.
        sh("ip link add cnitest0 type bridge; ip link set cnitest0 up");
        for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            let node = Node::new();
            write(&node, version, &[bridge(&node), portmap(), json!({"type": "loopback"})]);
            let networks = open(&node, true);
            ready(&networks).await;
            let netns = Netns::bare();
            let port =
                PortMapping { host_port: 8091, container_port: 80, protocol: Protocol::Tcp, host_ip: None };
            let attachment = Attachment { port_mappings: vec![port], ..attachment("pod", &netns.path()) };
            let added = networks
                .add(&attachment)
                .await
                .unwrap_or_else(|error| panic!("{version}: {}", shown(&error)));
            assert_eq!(added.ips.len(), 2);
            netns.tcp_server("[::]:80");
            let host = Netns::current();
            host.ask_tcp("127.0.0.1:8091".parse().unwrap()).unwrap();
            networks.check(&attachment).await.unwrap_or_else(|error| panic!("{version}: {}", shown(&error)));
            networks.del(&attachment).await.unwrap();
            // Cut off by the answer, gone soon after.
            host.ask_tcp("127.0.0.1:8091".parse().unwrap()).unwrap_err();
            host.ask_tcp(std::net::SocketAddr::new(added.ips[0], 80)).unwrap_err();
            networks.settle().await.unwrap();
            assert!(leases(&node) == 0 && node.records().is_empty(), "{version}");
            assert!(!state().contains("veth") && sh("nft list ruleset").is_empty(), "{version}: {}", state());
        }
    });
}

#[test]
fn plugins_of_others_are_executed_between_ours() {
    on_own_host(|| async {
        let node = Node::new();
        node.plugin("noting", PASS);
        write(&node, "1.0.0", &[bridge(&node), json!({"type": "noting"}), portmap()]);
        let networks = open(&node, true);
        ready(&networks).await;
        let netns = Netns::new();
        let attachment = attachment("pod", &netns.path());
        let added = networks.add(&attachment).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
        networks.check(&attachment).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
        // An executed plugin has its DEL before the answer, and so has all of its chain.
        networks.del(&attachment).await.unwrap();
        assert_eq!(node.verbs(), ["ADD noting", "CHECK noting", "DEL noting"]);
        let seen = &node.calls()[0].2["prevResult"];
        assert_eq!(seen["ips"][0]["address"], format!("{}/24", added.ips[0]));
        assert_eq!(seen["cniVersion"], "1.0.0");
        assert!(leases(&node) == 0 && node.records().is_empty());
        assert!(!netns.run(|| sh("ip -br link")).contains("eth0"));
    });
}

#[test]
fn addresses_may_come_from_a_plugin_of_others() {
    on_own_host(|| async {
        let node = Node::new();
        let ips = r#"{"cniVersion":"1.0.0","ips":[{"address":"10.235.0.7/24"}]}"#;
        node.plugin("addresses", &format!("[ $CNI_COMMAND != ADD ] || echo '{ips}'"));
        let mut conf = bridge(&node);
        conf.as_object_mut().unwrap().remove("ipam");
        conf["IPAM"] = json!({"type": "addresses", "of": "others"});
        write(&node, "1.0.0", &[conf]);
        let networks = open(&node, true);
        ready(&networks).await;
        let netns = Netns::new();
        let attachment = attachment("pod", &netns.path());
        let added = networks.add(&attachment).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
        assert_eq!(added.ips, [IpAddr::from([10, 235, 0, 7])]);
        assert_eq!(added.result.ips[0].gateway, Some([10, 235, 0, 1].into()));
        networks.check(&attachment).await.unwrap();
        networks.del(&attachment).await.unwrap();
        assert_eq!(node.verbs(), ["ADD addresses", "CHECK addresses", "DEL addresses"]);
        assert_eq!(node.calls()[0].2["IPAM"]["of"], "others");
        // One that gives none leaves no link.
        node.plugin("addresses", "echo '{\"code\":100,\"msg\":\"none left\"}'; exit 1");
        let error = networks.add(&attachment).await.unwrap_err();
        assert!(shown(&error).contains("none left"), "{}", shown(&error));
        assert!(!sh("ip -br link").contains("veth"));
    });
}

#[test]
fn what_is_not_served_is_executed_or_named() {
    on_own_host(|| async {
        let node = Node::new();
        let mut conf = bridge(&node);
        conf["macspoofchk"] = true.into();
        write(&node, "1.0.0", &[conf]);
        let networks = open(&node, true);
        let Status::NotReady { reason } = networks.status() else { panic!("there is no executable") };
        assert!(reason.contains("macspoofchk"), "{reason}");
        node.plugin("bridge", "[ $CNI_COMMAND != ADD ] || echo '{\"cniVersion\":\"1.0.0\"}'");
        ready(&networks).await;
        let netns = Netns::new();
        networks.add(&attachment("pod", &netns.path())).await.unwrap();
        assert_eq!(node.verbs(), ["ADD bridge"]);
    });
}

#[test]
fn who_made_an_attachment_undoes_it() {
    on_own_host(|| async {
        let node = Node::new();
        write(&node, "1.0.0", &[bridge(&node)]);
        let netns = Netns::new();
        let pod = attachment("pod", &netns.path());
        let networks = open(&node, true);
        ready(&networks).await;
        networks.add(&pod).await.unwrap();
        drop(networks);
        let networks = open(&node, false);
        networks.del(&pod).await.unwrap();
        networks.settle().await.unwrap();
        assert!(!sh("ip -br link").contains("veth") && leases(&node) == 0);
        assert!(sh("nft list ruleset").is_empty());
        node.plugin("bridge", "[ $CNI_COMMAND != ADD ] || echo '{\"cniVersion\":\"1.0.0\"}'");
        ready(&networks).await;
        networks.add(&pod).await.unwrap();
        drop(networks);
        open(&node, true).del(&pod).await.unwrap();
        assert_eq!(node.verbs(), ["ADD bridge", "DEL bridge"]);
        assert!(node.records().is_empty());
    });
}

#[test]
fn tables_that_somebody_flushes_come_back_for_configured_networks_too() {
    on_own_host(|| async {
        let node = Node::new();
        let (networks, [one, other]) = masquerading(&node).await;
        let first = attachment("first", &one.path());
        networks.add(&first).await.unwrap();
        sh("nft flush ruleset");
        let second = attachment("second", &other.path());
        networks.add(&second).await.unwrap();
        let ruleset = sh("nft list ruleset");
        assert!(ruleset.contains("net/first/eth0") && ruleset.contains("net/second/eth0"), "{ruleset}");
        // A daemon that has attached nobody yet knows of them by its first collection.
        drop(networks);
        sh("nft flush ruleset");
        let networks = open(&node, true);
        let ids = [first.id(), second.id()];
        let valid: std::collections::HashSet<_> = ids.into();
        networks.gc(move || valid.clone()).await.unwrap();
        let ruleset = sh("nft list ruleset");
        assert!(ruleset.contains("net/first/eth0") && ruleset.contains("net/second/eth0"), "{ruleset}");
    });
}

#[test]
fn pods_that_come_at_once_after_a_flush_are_attached_and_those_that_were_there_are_mended() {
    on_own_host(|| async {
        let node = Node::new();
        write(&node, "1.1.0", &[bridge(&node), portmap()]);
        let networks = open(&node, true);
        ready(&networks).await;
        let pods: Vec<Netns> = (0..5).map(|_| Netns::new()).collect();
        let pods: Vec<Attachment> =
            pods.iter().enumerate().map(|(i, pod)| attachment(&format!("pod{i}"), &pod.path())).collect();
        networks.add(&pods[0]).await.unwrap();
        sh("nft delete table ip knarr");
        let added = tokio::join!(
            networks.add(&pods[1]),
            networks.add(&pods[2]),
            networks.add(&pods[3]),
            networks.add(&pods[4])
        );
        for added in [added.0, added.1, added.2, added.3] {
            added.unwrap_or_else(|error| panic!("{}", shown(&error)));
        }
        let ruleset = sh("nft list table ip knarr");
        for pod in &pods {
            assert!(ruleset.contains(&format!("net/{}/eth0", pod.container_id)), "{ruleset}");
        }
    });
}

/// A flush and a CHECK that takes its time: those who come meanwhile don't wait for it, and it isn't forgotten.
#[test]
fn who_was_busy_when_the_tables_were_mended_is_mended_later() {
    on_own_host(|| async {
        let node = Node::new();
        let paused = "[ \"$CNI_COMMAND\" != CHECK ] || until [ -e \"${0%/bin/*}/go\" ]; do sleep 0.02; done";
        node.plugin("slow", &format!("{PASS}\n{paused}"));
        write(&node, "1.0.0", &[bridge(&node), json!({"type": "slow"})]);
        let networks = open(&node, true);
        ready(&networks).await;
        let pods = [Netns::new(), Netns::new(), Netns::new()];
        let [first, second, third] =
            [(0, "first"), (1, "second"), (2, "third")].map(|(i, name)| attachment(name, &pods[i].path()));
        networks.add(&first).await.unwrap();
        let meanwhile = async {
            let called = |verbs: &Vec<String>| verbs.iter().any(|verb| verb == "CHECK slow");
            until("the CHECK to be under way", || node.verbs(), called).await;
            sh("nft flush ruleset");
            networks.add(&second).await.unwrap();
            fs::write(node.path("go"), "").unwrap();
        };
        let (checked, ()) = tokio::join!(networks.check(&first), meanwhile);
        checked.unwrap_or_else(|error| panic!("{}", shown(&error)));
        networks.add(&third).await.unwrap();
        let ruleset = sh("nft list ruleset");
        for name in ["first", "second", "third"] {
            assert!(ruleset.contains(&format!("net/{name}/eth0")), "{name}: {ruleset}");
        }
    });
}

/// Somebody holds the tables (the flag `owner`), so that nobody else can change them.
#[test]
fn what_the_tables_refuse_does_not_keep_the_link() {
    on_own_host(|| async {
        let node = Node::new();
        write(&node, "1.1.0", &[bridge(&node), portmap()]);
        let networks = open(&node, true);
        ready(&networks).await;
        let netns = Netns::new();
        let port =
            PortMapping { host_port: 8093, container_port: 80, protocol: Protocol::Tcp, host_ip: None };
        let pod = Attachment { port_mappings: vec![port], ..attachment("pod", &netns.path()) };
        networks.add(&pod).await.unwrap();
        let owned =
            sh("nft list table ip knarr").replacen("table ip knarr {", "table ip knarr {\nflags owner", 1);
        fs::write(node.path("owned.nft"), owned).unwrap();
        sh("nft delete table ip knarr");
        let mut holder = Command::new("nft").arg("-i").stdin(Stdio::piped()).spawn().unwrap();
        writeln!(holder.stdin.as_ref().unwrap(), "include \"{}\"", node.path("owned.nft").display()).unwrap();
        let is_held = |tables: &String| tables.contains("flags owner");
        until("the tables to be held", || sh("nft list ruleset"), is_held).await;
        networks.del(&pod).await.unwrap_err();
        assert!(!netns.run(|| sh("ip -br link")).contains("eth0"));
        drop(holder.stdin.take());
        holder.wait().unwrap();
        networks.del(&pod).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
        networks.settle().await.unwrap();
        assert_eq!(leases(&node), 0);
        assert!(node.records().is_empty());
    });
}

/// A pod that is made again elsewhere on the node, for one: with the address that somebody has given it.
#[test]
fn the_address_of_who_has_left_is_there_for_who_asks_for_it() {
    on_own_host(|| async {
        let node = Node::new();
        let mut conf = bridge(&node);
        conf["capabilities"] = json!({"ips": true});
        write(&node, "1.0.0", &[conf]);
        let networks = open(&node, true);
        ready(&networks).await;
        for round in 0..5 {
            let netns = Netns::new();
            let ips = vec!["10.234.0.9".to_owned()];
            let pod = Attachment { ips, ..attachment(&format!("pod{round}"), &netns.path()) };
            let added = networks.add(&pod).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
            assert_eq!(added.ips[0], IpAddr::from([10, 234, 0, 9]));
            networks.del(&pod).await.unwrap();
        }
    });
}

#[test]
fn what_a_lost_record_stood_for_is_collected() {
    on_own_host(|| async {
        let node = Node::new();
        let (networks, [one, other]) = masquerading(&node).await;
        let (lost, kept) = (attachment("lost", &one.path()), attachment("kept", &other.path()));
        networks.add(&lost).await.unwrap();
        networks.add(&kept).await.unwrap();
        fs::remove_file(node.path("state/attachments/lost@eth0.json")).unwrap();
        let id = kept.id();
        networks.gc(move || [id.clone()].into()).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
        assert_eq!(leases(&node), 2);
        assert!(!one.run(|| sh("ip -br link")).contains("eth0"));
        assert!(!sh("nft list ruleset").contains("net/lost/eth0"));
        networks.check(&kept).await.unwrap();
    });
}
