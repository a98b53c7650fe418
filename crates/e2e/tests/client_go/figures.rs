//! The daemon's figures, read and judged by Prometheus' own library: what `promtool check metrics` does.

use std::io::{Read, Write};
use std::net::TcpStream;

use e2e::{Network, Setup, node};
use serde_json::json;

use super::program::ClientGo;

/// What is served to who asks for no form of it.
fn figures(address: &str) -> String {
    let mut connection = TcpStream::connect(address).unwrap();
    connection.set_read_timeout(Some(node::PATIENCE)).unwrap();
    write!(connection, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    assert!(head.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
    body.to_owned()
}

#[tokio::test]
async fn are_clean_to_prometheus() {
    let Some(client_go) = ClientGo::new() else { return };
    let section =
        "[metrics]\nlisten = \"127.0.0.1:0\"\n[tracing]\nendpoint = \"127.0.0.1:1\"\ninsecure = true";
    let node = Setup::new(Network::BuiltIn).section(section).start().await;
    let log = std::fs::read_to_string(node.path("daemon.log")).unwrap();
    let address =
        log.split("serving metrics address=").nth(1).and_then(|rest| rest.split_whitespace().next());
    let client = node.client();
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    let pod = client.run_pod(node.pod()).await.unwrap();
    client.start("unknown").await.expect_err("there is no such container");
    let report = client_go.reports("lint", &json!({ "Text": figures(address.expect("an address")) })).await;
    assert_eq!(report["Problems"], json!([]));
    let types = [
        ("knarr_call_duration_seconds", "HISTOGRAM"),
        ("knarr_call_failures_total", "COUNTER"),
        ("knarr_stage_duration_seconds", "HISTOGRAM"),
        ("knarr_cni_plugin_duration_seconds", "HISTOGRAM"),
        ("knarr_image_pull_bytes_total", "COUNTER"),
        ("knarr_pods", "GAUGE"),
        ("knarr_trace_spans_total", "COUNTER"),
        ("knarr_build_info", "GAUGE"),
        ("process_cpu_seconds_total", "COUNTER"),
    ];
    for (name, kind) in types {
        assert_eq!(report["Families"][name], kind, "{name}: {report}");
    }
    client.remove_pod(&pod).await.unwrap();
}
