//! Requests that are wrong, and what is answered.

use crate::client::{connect, refused, talk};
use crate::processes::{ALL, node};

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n";

/// The first line of an answer to a request for a path.
async fn status(url: &str, method: &str, headers: &str) -> String {
    let path = url.splitn(4, '/').nth(3).unwrap();
    let answer = talk(url, format!("{method} /{path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n").as_bytes()).await;
    answer.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_token_is_good_for_one_session_of_its_kind() {
    let node = node();
    let url = node.exec("say hello 0", ALL);
    assert_eq!(refused(&url.replace("/exec/", "/attach/"), "v4.channel.k8s.io").await, 404);
    assert_eq!(refused(&format!("{url}x"), "v4.channel.k8s.io").await, 404);
    assert_eq!(refused(&url, "v9.channel.k8s.io").await, 403);
    let heard = connect(&url, "v4.channel.k8s.io").await.unwrap().heard().await;
    assert_eq!(heard.channels[1], b"hello");
    assert_eq!(refused(&url, "v4.channel.k8s.io").await, 404);
}

#[tokio::test]
async fn addresses_are_those_that_clients_can_come_to() {
    let node = node();
    let url = node.forward(&[80]);
    let (base, rest) = url.split_at(node.server.base().len());
    assert_eq!(base, node.server.base());
    assert!(base.starts_with("http://127.0.0.1:") && rest.starts_with("/portforward/"), "{url}");
    let config = streaming::Config { address: "::1".parse().unwrap(), ..crate::processes::config() };
    let node = crate::processes::node_with(config);
    assert!(node.server.base().starts_with("http://[::1]:"), "{}", node.server.base());
    let heard = connect(&node.exec("say hello 0", ALL), "v4.channel.k8s.io").await.unwrap().heard().await;
    assert_eq!(heard.channels[1], b"hello");
}

#[tokio::test]
async fn what_is_wrong_is_answered_as_peers_do() {
    let node = node();
    let url = node.exec("sleep", ALL);
    let versions = "X-Stream-Protocol-Version: v9.channel.k8s.io\r\n";
    assert_eq!(status(&url, "GET", "").await, "HTTP/1.1 400 Bad Request");
    assert_eq!(status(&url, "PUT", UPGRADE).await, "HTTP/1.1 405 Method Not Allowed");
    assert_eq!(status(&url, "POST", UPGRADE).await, "HTTP/1.1 400 Bad Request");
    assert_eq!(status(&url, "POST", &format!("{UPGRADE}{versions}")).await, "HTTP/1.1 403 Forbidden");
    assert_eq!(status(&url.replace("exec", "logs"), "GET", UPGRADE).await, "HTTP/1.1 404 Not Found");
    let path = url.splitn(4, '/').nth(3).unwrap();
    let request = format!("POST /{path} HTTP/1.1\r\nHost: x\r\n{UPGRADE}{versions}\r\n");
    let answer = talk(&url, request.as_bytes()).await.to_lowercase();
    for version in ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"] {
        assert!(answer.contains(&format!("x-accepted-stream-protocol-versions: {version}\r\n")), "{answer}");
    }
    // None of this has used the token.
    connect(&url, "v4.channel.k8s.io").await.unwrap();
}

#[tokio::test]
async fn headers_are_bounded() {
    let node = node();
    let url = node.exec("sleep", ALL);
    let many: String = (0..100).map(|number| format!("X-{number}: x\r\n")).collect();
    let long = format!("X-Long: {}\r\n", "x".repeat(64 << 10));
    for headers in [many, long] {
        let answer = status(&url, "GET", &headers).await;
        assert!(answer.is_empty() || answer.contains("431"), "{answer}");
    }
    let answer = talk(&url, b"\x16\x03\x01 is no HTTP\r\n\r\n").await;
    assert!(answer.is_empty() || answer.contains("400"), "{answer}");
}
