//! A daemon without room: a full tmpfs at its state, no inode there, no descriptor. It answers, goes on when there is room, and starts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::{Network, Node, Setup, node, until};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tonic::Code;

/// A tmpfs of a size; unmounted with this value.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn new(at: PathBuf, options: &str) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        mount(Some("tmpfs"), &at, Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap();
        Self(at)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Takes all the room that there is.
fn fill(file: &Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(file).unwrap();
    while file.write(&[1; 512]).is_ok_and(|written| written > 0) {}
}

/// A node whose state is on that; it has a pod with a running container.
async fn node_on(options: &str) -> (Node, Tmpfs, String, String) {
    let mut node = Node::start(Network::None).await;
    node.stop_daemon();
    let state = Tmpfs::new(node.path("state"), options);
    node.start_daemon();
    let client = node.client();
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    let config = node.pod();
    let pod = client.run_pod(config.clone()).await.unwrap();
    let id = client.create(&pod, node.busybox("idle", &["sleep", "3600"]), &config).await.unwrap();
    client.start(&id).await.unwrap();
    (node, state, pod, id)
}

/// While there is no room: no pod is made, in so many words; what is there is served, by this daemon and the next.
async fn is_served_without_room(node: &mut Node, pod: &str) {
    let refused = node.client().run_pod(node.pod()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert_eq!(node.client().pods().await.unwrap().len(), 1);
    node.kill_daemon();
    node.start_daemon();
    let pods = node.client().pods().await.unwrap();
    assert_eq!(pods.iter().map(|pod| &*pod.id).collect::<Vec<_>>(), [pod]);
}

async fn another_pod(node: &Node) {
    let client = node.client();
    let pod = client.run_pod(node.pod()).await.unwrap();
    client.stop_pod(&pod).await.unwrap();
    client.remove_pod(&pod).await.unwrap();
}

async fn end(mut node: Node, state: Tmpfs, pod: &str) {
    let client = node.client();
    client.stop_pod(pod).await.unwrap();
    client.remove_pod(pod).await.unwrap();
    node.stop_daemon();
    drop(state);
    node.start_daemon();
}

#[tokio::test]
async fn a_full_state_refuses_pods_starts_and_goes_on_when_there_is_room() {
    let (mut node, state, pod, container) = node_on("size=1m,mode=700").await;
    fill(&state.path("ballast"));
    is_served_without_room(&mut node, &pod).await;
    // What is there can be ended while there is no room.
    node.client().stop(&container, 0).await.unwrap();
    std::fs::remove_file(state.path("ballast")).unwrap();
    another_pod(&node).await;
    end(node, state, &pod).await;
}

#[tokio::test]
async fn a_state_without_inodes_does_the_same() {
    let (mut node, state, pod, container) = node_on("nr_inodes=80,mode=700").await;
    let mut files = 0;
    while std::fs::File::create(state.path(&format!("ballast-{files}"))).is_ok() {
        files += 1;
    }
    // The next daemon needs one for its socket.
    std::fs::remove_file(state.path("ballast-0")).unwrap();
    is_served_without_room(&mut node, &pod).await;
    node.client().stop(&container, 0).await.unwrap();
    for file in 1..files {
        std::fs::remove_file(state.path(&format!("ballast-{file}"))).unwrap();
    }
    another_pod(&node).await;
    end(node, state, &pod).await;
}

#[tokio::test]
async fn a_daemon_without_descriptors_says_so_and_goes_on_when_there_are_some() {
    let node = Setup::new(Network::None).launched_after("ulimit -n 80").start().await;
    let client = node.client();
    let mut pods = Vec::new();
    let refused = loop {
        match client.run_pod(node.pod()).await {
            Ok(pod) => pods.push(pod),
            Err(refused) => break refused,
        }
        assert!(pods.len() < 100, "80 descriptors last for {} pods", pods.len());
    };
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(!pods.is_empty());
    // Connections that it can't take wait, those that it has are served.
    let crowd: Vec<_> =
        (0..100).map(|_| std::os::unix::net::UnixStream::connect(node.socket()).unwrap()).collect();
    assert_eq!(client.pods().await.unwrap().len(), pods.len());
    drop(crowd);
    // The last descriptors may be taken by those of the crowd that are only now seen to have gone: who is refused asks again.
    for pod in &pods[1..] {
        until(node::PATIENCE, "the pod stopped", async || client.stop_pod(pod).await).await;
        until(node::PATIENCE, "the pod removed", async || client.remove_pod(pod).await).await;
    }
    until(node::PATIENCE, "room for another pod", async || client.run_pod(node.pod()).await.map(drop)).await;
    let newcomer = node.client();
    let listed =
        tokio::time::timeout(Duration::from_secs(60), newcomer.pods()).await.expect("in time").unwrap();
    assert_eq!(listed.len(), 2);
}
