//! A daemon without room: a full tmpfs at its state, no inode there, no descriptor. It answers, goes on when there is room, and starts.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use e2e::cri::PodSandboxState;
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

/// A daemon with so many descriptors, and as many pods as it has had some for. Refuses the next one in so many words.
async fn node_full_of_pods(descriptors: u32) -> (Node, Vec<String>) {
    let limit = format!("ulimit -n {descriptors}");
    let node = Setup::new(Network::None).launched_after(&limit).start().await;
    let client = node.client();
    let mut pods = Vec::new();
    let refused = loop {
        match client.run_pod(node.pod()).await {
            Ok(pod) => pods.push(pod),
            Err(refused) => break refused,
        }
        assert!(pods.len() < 100, "{descriptors} descriptors last for {} pods", pods.len());
    };
    assert_eq!(refused.code(), Code::ResourceExhausted, "with {descriptors}: {refused}");
    assert!(pods.len() > 1);
    (node, pods)
}

async fn says_so_and_goes_on(descriptors: u32) {
    let (node, pods) = node_full_of_pods(descriptors).await;
    let client = node.client();
    // Connections that it can't take wait, those that it has are served.
    assert_eq!(client.pods().await.unwrap().len(), pods.len());
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

/// Which step finds none left depends on how many the daemon has inherited, and each pod keeps two.
#[tokio::test]
async fn a_daemon_without_descriptors_says_so_and_goes_on_when_there_are_some() {
    for descriptors in [80, 81] {
        says_so_and_goes_on(descriptors).await;
    }
}

/// Starts a daemon there that has so few descriptors, and kills it once it serves or has given up.
fn serves_or_gives_up(node: &Node, descriptors: u32) {
    let mut daemon = Command::new("sh")
        .args(["-ec", &format!("ulimit -n {descriptors}; exec \"$0\" \"$@\"")])
        .arg(node::binary("knarr"))
        .args(["serve", "--config"])
        .arg(node.path("knarr.toml"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut word = String::new();
    BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut word).unwrap();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

/// What can't be looked at for want of them is not gone.
#[tokio::test]
async fn a_daemon_that_starts_with_too_few_descriptors_loses_no_pod() {
    let (mut node, pods) = node_full_of_pods(80).await;
    node.kill_daemon();
    // Odd and even: each pod keeps two.
    for few in (40..=60).step_by(5) {
        serves_or_gives_up(&node, few);
    }
    node.start_daemon();
    let client = node.client();
    until(node::PATIENCE, "all pods ready", async || {
        let listed = client.pods().await.map_err(|error| error.to_string())?;
        let ready = listed.iter().filter(|pod| pod.state == PodSandboxState::SandboxReady as i32).count();
        if ready == pods.len() { Ok(()) } else { Err(format!("{ready} of {}", pods.len())) }
    })
    .await;
}
