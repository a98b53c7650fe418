//! Ports over WebSocket channels.

use crate::client::{connect, refused};
use crate::processes::{config, node, node_with};

#[tokio::test]
async fn ports_have_two_channels_each() {
    let node = node();
    for protocol in ["v4.channel.k8s.io", "v4.base64.channel.k8s.io", ""] {
        let mut client = connect(&node.forward(&[8080, 1]), protocol).await.unwrap();
        client.send(0, b"hello").await;
        let mut heard = [const { Vec::new() }; 4];
        while heard[0].len() < 7 || heard[3].len() < 60 {
            let (channel, bytes) = client.next().await.unwrap();
            heard[channel].extend_from_slice(&bytes);
        }
        let number = 8080u16.to_le_bytes();
        assert_eq!(heard[0], [&number[..], b"hello"].concat(), "{protocol}");
        assert_eq!(heard[1], number);
        assert_eq!(heard[2], [1, 0]);
        let error = std::str::from_utf8(&heard[3][2..]).unwrap();
        assert_eq!(error, "forwarding port 1 to pod \"p\": nobody listens on port 1 of p");
        node.processes.live(1).await;
        drop(client);
        node.processes.live(0).await;
    }
}

#[tokio::test]
async fn connections_of_all_sessions_have_one_limit() {
    let node = node_with(streaming::Config { max_forwarded: 1, ..config() });
    let first = connect(&node.forward(&[8080]), "v4.channel.k8s.io").await.unwrap();
    node.processes.live(1).await;
    let mut second = connect(&node.forward(&[8080]), "v4.channel.k8s.io").await.unwrap();
    let mut error = Vec::new();
    while let Ok((channel, bytes)) = second.next().await {
        if channel == 1 {
            error.extend_from_slice(&bytes);
        }
    }
    let error = std::str::from_utf8(&error[2..]).unwrap();
    assert_eq!(error, "forwarding port 8080 to pod \"p\": too many connections are forwarded on this node");
    drop(first);
    node.processes.live(0).await;
}

#[tokio::test]
async fn without_spdy_the_ports_must_be_known() {
    let node = node();
    assert_eq!(refused(&node.forward(&[]), "v4.channel.k8s.io").await, 400);
    let many: Vec<u16> = (1..=40).collect();
    assert_eq!(refused(&node.forward(&many), "v4.channel.k8s.io").await, 400);
}
