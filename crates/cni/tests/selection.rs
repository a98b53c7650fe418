//! Which networks a container joins: several of a directory, one by name, those of a handler's directory; all or none, and
//! left by what was recorded.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cni::{Attachment, Config, Error, Networks, PortMapping, Protocol, Selection, Status};
use serde_json::{Value, json};
use support::{Node, attachment, shown, some_netns, until};

/// Notes which interface it is called for, and gives it an address that tells the network by its third byte.
fn plugin(node: &Node, kind: &str, third: u8) {
    let log = node.path("interfaces");
    let script = format!(
        "echo \"$CNI_COMMAND {kind} $CNI_CONTAINERID $CNI_IFNAME\" >> {log}\n\
         [ \"$CNI_COMMAND\" != ADD ] || echo '{{\"cniVersion\":\"1.1.0\",\"interfaces\":[{{\"name\":\"eth\",\"sandbox\":\"/x\"}}],\
         \"ips\":[{{\"address\":\"10.9.{third}.2/24\",\"interface\":0}}]}}'",
        log = log.display()
    );
    node.plugin(kind, &script);
}

fn network(name: &str, kind: &str) -> Value {
    json!({"cniVersion": "1.1.0", "name": name, "plugins": [{"type": kind, "capabilities": {"portMappings": true}}]})
}

/// A node with the networks a, b and c, whose plugins are called as they are.
fn node() -> Node {
    let node = Node::new();
    for (at, name) in ["a", "b", "c"].into_iter().enumerate() {
        plugin(&node, name, u8::try_from(at).unwrap());
        node.conf(&format!("{at}0-{name}.conflist"), &network(name, name));
    }
    node
}

fn with(node: &Node, selection: Selection) -> Networks {
    Networks::open(Config { selection, ..node.config() }).unwrap()
}

fn several(count: usize) -> Selection {
    Selection { count, ..Selection::default() }
}

/// A selection with a directory for the handler `own`, which has the network d.
fn of_handler(node: &Node) -> Selection {
    let dir = node.path("own.d");
    fs::create_dir_all(&dir).unwrap();
    plugin(node, "d", 3);
    fs::write(dir.join("10-d.conflist"), network("d", "d").to_string()).unwrap();
    Selection { handlers: [("own".to_owned(), dir)].into(), ..Selection::default() }
}

/// The calls of ADD, DEL and GC so far, and forgets them.
fn calls(node: &Node) -> Vec<String> {
    let text = fs::read_to_string(node.path("interfaces")).unwrap_or_default();
    fs::write(node.path("interfaces"), "").unwrap();
    text.lines().filter(|line| !line.starts_with("STATUS")).map(|line| line.trim_end().to_owned()).collect()
}

fn pod(name: &str) -> Attachment {
    attachment(name, some_netns())
}

fn ready(name: &str) -> Status {
    Status::Ready { network: name.into() }
}

async fn until_ready(networks: &Networks, name: &str) {
    until("status", || networks.status(), |status| *status == ready(name)).await;
}

#[tokio::test]
async fn networks_are_joined_in_order_and_left_the_other_way() {
    let node = node();
    let networks = with(&node, several(2));
    until_ready(&networks, "a, b").await;
    let mapping = PortMapping { host_port: 80, container_port: 80, protocol: Protocol::Tcp, host_ip: None };
    let wanted = Attachment { port_mappings: vec![mapping], ..pod("p") };
    let joined = networks.join("", &wanted).await.unwrap();
    let seen: Vec<_> =
        joined.iter().map(|one| format!("{} {} {}", one.ifname, one.network, one.ips[0])).collect();
    assert_eq!(seen, ["eth0 a 10.9.0.2", "eth1 b 10.9.1.2"]);
    assert_eq!(calls(&node), ["ADD a p eth0", "ADD b p eth1"]);
    let ports: Vec<bool> = node
        .calls()
        .iter()
        .filter(|(verb, ..)| verb == "ADD")
        .map(|(.., config)| config["runtimeConfig"]["portMappings"].is_array())
        .collect();
    assert_eq!(ports, [true, false], "a host port leads to one address");
    assert_eq!(networks.interfaces("p").unwrap().len(), 2);
    networks.check_all(&pod("p")).await.unwrap();
    assert_eq!(calls(&node), ["CHECK a p eth0", "CHECK b p eth1"]);
    networks.leave(&pod("p")).await.unwrap();
    assert_eq!(calls(&node), ["DEL b p eth1", "DEL a p eth0"]);
    assert!(node.records().is_empty() && networks.interfaces("p").unwrap().is_empty());
    networks.leave(&pod("p")).await.unwrap();
}

#[tokio::test]
async fn a_failure_of_the_second_undoes_the_first() {
    let node = node();
    node.plugin("b", r#"[ "$CNI_COMMAND" != ADD ] || { echo '{"code":11,"msg":"no lease"}'; exit 1; }"#);
    let networks = with(&node, several(3));
    until_ready(&networks, "a, b, c").await;
    let error = networks.join("", &pod("p")).await.unwrap_err();
    assert!(matches!(error, Error::PluginFailed { code: 11, .. }), "{}", shown(&error));
    assert_eq!(calls(&node), ["ADD a p eth0", "DEL a p eth0"]);
    assert!(node.records().is_empty());
    plugin(&node, "b", 1);
    assert_eq!(networks.join("", &pod("p")).await.unwrap().len(), 3);
    networks.leave(&pod("p")).await.unwrap();
}

#[tokio::test]
async fn what_fails_at_one_interface_keeps_no_other() {
    let node = node();
    let networks = with(&node, several(2));
    networks.join("", &pod("p")).await.unwrap();
    for kind in ["a", "b"] {
        node.plugin(kind, r#"[ "$CNI_COMMAND" != DEL ] || { echo '{"code":11,"msg":"not now"}'; exit 1; }"#);
    }
    let error = networks.leave(&pod("p")).await.unwrap_err();
    assert!(matches!(&error, Error::Detach { failures, .. } if failures.len() == 2), "{error}");
    plugin(&node, "a", 0);
    let error = networks.leave(&pod("p")).await.unwrap_err();
    assert!(matches!(&error, Error::Detach { ifname, .. } if ifname == "eth1"), "{error}");
    assert_eq!(node.records().len(), 1);
    plugin(&node, "b", 1);
    networks.leave(&pod("p")).await.unwrap();
    assert!(node.records().is_empty());
}

#[tokio::test]
async fn the_configuration_of_today_has_no_say_in_leaving() {
    let node = node();
    let selection = Selection { count: 2, ..of_handler(&node) };
    let networks = with(&node, selection);
    networks.join("", &pod("p")).await.unwrap();
    networks.join("own", &pod("q")).await.unwrap();
    networks.join("", &pod("r")).await.unwrap();
    networks.join("own", &pod("s")).await.unwrap();
    drop(networks);
    calls(&node);
    // One network a pod from now on, another one, and the handler is gone with its directory.
    fs::remove_dir_all(node.path("own.d")).unwrap();
    fs::remove_file(node.path("net.d/00-a.conflist")).unwrap();
    fs::write(node.path("net.d/10-b.conflist"), "{").unwrap();
    let networks = node.open();
    assert!(matches!(networks.status(), Status::NotReady { .. }));
    networks.leave(&pod("p")).await.unwrap();
    assert_eq!(calls(&node), ["DEL b p eth1", "DEL a p eth0"]);
    networks.leave(&pod("q")).await.unwrap();
    assert_eq!(calls(&node), ["DEL d q eth0"]);
    networks.gc_containers(HashSet::new).await.unwrap();
    let mut collected = calls(&node);
    collected.sort();
    assert_eq!(collected, ["DEL a r eth0", "DEL b r eth1", "DEL d s eth0"]);
    assert!(node.records().is_empty());
}

#[tokio::test]
async fn collection_keeps_every_interface_of_who_is_there_in_every_network() {
    let node = node();
    let networks = with(&node, Selection { count: 2, ..of_handler(&node) });
    until_ready(&networks, "a, b").await;
    for name in ["p", "q"] {
        networks.join("", &pod(name)).await.unwrap();
    }
    networks.join("own", &pod("r")).await.unwrap();
    calls(&node);
    networks.gc_containers(|| ["q".to_owned(), "r".to_owned()].into()).await.unwrap();
    let (mut deleted, collected): (Vec<_>, Vec<_>) =
        calls(&node).into_iter().partition(|call| call.starts_with("DEL"));
    deleted.sort();
    assert_eq!(deleted, ["DEL a p eth0", "DEL b p eth1"]);
    assert_eq!(collected, ["GC a", "GC b", "GC d"], "the network c is nobody's");
    for (_, kind, config) in node.calls().iter().filter(|(verb, ..)| verb == "GC") {
        let mut valid = config["cni.dev/valid-attachments"].as_array().unwrap().clone();
        valid.sort_by_key(Value::to_string);
        let id = |container: &str, ifname: &str| json!({"containerID": container, "ifname": ifname});
        assert_eq!(valid, [id("q", "eth0"), id("q", "eth1"), id("r", "eth0")], "{kind}");
    }
    assert_eq!(node.records().len(), 3);
}

#[tokio::test]
async fn a_default_by_name_goes_first_and_is_waited_for() {
    let node = node();
    let selection = Selection { default: Some("z".into()), ..Selection::default() };
    let networks = with(&node, selection);
    let waits = |status: &Status| format!("{status:?}").contains("no network 'z'");
    assert!(waits(&networks.status()), "{:?}", networks.status());
    let error = networks.join("", &pod("p")).await.unwrap_err();
    assert!(matches!(&error, Error::NotReady { reason } if reason.contains("'z'")), "{error}");
    assert!(calls(&node).is_empty());
    node.conf("99-z.conflist", &network("z", "c"));
    until_ready(&networks, "z").await;
    assert_eq!(networks.join("", &pod("p")).await.unwrap()[0].network, "z");
    // One that comes before it by name and is broken is none of its business.
    fs::write(node.path("net.d/01-new.conflist"), "{").unwrap();
    fs::remove_file(node.path("net.d/99-z.conflist")).unwrap();
    until("status", || networks.status(), waits).await;
    node.conf("99-z.conflist", &network("z", "c"));
    until_ready(&networks, "z").await;
}

#[tokio::test]
async fn a_handler_has_its_own_directory_and_its_own_readiness() {
    let node = node();
    let networks = with(&node, of_handler(&node));
    let own = || networks.status_for("own");
    until("status", own, |status| *status == ready("d")).await;
    until_ready(&networks, "a").await;
    assert_eq!(networks.status_for("another"), ready("a"), "one without a directory has the node's");
    assert_eq!(networks.join("own", &pod("p")).await.unwrap()[0].network, "d");
    assert_eq!(networks.join("another", &pod("q")).await.unwrap()[0].network, "a");
    // What is wrong with the one is nothing to the other.
    fs::write(node.path("own.d/10-d.conflist"), "{").unwrap();
    let broken = |status: &Status| format!("{status:?}").contains("10-d.conflist");
    until("status", own, broken).await;
    assert_eq!(networks.status(), ready("a"));
    let error = networks.join("own", &pod("r")).await.unwrap_err();
    assert!(matches!(&error, Error::NotReady { reason } if reason.contains("10-d.conflist")), "{error}");
    fs::remove_dir_all(node.path("net.d")).unwrap();
    fs::write(node.path("own.d/10-d.conflist"), network("d", "d").to_string()).unwrap();
    until("status", own, |status| *status == ready("d")).await;
    until("status", || networks.status(), |status| matches!(status, Status::NotReady { .. })).await;
    networks.join("own", &pod("r")).await.unwrap();
    for name in ["p", "q", "r"] {
        networks.leave(&pod(name)).await.unwrap();
    }
    assert!(node.records().is_empty());
}

#[tokio::test]
async fn a_status_that_hangs_holds_up_nobody() {
    let node = node();
    let gate = node.path("gate");
    let hang =
        format!("[ \"$CNI_COMMAND\" != STATUS ] || while [ ! -e {} ]; do sleep 0.02; done", gate.display());
    node.plugin("a", &hang);
    let networks = with(&node, of_handler(&node));
    let start = Instant::now();
    until("the handler's status", || networks.status_for("own"), |status| *status == ready("d")).await;
    let asked = Instant::now();
    let status = networks.status();
    assert!(format!("{status:?}").contains("waiting for its plugins' STATUS"), "{status:?}");
    assert!(asked.elapsed() < Duration::from_millis(500) && start.elapsed() < support::SOON);
    fs::write(gate, "").unwrap();
    until_ready(&networks, "a").await;
}

#[tokio::test]
async fn what_was_ready_goes_on_being_it_when_the_configuration_changes() {
    let node = node();
    let networks = node.open();
    until_ready(&networks, "a").await;
    let config = cni::Config { plugin_deadline: support::SOON * 2, ..node.config() };
    let prepared = networks.prepare(&config).await.unwrap();
    assert_eq!(networks.status(), ready("a"));
    networks.change_over(prepared);
    // kubelet may ask at any moment.
    assert_eq!(networks.status(), ready("a"));
    networks.join("", &pod("p")).await.unwrap();
    networks.leave(&pod("p")).await.unwrap();
}

#[tokio::test]
async fn a_network_that_says_no_is_asked_again_before_a_pod_is_refused() {
    let node = node();
    let refuse = r#"[ "$CNI_COMMAND" != STATUS ] || { echo '{"code":50,"msg":"no uplink"}'; exit 1; }"#;
    node.plugin("a", refuse);
    let networks = node.open();
    let refused = |status: &Status| format!("{status:?}").contains("no uplink");
    until("status", || networks.status(), refused).await;
    let error = networks.join("", &pod("p")).await.unwrap_err();
    assert!(matches!(&error, Error::NotReady { reason } if reason.contains("no uplink")), "{error}");
    let verbs: HashSet<String> = node.calls().into_iter().map(|(verb, ..)| verb).collect();
    assert_eq!(verbs, ["STATUS".to_owned()].into());
    // Its last answer is not old yet.
    plugin(&node, "a", 0);
    networks.join("", &pod("p")).await.unwrap();
    assert_eq!(networks.status(), ready("a"));
    networks.leave(&pod("p")).await.unwrap();
}

#[tokio::test]
async fn leaving_waits_for_a_join_that_was_given_up() {
    let node = node();
    let (begun, gate) = (node.path("begun"), node.path("gate"));
    let slow = format!(
        "if [ \"$CNI_COMMAND\" = ADD ]; then touch {}; while [ ! -e {} ]; do sleep 0.01; done; echo '{{\"cniVersion\":\"1.1.0\"}}'; fi",
        begun.display(),
        gate.display()
    );
    node.plugin("b", &slow);
    let networks = with(&node, several(3));
    let joining = tokio::spawn({
        let networks = networks.clone();
        async move { networks.join("", &pod("p")).await }
    });
    until("the second ADD", || begun.exists(), |begun| *begun).await;
    joining.abort();
    let leaving = tokio::spawn({
        let networks = networks.clone();
        async move { networks.leave(&pod("p")).await }
    });
    fs::write(gate, "").unwrap();
    leaving.await.unwrap().unwrap();
    assert!(node.records().is_empty(), "{:?}", node.records());
    let seen = calls(&node);
    assert!(
        seen.contains(&"ADD c p eth2".to_owned()) && seen.contains(&"DEL c p eth2".to_owned()),
        "{seen:?}"
    );
}

#[tokio::test]
async fn a_file_that_is_written_in_pieces_is_taken_when_it_is_whole() {
    use std::io::Write;
    let node = node();
    let networks = node.open();
    until_ready(&networks, "a").await;
    networks.join("", &pod("p")).await.unwrap();
    let text = network("new", "c").to_string();
    let (first, second) = text.split_at(text.len() / 2);
    let mut file = fs::File::create(node.path("net.d/00-0.conflist")).unwrap();
    file.write_all(first.as_bytes()).unwrap();
    let half = |status: &Status| format!("{status:?}").contains("00-0.conflist");
    until("status", || networks.status(), half).await;
    // A pod isn't put into the network that was the first before, and who is there gets away all the same.
    let error = networks.join("", &pod("q")).await.unwrap_err();
    assert!(matches!(error, Error::NotReady { .. }), "{error}");
    calls(&node);
    networks.leave(&pod("p")).await.unwrap();
    assert_eq!(calls(&node), ["DEL a p eth0"]);
    file.write_all(second.as_bytes()).unwrap();
    drop(file);
    until_ready(&networks, "new").await;
}

/// As kubelet lays a ConfigMap out: each file is a link into `..data`, a link that is swapped.
#[tokio::test]
async fn a_config_map_is_followed() {
    use std::os::unix::fs::symlink;
    let node = node();
    let dir = node.path("map.d");
    let lay = |version: &str, name: &str| {
        let data = dir.join(format!("..{version}"));
        fs::create_dir_all(&data).unwrap();
        fs::write(data.join("net.conflist"), network(name, name).to_string()).unwrap();
        symlink(format!("..{version}"), dir.join("..data_tmp")).unwrap();
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    };
    fs::create_dir(&dir).unwrap();
    symlink("..data/net.conflist", dir.join("net.conflist")).unwrap();
    lay("1", "a");
    let networks = Networks::open(Config { conf_dir: dir.clone(), ..node.config() }).unwrap();
    until_ready(&networks, "a").await;
    lay("2", "b");
    until_ready(&networks, "b").await;
    assert_eq!(networks.join("", &pod("p")).await.unwrap()[0].network, "b");
    networks.leave(&pod("p")).await.unwrap();
}

#[tokio::test]
async fn a_directory_that_is_removed_and_made_again_is_followed() {
    let node = node();
    let networks = node.open();
    until_ready(&networks, "a").await;
    let (dir, beside): (PathBuf, PathBuf) = (node.path("net.d"), node.path("other.d"));
    for name in ["b", "c"] {
        fs::create_dir(&beside).unwrap();
        fs::write(beside.join("10.conflist"), network(name, name).to_string()).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        fs::rename(&beside, &dir).unwrap();
        until_ready(&networks, name).await;
    }
}
