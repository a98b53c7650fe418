//! `[metrics] listen`: what Prometheus reads of a daemon.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use e2e::{Network, Node, node};

const WHERE: &str = "serving metrics address=";

/// A node that serves metrics, and where.
async fn start() -> (Node, SocketAddr) {
    let node = e2e::Setup::new(Network::None).section("[metrics]\nlisten = \"127.0.0.1:0\"").start().await;
    let log = std::fs::read_to_string(node.path("daemon.log")).unwrap();
    let line = log.lines().find_map(|line| line.split_once(WHERE)).expect("a word of where");
    let address = line.1.split_whitespace().next().unwrap().parse().unwrap();
    (node, address)
}

/// The head and the body of the answer to a request's first line.
fn ask(address: SocketAddr, request: &str) -> (String, String) {
    let mut connection = TcpStream::connect(address).unwrap();
    connection.set_read_timeout(Some(node::PATIENCE)).unwrap();
    write!(connection, "{request} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
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
        assert!(name.starts_with(&described) && name.starts_with("knarr_"), "{line} belongs to {described}");
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
