//! Clients that are gone, slow, too many or too late.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::client::{authority, connect, refused, talk};
use crate::patience::patience;
use crate::processes::{ALL, config, node, node_with};

#[tokio::test]
async fn a_client_that_goes_leaves_nothing() {
    let node = node();
    for command in ["sleep", "yes"] {
        for _ in 0..20 {
            let client = connect(&node.exec(command, ALL), "v5.channel.k8s.io").await.unwrap();
            node.processes.live(1).await;
            drop(client);
            node.processes.live(0).await;
        }
    }
}

#[tokio::test]
async fn a_client_that_goes_is_seen_though_nobody_takes_its_input() {
    let node = node();
    let mut client = connect(&node.exec("sleep", ALL), "v4.channel.k8s.io").await.unwrap();
    node.processes.live(1).await;
    // More than the process's pipe and the buffers before it hold, and no more than the kernel takes besides: from a client that
    // is held back itself no end can arrive.
    for _ in 0..6 {
        client.send(0, &[0; 32 << 10]).await;
    }
    drop(client);
    node.processes.live(0).await;
}

#[tokio::test]
async fn a_client_that_doesn_t_read_holds_its_process_back_and_loses_nothing() {
    let node = node();
    let client = connect(&node.exec("yes", ALL), "v4.channel.k8s.io").await.unwrap();
    node.processes.live(1).await;
    // Long enough for many times what the buffers between hold.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut client = client;
    for _ in 0..1_000 {
        let (channel, bytes) = client.next().await.unwrap();
        assert!(channel == 1 && bytes.iter().all(|byte| *byte == b'y'));
    }
    drop(client);
    node.processes.live(0).await;
}

#[tokio::test]
async fn there_are_so_many_sessions_and_a_token_waits_for_a_place() {
    let node = node_with(streaming::Config { max_connections: 1, ..config() });
    let first = connect(&node.exec("sleep", ALL), "v4.channel.k8s.io").await.unwrap();
    node.processes.live(1).await;
    let url = node.exec("say hello 0", ALL);
    assert_eq!(refused(&url, "v4.channel.k8s.io").await, 503);
    drop(first);
    node.processes.live(0).await;
    // The place is free a moment after the process has gone.
    let begun = Instant::now();
    let client = loop {
        match connect(&url, "v4.channel.k8s.io").await {
            Ok(client) => break client,
            Err(error) => assert!(begun.elapsed() < patience(), "{error}"),
        }
    };
    assert_eq!(client.heard().await.channels[1], b"hello");
}

/// With the clock as it is: one that is paused goes on whenever bytes are on their way in the kernel.
#[tokio::test]
async fn who_takes_too_long_to_say_what_it_wants_is_cut_off() {
    let node = node();
    let url = node.exec("sleep", ALL);
    let beginnings = ["", "GET /exec/x HTTP/1.1\r\nHost: x\r\nX-A: "];
    let cut_off =
        beginnings.map(|beginning| tokio::time::timeout(patience(), talk(&url, beginning.as_bytes())));
    for in_time in futures::future::join_all(cut_off).await {
        in_time.expect("an end");
    }
}

#[tokio::test]
async fn the_end_of_the_server_is_told_and_leaves_nothing() {
    // An address that no other test listens at: the port is anybody's afterwards.
    let node = node_with(streaming::Config { address: "127.0.0.2".parse().unwrap(), ..config() });
    let client = connect(&node.exec("sleep", ALL), "v4.channel.k8s.io").await.unwrap();
    node.processes.live(1).await;
    let (heard, ()) = tokio::join!(client.heard(), node.server.stop());
    assert!(heard.error().contains("the runtime is ending"), "{heard:?}");
    node.processes.live(0).await;
    assert!(TcpStream::connect(authority(node.server.base())).await.is_err(), "nobody listens");
}

#[tokio::test]
async fn a_dropped_server_drops_its_sessions() {
    let node = node();
    let client = connect(&node.exec("sleep", ALL), "v4.channel.k8s.io").await.unwrap();
    node.processes.live(1).await;
    drop(node.server);
    node.processes.live(0).await;
    drop(client);
}

#[tokio::test]
async fn a_session_in_which_nothing_moves_ends() {
    let node = node_with(streaming::Config { idle_timeout: Duration::from_secs(1), ..config() });
    let heard = connect(&node.exec("sleep", ALL), "v4.channel.k8s.io").await.unwrap().heard().await;
    assert!(heard.error().contains("nothing moved for 1 s"), "{heard:?}");
    node.processes.live(0).await;
}
