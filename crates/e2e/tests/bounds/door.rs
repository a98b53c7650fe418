//! Who comes in at the socket: connections that say nothing, more of them than there are places, more calls than there may be.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use e2e::{Network, Node, Pod, Setup, cri, node, until, until_each};
use tonic::{Code, Status};

async fn version(client: &e2e::Client) -> Result<(), Status> {
    client.runtime.clone().version(cri::VersionRequest { version: "v1".into() }).await.map(drop)
}

fn open_files(node: &Node) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", node.pid())).unwrap().count()
}

/// Resident memory, in KiB.
fn memory(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// More than the places there are and the kernel's queue hold together.
const SILENT: usize = 1_500;

#[tokio::test]
async fn who_says_nothing_keeps_nobody_out() {
    let node = Node::start(Network::None).await;
    let kubelet = node.client();
    version(&kubelet).await.unwrap();
    let (files, before) = (open_files(&node), memory(&node));
    let socket = node.socket();
    let crowd = tokio::task::spawn_blocking(move || {
        (0..SILENT).map(|_| UnixStream::connect(&socket).unwrap()).collect::<Vec<_>>()
    });
    let mut most = 0;
    let newcomer = node.client();
    let mut comes = Box::pin(version(&newcomer));
    let mut is_in = false;
    while !crowd.is_finished() || !is_in {
        most = most.max(open_files(&node));
        version(&kubelet).await.expect("who calls all the time keeps its place");
        tokio::select! {
            answer = &mut comes, if !is_in => is_in = answer.map(|()| true).expect("a newcomer gets its turn"),
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
    }
    let crowd = crowd.await.unwrap();
    assert!(most <= files + 256 + 16 + 8, "{most} descriptors, {files} before");
    let grown = memory(&node).saturating_sub(before);
    assert!(grown < 16 << 10, "{grown} KiB for {SILENT} connections");
    drop(crowd);
    until(node::PATIENCE, "their descriptors", async || match open_files(&node) {
        few if few <= files + 4 => Ok(()),
        many => Err(many),
    })
    .await;
}

/// A stream of events, which is a call under way as long as it lasts.
async fn events(client: &e2e::Client) -> Result<tonic::Streaming<cri::ContainerEventResponse>, Status> {
    let answer = client.runtime.clone().get_container_events(cri::GetEventsRequest {}).await?;
    Ok(answer.into_inner())
}

#[tokio::test]
async fn what_is_too_much_is_refused_with_the_key_that_says_so() {
    let section = "[server]\nmax_connections = 8\nmax_calls = 64";
    let node = Setup::new(Network::None).section(section).start().await;
    let clients: Vec<_> = (0..8).map(|_| node.client()).collect();
    let mut streams = Vec::new();
    for client in &clients {
        streams.push(events(client).await.unwrap());
    }
    let late = node.client();
    let refused = version(&late).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("server.max_connections"), "{refused}");
    version(&clients[0]).await.expect("who is in is served");
    while streams.len() < 64 {
        streams.push(events(&clients[streams.len() % 8]).await.unwrap());
    }
    let refused = version(&clients[0]).await.unwrap_err();
    assert!(refused.message().contains("server.max_calls"), "{refused}");
    streams.clear();
    drop(clients);
    until(node::PATIENCE, "a place", async || version(&late).await).await;
}

#[tokio::test]
async fn execs_wait_their_turn_for_as_long_as_they_have() {
    let section = "[server]\nmax_exec_syncs = 1\nmax_exec_output = 16777216";
    let pod = Pod::on(Setup::new(Network::None).section(section).start().await, |_| {}).await;
    let id = pod.waiting("main", |_| {}).await;
    let (client, container) = (pod.client.clone(), id.clone());
    let first = tokio::spawn(async move { client.exec(&container, &["sleep", "4"], 0).await });
    until(node::PATIENCE, "the first", async || match pod.node.processes_of(&id).len() {
        0 | 1 => Err("not there"),
        _ => Ok(()),
    })
    .await;
    let refused = pod.client.exec(&id, &["true"], 1).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("server.max_exec_syncs"), "{refused}");
    let waited = pod.client.exec(&id, &["echo", "late"], 20).await.unwrap();
    assert_eq!(waited.stdout, "late\n");
    first.await.unwrap().unwrap();
    // Less than one may print, and all of it is free again.
    let mut much = pod.client.runtime.clone().max_decoding_message_size(16 << 20);
    let command = ["head", "-c", "15000000", "/dev/zero"].map(String::from).to_vec();
    for _ in 0..3 {
        let printing =
            e2e::cri::ExecSyncRequest { container_id: id.clone(), cmd: command.clone(), timeout: 20 };
        let printed = much.exec_sync(printing).await.unwrap().into_inner();
        assert_eq!(printed.stdout.len(), 15_000_000);
    }
}

#[tokio::test]
async fn a_client_that_hears_nothing_is_let_go() {
    use std::io::{ErrorKind, Read, Write};
    let node = Node::start(Network::None).await;
    // It has introduced itself (RFC 9113, section 3.4: the preface, then a frame of settings) and answers no question after that.
    let mut deaf = UnixStream::connect(node.socket()).unwrap();
    deaf.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    deaf.set_nonblocking(true).unwrap();
    let mut hear = || match deaf.read(&mut [0; 1024]) {
        Ok(0) => Ok(()),
        Ok(_) => Err("it is spoken to"),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err("it is there"),
        Err(_) => Ok(()),
    };
    let end = "the end of the connection";
    until_each((Duration::from_millis(500), Duration::from_secs(180)), end, || std::future::ready(hear()))
        .await;
    version(&node.client()).await.unwrap();
}
