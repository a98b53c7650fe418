//! Chains of scripted plugins: what they are told, in which order, and what becomes of their failures.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use cni::{Attachment, AttachmentId, Config, Error, Networks, PortMapping, Protocol, Status};
use serde_json::{Value, json};
use support::{Node, SOON, attachment, shown, some_netns, until};

/// Prints a result with one address.
const GOOD: &str = r#"[ "$CNI_COMMAND" != ADD ] || echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/x"}],"ips":[{"address":"10.9.0.2/24","interface":0}]}'"#;
/// Passes on what the plugin before it did.
const PASS: &str = r#"[ "$CNI_COMMAND" != ADD ] || printf '%s' "$config" | sed -e 's/.*"prevResult":\({.*}\),"runtimeConfig".*/\1/' -e 's/.*"prevResult":\({.*}\),"type".*/\1/'"#;

fn chain(version: &str, plugins: &[&str]) -> Value {
    let plugins: Vec<Value> = plugins.iter().map(|kind| json!({ "type": kind })).collect();
    json!({"cniVersion": version, "name": "net", "plugins": plugins})
}

/// A network of these plugins that is ready.
fn ready(node: &Node, version: &str, plugins: &[(&str, &str)]) -> Networks {
    for (name, script) in plugins {
        node.plugin(name, script);
    }
    let names: Vec<&str> = plugins.iter().map(|(name, _)| *name).collect();
    node.conf("10-net.conflist", &chain(version, &names));
    node.open()
}

#[tokio::test]
async fn a_chain_is_run_forwards_and_deleted_backwards_with_its_result() {
    let node = Node::new();
    let networks = ready(&node, "1.0.0", &[("first", GOOD), ("second", PASS)]);
    assert_eq!(networks.status(), Status::Ready { network: "net".into() });
    let attachment = attachment("pod1", some_netns());
    let added = networks.add(&attachment).await.unwrap();
    assert_eq!(added.ips, ["10.9.0.2".parse::<std::net::IpAddr>().unwrap()]);
    networks.check(&attachment).await.unwrap();
    networks.del(&attachment).await.unwrap();
    networks.del(&attachment).await.unwrap();
    let expected = ["ADD first", "ADD second", "CHECK first", "CHECK second", "DEL second", "DEL first"];
    assert_eq!(node.verbs(), expected);
    let calls = node.calls();
    assert_eq!(calls[0].2, json!({"cniVersion": "1.0.0", "name": "net", "type": "first"}));
    for call in &calls[1..] {
        assert_eq!(call.2["prevResult"]["ips"][0]["address"], "10.9.0.2/24", "{call:?}");
    }
    assert!(node.records().is_empty());
}

#[tokio::test]
async fn the_environment_is_clean_and_says_what_the_specification_says() {
    let node = Node::new();
    let env = node.path("env");
    let networks = ready(&node, "0.3.1", &[("p", &format!("env | sort > {}\n{GOOD}", env.display()))]);
    let attachment = Attachment {
        args: vec![("K8S_POD_NAME".into(), "web".into()), ("K8S_POD_NAMESPACE".into(), "shop".into())],
        ..attachment("pod1", some_netns())
    };
    networks.add(&attachment).await.unwrap();
    let env = fs::read_to_string(env).unwrap();
    let bin = node.path("bin");
    for line in [
        "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAME=web;K8S_POD_NAMESPACE=shop".to_owned(),
        "CNI_COMMAND=ADD".into(),
        "CNI_CONTAINERID=pod1".into(),
        "CNI_IFNAME=eth0".into(),
        "CNI_NETNS=/proc/self/ns/net".into(),
        format!("CNI_PATH={}:/usr/lib/cni", bin.display()),
    ] {
        assert!(env.lines().any(|found| found == line), "{line} in {env}");
    }
    // And of which run of it, after a slash.
    let ours = format!("KNARR_STATE={}/", state(&node));
    assert!(env.lines().any(|found| found.starts_with(&ours)), "{ours} in {env}");
    let names: Vec<&str> = env.lines().filter_map(|line| line.split('=').next()).collect();
    let unexpected = |name: &&&str| {
        let known = ["KNARR_STATE", "PATH", "PWD", "_", "SHLVL", "OLDPWD"];
        !name.starts_with("CNI_") && !known.contains(name)
    };
    assert_eq!(names.iter().find(unexpected), None);
}

/// What tells a node's plugins from those of others.
fn state(node: &Node) -> String {
    let dir = fs::metadata(node.path("state")).unwrap();
    format!("{}:{}", dir.dev(), dir.ino())
}

#[tokio::test]
async fn only_declared_capabilities_are_passed_and_unknown_fields_kept() {
    let node = Node::new();
    node.plugin("p", GOOD);
    node.plugin("q", PASS);
    node.conf(
        "1.conflist",
        &json!({"cniVersion": "1.0.0", "name": "net", "plugins": [
            {"type": "p", "odd": [1, 2]}, {"type": "q", "capabilities": {"portMappings": true}}]}),
    );
    let networks = node.open();
    let mapping = PortMapping { host_port: 8080, container_port: 80, protocol: Protocol::Tcp, host_ip: None };
    let attachment = Attachment { port_mappings: vec![mapping], ..attachment("pod1", some_netns()) };
    networks.add(&attachment).await.unwrap();
    let calls = node.calls();
    assert_eq!(calls[0].2["odd"], json!([1, 2]));
    assert_eq!(calls[0].2.get("runtimeConfig"), None);
    let mapping = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
    assert_eq!(calls[1].2["runtimeConfig"], json!({ "portMappings": mapping }));
}

#[tokio::test]
async fn a_missing_plugin_is_named_before_anything_is_run() {
    let node = Node::new();
    let networks = ready(&node, "1.0.0", &[("first", GOOD)]);
    node.conf("10-net.conflist", &chain("1.0.0", &["first", "absent"]));
    let status =
        until("status", || networks.status(), |status| matches!(status, Status::NotReady { .. })).await;
    assert!(format!("{status:?}").contains("absent"), "{status:?}");
    let error = networks.add(&attachment("pod1", some_netns())).await.unwrap_err();
    assert!(matches!(&error, Error::PluginMissing { plugin, .. } if plugin == "absent"), "{error}");
    assert!(node.verbs().is_empty() && node.records().is_empty());
    node.plugin("absent", PASS);
    until("status", || networks.status(), |status| matches!(status, Status::Ready { .. })).await;
    networks.add(&attachment("pod1", some_netns())).await.unwrap();
}

/// A second plugin that fails as its script says; the whole must be undone and succeed when the plugin is well again.
async fn failing(script: &str) -> Error {
    let node = Node::new();
    let networks = ready(&node, "1.0.0", &[("first", GOOD), ("second", script)]);
    let attachment = attachment("pod1", some_netns());
    let error = networks.add(&attachment).await.unwrap_err();
    assert_eq!(node.verbs(), ["ADD first", "ADD second", "DEL second", "DEL first"], "{error}");
    assert!(node.records().is_empty(), "{error}");
    assert!(shown(&error).contains("second"), "{error}");
    node.plugin("second", PASS);
    networks.add(&attachment).await.unwrap();
    error
}

fn on_add(script: &str) -> String {
    format!("[ \"$CNI_COMMAND\" = ADD ] || exit 0\n{script}")
}

#[tokio::test]
async fn an_error_object_is_passed_on() {
    let object = r#"{"cniVersion":"1.0.0","code":11,"msg":"try again","details":"no lease"}"#;
    let error = failing(&on_add(&format!("echo '{object}'; exit 1"))).await;
    let text = shown(&error);
    assert!(matches!(error, Error::PluginFailed { code: 11, .. }), "{text}");
    assert!(text.contains("try again") && text.contains("no lease"), "{text}");
}

#[tokio::test]
async fn a_crash_is_told_with_its_last_words() {
    let error = failing(&on_add("echo 'out of luck' >&2; kill -SEGV $$")).await;
    assert!(matches!(error, Error::PluginCrashed { .. }));
    assert!(shown(&error).contains("out of luck"), "{error}");
}

#[tokio::test]
async fn garbage_is_refused_with_an_excerpt() {
    for (script, word) in [
        ("echo 'hello there'", "hello there"),
        ("echo '{\"cniVersion\":\"7.0.0\"}'", "7.0.0"),
        ("echo '{\"ips\":[{\"address\":\"10.0.0.1\"}]}'", "10.0.0.1"),
        ("true", "second"),
    ] {
        let error = failing(&on_add(script)).await;
        assert!(matches!(error, Error::PluginGarbage { .. }), "{error}");
        assert!(shown(&error).contains(word), "{error}");
    }
}

#[tokio::test]
async fn giant_output_is_cut_and_noise_on_standard_error_is_not() {
    let start = Instant::now();
    let error = failing(&on_add("exec cat /dev/zero")).await;
    assert!(matches!(error, Error::PluginOutput { .. }), "{error}");
    assert!(start.elapsed() < SOON);
    let node = Node::new();
    let noisy = format!("head -c 3000000 /dev/zero | tr '\\0' x >&2\n{GOOD}");
    ready(&node, "1.0.0", &[("p", &noisy)]).add(&attachment("pod1", some_netns())).await.unwrap();
}

#[tokio::test]
async fn a_hanging_plugin_is_killed_with_its_children() {
    let node = Node::new();
    let pids = node.path("pids");
    let hang = on_add(&format!("sleep 600 & echo $! $$ > {}\nwait", pids.display()));
    node.plugin("first", GOOD);
    node.plugin("second", &hang);
    node.conf("1.conflist", &chain("1.0.0", &["first", "second"]));
    let deadline = Duration::from_millis(500);
    let networks = Networks::open(Config { plugin_deadline: deadline, ..node.config() }).unwrap();
    let error = networks.add(&attachment("pod1", some_netns())).await.unwrap_err();
    assert!(matches!(error, Error::PluginTimedOut { .. }), "{}", shown(&error));
    let pids = fs::read_to_string(pids).unwrap();
    for pid in pids.split_whitespace() {
        let state = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // An orphan that nobody reaps stays as a zombie, which is dead enough.
        until("child's end", state, |stat| stat.is_empty() || stat.contains(") Z ")).await;
    }
    assert_eq!(node.verbs(), ["ADD first", "ADD second", "DEL second", "DEL first"]);
}

#[tokio::test]
async fn a_plugin_that_leaves_a_child_holding_its_output_does_not_hold_us() {
    let node = Node::new();
    let networks = ready(&node, "1.0.0", &[("p", &format!("sleep 5 &\n{GOOD}"))]);
    let start = Instant::now();
    networks.add(&attachment("pod1", some_netns())).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn a_detach_goes_on_past_a_failure_and_can_be_repeated() {
    let node = Node::new();
    let networks = ready(&node, "1.0.0", &[("first", GOOD), ("second", PASS)]);
    let attachment = attachment("pod1", some_netns());
    networks.add(&attachment).await.unwrap();
    node.plugin("second", "echo '{\"code\":11,\"msg\":\"not now\"}'; exit 1");
    let error = networks.del(&attachment).await.unwrap_err();
    assert!(matches!(&error, Error::Detach { failures, .. } if failures.len() == 1), "{error}");
    assert!(error.to_string().contains("not now"), "{error}");
    assert_eq!(node.verbs()[2..], ["DEL second", "DEL first"]);
    assert_eq!(node.records().len(), 1);
    node.plugin("second", PASS);
    networks.del(&attachment).await.unwrap();
    assert!(node.records().is_empty());
}

#[tokio::test]
async fn a_plugin_that_is_gone_blocks_no_detach_and_is_caught_up_with() {
    let node = Node::new();
    let networks = ready(&node, "1.0.0", &[("first", GOOD), ("second", PASS)]);
    let attachment = attachment("pod1", some_netns());
    networks.add(&attachment).await.unwrap();
    fs::remove_file(node.path("bin").join("second")).unwrap();
    networks.del(&attachment).await.unwrap();
    assert_eq!(node.verbs()[2..], ["DEL first"]);
    assert_eq!(node.records().len(), 1);
    node.plugin("second", PASS);
    // Its pod may still be listed.
    networks.gc(move || [attachment.id()].into()).await.unwrap();
    assert_eq!(node.verbs()[3..], ["DEL second", "DEL first"]);
    assert!(node.records().is_empty());
}

#[tokio::test]
async fn detaching_uses_the_configuration_that_attached() {
    let node = Node::new();
    let networks = ready(&node, "1.0.0", &[("first", GOOD)]);
    let attachment = attachment("pod1", some_netns());
    networks.add(&attachment).await.unwrap();
    drop(networks);
    fs::remove_file(node.path("net.d").join("10-net.conflist")).unwrap();
    let networks = node.open();
    assert!(matches!(networks.status(), Status::NotReady { .. }));
    networks.del(&attachment).await.unwrap();
    assert_eq!(node.verbs(), ["ADD first", "DEL first"]);
}

#[tokio::test]
async fn an_attachment_that_was_cut_short_is_deleted_before_it_is_made_again() {
    let node = Node::new();
    let networks = ready(&node, "1.0.0", &[("first", GOOD)]);
    let attachment = attachment("pod1", some_netns());
    networks.add(&attachment).await.unwrap();
    let error = networks.add(&attachment).await.unwrap_err();
    assert!(matches!(error, Error::AlreadyAttached { .. }), "{error}");
    // As after a crash during ADD: the intent is there, the result isn't.
    let path = &node.records()[0];
    let mut record: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    record["result"] = Value::Null;
    fs::write(path, record.to_string()).unwrap();
    node.open().add(&attachment).await.unwrap();
    assert_eq!(node.verbs(), ["ADD first", "DEL first", "ADD first"]);
}

#[tokio::test]
async fn a_dropped_request_finishes_its_work() {
    let node = Node::new();
    let slow = format!("while [ ! -e {} ]; do sleep 0.01; done\n{GOOD}", node.path("go").display());
    let networks = ready(&node, "1.0.0", &[("first", &slow)]);
    let attachment = attachment("pod1", some_netns());
    let dropped = tokio::time::timeout(Duration::from_millis(50), networks.add(&attachment)).await;
    assert!(dropped.is_err());
    fs::write(node.path("go"), "").unwrap();
    networks.del(&attachment).await.unwrap();
    assert_eq!(node.verbs(), ["ADD first", "DEL first"]);
    assert!(node.records().is_empty());
}

#[tokio::test]
async fn collection_detaches_what_nobody_owns() {
    let node = Node::new();
    let networks = ready(&node, "1.1.0", &[("first", &GOOD.replace("1.0.0", "1.1.0"))]);
    for name in ["pod1", "pod2"] {
        networks.add(&attachment(name, some_netns())).await.unwrap();
    }
    let valid = || [AttachmentId { container_id: "pod2".into(), ifname: "eth0".into() }].into();
    networks.gc(valid).await.unwrap();
    let calls: Vec<_> = node.calls().into_iter().filter(|call| call.0 != "STATUS").skip(2).collect();
    assert_eq!((calls[0].0.as_str(), calls[1].0.as_str()), ("DEL", "GC"));
    let expected = json!([{"containerID": "pod2", "ifname": "eth0"}]);
    assert_eq!(calls[1].2["cni.dev/valid-attachments"], expected);
    // As libcni says it to plugins of an early text of the specification.
    assert_eq!(calls[1].2["cni.dev/attachments"], expected);
    assert_eq!(node.records().len(), 1);
}

#[tokio::test]
async fn status_asks_the_plugins_since_1_1() {
    let node = Node::new();
    let refuse = r#"[ "$CNI_COMMAND" != STATUS ] || { echo '{"code":50,"msg":"no uplink"}'; exit 1; }"#;
    let networks = ready(&node, "1.1.0", &[("first", refuse)]);
    let refused = |status: &Status| format!("{status:?}").contains("no uplink");
    until("status", || networks.status(), refused).await;
    node.plugin("first", GOOD);
    // An upgrade of the configuration asks again at once.
    let mut conf = chain("1.1.0", &["first"]);
    conf["disableGC"] = true.into();
    node.conf("10-net.conflist", &conf);
    until("status", || networks.status(), |status| matches!(status, Status::Ready { .. })).await;
}

#[tokio::test]
async fn the_directory_is_watched() {
    let node = Node::new();
    fs::remove_dir(node.path("net.d")).unwrap();
    node.plugin("first", GOOD);
    let networks = node.open();
    let status = networks.status();
    assert!(format!("{status:?}").contains("net.d"), "{status:?}");
    let error = networks.add(&attachment("pod1", some_netns())).await.unwrap_err();
    assert!(matches!(error, Error::NotReady { .. }), "{error}");
    fs::create_dir(node.path("net.d")).unwrap();
    node.conf("10-net.conflist", &chain("1.0.0", &["first"]));
    until("status", || networks.status(), |status| matches!(status, Status::Ready { .. })).await;
    fs::write(node.path("net.d").join("05-broken.conflist"), "{").unwrap();
    let broken = |status: &Status| format!("{status:?}").contains("05-broken.conflist");
    until("status", || networks.status(), broken).await;
    fs::remove_file(node.path("net.d").join("05-broken.conflist")).unwrap();
    until("status", || networks.status(), |status| matches!(status, Status::Ready { .. })).await;
}

#[tokio::test]
async fn loopback_needs_no_binary() {
    let node = Node::new();
    node.plugin("first", GOOD);
    node.conf("10-net.conflist", &chain("1.0.0", &["first", "loopback"]));
    let config = Config { bin_dirs: vec![node.path("bin")], ..node.config() };
    let networks = Networks::open(config).unwrap();
    let attachment = attachment("pod1", some_netns());
    assert_eq!(networks.add(&attachment).await.unwrap().ips.len(), 1);
    networks.del(&attachment).await.unwrap();
}
