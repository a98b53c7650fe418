//! Clients that are gone, slow, too many or too late.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::SinkExt;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::Message;

use crate::client::{Client, authority, connect, connect_over, refused, talk};
use crate::patience::patience;
use crate::processes::{ALL, Node, config, node, node_with};

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

/// A client whose kernel takes little for it, and one that has read nothing of so much when its process has ended.
async fn one_that_pauses(node: &Node) -> Client {
    let url = node.exec(&format!("print {PRINTED}"), ALL);
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    let stream = socket.connect(authority(&url).parse().unwrap()).await.unwrap();
    let mut client = connect_over(stream, &url, "v4.channel.k8s.io").await.unwrap();
    node.processes.live(1).await;
    client.send(0, b"x").await;
    node.processes.live(0).await;
    client
}

/// More than a client's side takes, and less than the kernel takes here.
const PRINTED: usize = 500_000;

#[tokio::test]
async fn a_client_that_pauses_before_the_end_loses_nothing() {
    let node = node();
    let mut client = one_that_pauses(&node).await;
    for _ in 0..9 {
        for_a(Duration::from_secs(60)).await;
        // On a connection that is closed this would throw away what waits.
        client.socket.send(Message::Ping(Bytes::new())).await.unwrap();
    }
    let heard = client.heard().await;
    assert_eq!(heard.channels[1].len(), PRINTED);
    assert!(heard.error().contains("Success"), "{heard:?}");
}

#[tokio::test]
async fn a_client_that_takes_nothing_for_the_idle_time_loses_its_place() {
    let node = node_with(streaming::Config { max_connections: 1, ..config() });
    let _client = one_that_pauses(&node).await;
    assert_eq!(refused(&node.exec("sleep", ALL), "v4.channel.k8s.io").await, 503);
    let begun = Instant::now();
    let client = loop {
        // Its bytes may still be on their way to the kernel for the first of these.
        for_a(config().idle_timeout).await;
        match connect(&node.exec("say hello 0", ALL), "v4.channel.k8s.io").await {
            Ok(client) => break client,
            Err(error) => assert!(begun.elapsed() < patience(), "{error}"),
        }
    };
    assert_eq!(client.heard().await.channels[1], b"hello");
}

/// Lets time pass for the server, and for nobody's kernel.
async fn for_a(while_: Duration) {
    tokio::time::pause();
    tokio::time::advance(while_).await;
    tokio::time::resume();
    // Whoever was waiting for that has its turn.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_sixty_fifth_that_says_nothing_costs_the_first_its_place_and_nobody_waits() {
    let node = node();
    let url = node.exec("say hello 0", ALL);
    let mut idle = Vec::new();
    for _ in 0..64 {
        idle.push(TcpStream::connect(authority(&url)).await.unwrap());
    }
    // Nobody has had to go for these; one has for the next.
    let first = async {
        let mut answer = Vec::new();
        let _reset = idle.remove(0).read_to_end(&mut answer).await;
    };
    let mut first = Box::pin(first);
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut first).await.is_err());
    let begun = Instant::now();
    assert_eq!(connect(&url, "v4.channel.k8s.io").await.unwrap().heard().await.channels[1], b"hello");
    first.await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    for other in &idle {
        let closed = other.try_read(&mut [0]);
        assert!(closed.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    }
}

/// More at once than there are places for strangers: nobody loses a place for coming first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_clients_is_served_whole() {
    let node = node_with(streaming::Config { max_connections: 300, ..config() });
    let urls: Vec<String> = (0..200).map(|_| node.exec("say hello 0", ALL)).collect();
    let clients = urls.iter().map(|url| async {
        let client = connect(url, "v4.channel.k8s.io").await.map_err(|error| error.to_string())?;
        Ok::<_, String>(client.heard().await.channels[1].clone())
    });
    for said in futures::future::join_all(clients).await {
        assert_eq!(said.as_deref(), Ok(&b"hello"[..]));
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
