//! `[metrics] listen`: what Prometheus reads of a daemon.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use e2e::{Network, Node, node};

const WHERE: &str = "serving metrics address=";

/// A node that serves metrics, and where.
async fn start() -> (Node, SocketAddr) {
    started(e2e::Setup::new(Network::None).section("[metrics]\nlisten = \"127.0.0.1:0\"")).await
}

async fn started(setup: e2e::Setup) -> (Node, SocketAddr) {
    let node = setup.start().await;
    let log = std::fs::read_to_string(node.path("daemon.log")).unwrap();
    let line = log.lines().find_map(|line| line.split_once(WHERE)).expect("a word of where");
    let address = line.1.split_whitespace().next().unwrap().parse().unwrap();
    (node, address)
}

/// The head and the body of the answer to a request's first line.
fn ask(address: SocketAddr, request: &str) -> (String, String) {
    let mut connection = TcpStream::connect(address).unwrap();
    connection.set_read_timeout(Some(node::PATIENCE)).unwrap();
    // As Prometheus asks.
    let accept = "Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2";
    let ends = "Connection: close\r\n\r\n";
    write!(connection, "{request} HTTP/1.1\r\nHost: {address}\r\n{accept}\r\n{ends}").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    (head.to_lowercase(), body.to_owned())
}

/// All figures, by name and labels. What isn't OpenMetrics is found out here.
fn figures(address: SocketAddr) -> BTreeMap<String, f64> {
    let (head, body) = ask(address, "GET /metrics");
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    let lines = body.strip_suffix("# EOF\n").expect("the end of the figures").lines();
    let mut described = String::new();
    let mut figures = BTreeMap::new();
    for line in lines {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.split(' ');
            assert!(matches!(words.next(), Some("HELP" | "TYPE" | "UNIT")), "{line}");
            described = words.next().unwrap().to_owned();
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        let is_ours = name.starts_with("knarr_") || name.starts_with("process_");
        assert!(name.starts_with(&described) && is_ours, "{line} belongs to {described}");
        assert!(figures.insert(name.to_owned(), value.parse().unwrap()).is_none(), "{line} twice");
    }
    figures
}

#[tokio::test]
async fn figures_follow_the_images() {
    let (node, address) = start().await;
    let before = figures(address);
    assert_eq!(before["knarr_images"], 0.0, "{before:?}");
    let client = node.client();
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    let after = figures(address);
    assert_eq!(after["knarr_images"], 1.0, "{after:?}");
    let pulls = [
        "knarr_image_layers_size_bytes",
        "knarr_image_pulls_total{outcome=\"succeeded\"}",
        "knarr_image_pull_layers_total{source=\"registry\"}",
        "knarr_image_pull_bytes_total{kind=\"fetched\"}",
        "knarr_image_pull_bytes_total{kind=\"unpacked\"}",
        "knarr_image_pull_stage_seconds_total{stage=\"decompress\"}",
    ];
    for name in pulls {
        assert!(after[name] > before[name], "{name}: {after:?}");
    }
    assert!(client.pull(&node.registry.image("absent:v1")).await.is_err());
    let failed = "knarr_image_pulls_total{outcome=\"failed\"}";
    assert_eq!(figures(address)[failed], before[failed] + 1.0);
}

#[tokio::test]
async fn figures_follow_calls_stages_and_pods() {
    let (node, address) = start().await;
    let client = node.client();
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    let config = node.pod();
    let pod = client.run_pod(config.clone()).await.unwrap();
    let container = client.create(&pod, node.busybox("main", &["sleep", "1000"]), &config).await.unwrap();
    client.start(&container).await.unwrap();
    client.run_pod(e2e::cri::PodSandboxConfig::default()).await.expect_err("a pod without a name");
    let now = figures(address);
    let counts = [
        ("knarr_call_duration_seconds_count{method=\"RunPodSandbox\"}", 2.0),
        ("knarr_call_failures_total{method=\"RunPodSandbox\",code=\"InvalidArgument\"}", 1.0),
        ("knarr_call_duration_seconds_bucket{le=\"+Inf\",method=\"StartContainer\"}", 1.0),
        ("knarr_stage_duration_seconds_count{stage=\"supervisor\"}", 1.0),
        ("knarr_stage_duration_seconds_count{stage=\"rootfs\"}", 1.0),
        ("knarr_stage_duration_seconds_count{stage=\"start\"}", 1.0),
        ("knarr_stage_duration_seconds_count{stage=\"pull_layers\"}", 1.0),
        ("knarr_stages_under_way{stage=\"start\"}", 0.0),
        ("knarr_pods{state=\"ready\"}", 1.0),
        ("knarr_containers{state=\"running\"}", 1.0),
        ("knarr_supervisors", 1.0),
        ("knarr_supervisor_contacts_total{change=\"lost\"}", 0.0),
        ("knarr_mailbox_wishes", 0.0),
    ];
    for (name, count) in counts {
        assert_eq!(now.get(name), Some(&count), "{name}: {now:?}");
    }
    let positive = [
        "knarr_supervisors_memory_bytes",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_threads",
        "process_tasks",
        "process_start_time_seconds",
    ];
    assert!(positive.iter().all(|name| now[*name] > 0.0), "{now:?}");
    let named = now.keys().find(|name| name.contains(&pod) || name.contains("pod-"));
    assert_eq!(named, None, "no pod is a label");
}

/// Waits in ADD until a file is there beside it.
const SLOW: &str = r#"#!/bin/sh
case $CNI_COMMAND in
ADD)
    until [ -e "$0.go" ]; do sleep 0.02; done
    echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"'$CNI_NETNS'"}],"ips":[{"address":"10.1.2.3/24","interface":0}]}' ;;
esac
"#;

#[tokio::test]
async fn what_is_stuck_is_told_while_it_is() {
    let section = "[metrics]\nlisten = \"127.0.0.1:0\"";
    let setup = e2e::Setup::new(Network::Plugins).section(section).plugin("slow", SLOW);
    let (node, address) = started(setup.conflist("slow", serde_json::json!([{ "type": "slow" }]))).await;
    let client = node.client();
    let run = tokio::spawn({
        let (client, config) = (client.clone(), node.pod());
        async move { client.run_pod(config).await }
    });
    let stuck = |stage: &str| format!("knarr_stages_under_way{{stage=\"{stage}\"}}");
    e2e::until(node::PATIENCE, "a network that is stuck", || async {
        let now = figures(address);
        let both = now.get(&stuck("network")).zip(now.get(&stuck("cni_plugin")));
        if both == Some((&1.0, &1.0)) { Ok(()) } else { Err(now) }
    })
    .await;
    let age = |now: &BTreeMap<String, f64>| now["knarr_stage_oldest_seconds{stage=\"network\"}"];
    let (before, after) = (age(&figures(address)), age(&figures(address)));
    assert!(before > 0.0 && after > before, "{before} {after}");
    std::fs::write(node.path("plugins/slow.go"), "").unwrap();
    run.await.unwrap().expect("a pod");
    let now = figures(address);
    assert_eq!((now[&stuck("network")], age(&now)), (0.0, 0.0));
    assert_eq!(now["knarr_cni_plugin_duration_seconds_count{plugin=\"slow\",command=\"ADD\"}"], 1.0);
}

#[tokio::test]
async fn nothing_but_reading_figures_is_answered() {
    let (_node, address) = start().await;
    assert!(ask(address, "GET /").0.starts_with("http/1.1 404"));
    let (head, _) = ask(address, "POST /metrics");
    assert!(head.starts_with("http/1.1 405") && head.contains("allow: get, head"), "{head}");
    let (head, body) = ask(address, "HEAD /metrics");
    assert!(head.starts_with("http/1.1 200") && body.is_empty(), "{head}");
}

#[tokio::test]
async fn silent_connections_keep_nobody_from_reading() {
    let (_node, address) = start().await;
    // One below what is served at a time.
    let silent: Vec<TcpStream> = (0..15).map(|_| TcpStream::connect(address).unwrap()).collect();
    assert!(!figures(address).is_empty());
    drop(silent);
}
