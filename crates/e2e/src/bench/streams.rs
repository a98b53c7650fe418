//! How many bytes a second come through exec and attach: from a process in a container to a client that only counts them.

use std::time::Instant;

use k8s_cri::v1::{AttachRequest, ContainerConfig, ExecRequest};

use super::measure::{Figures, Images, Network, add, container, pod, run};
use super::peers::Peer;
use crate::Client;
use crate::streams::{Channel, Command, Protocol, V4, Wanted};

/// What is spoken to all of them alike: the second is the newest that the peers have.
const PROTOCOLS: [(&str, Protocol); 2] = [("SPDY", Protocol::Spdy), ("WebSocket", V4)];

/// What a container writes for each line that it reads, in MiB, and for how many lines it may be ahead of its client: together less
/// than what is kept for a client, beyond which knarr cuts it off and goes on. Nothing waits for a client there, so that a client has
/// to say what it has taken.
const PORTION: usize = 1;
const AHEAD: usize = 3;

/// Whether the process waits for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answers {
    /// It doesn't.
    None,
    /// It does, after each portion.
    EachPortion,
}

/// Bytes of a run, in MiB: what a command writes, and what a container writes, which goes into its log, too.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// A command's.
    pub exec: usize,
    /// A container's.
    pub attach: usize,
    /// How often each.
    pub runs: usize,
}

/// Measures both, over each protocol.
pub(super) async fn all(peer: &Peer, images: &Images, sizes: Sizes, figures: &mut Figures) {
    let client = peer.client();
    let config = pod(peer, Network::Host, 0);
    let id = run(&client, peer, &config).await.expect("a pod");
    // Each line that it reads makes it write so much.
    let script =
        format!("while read line; do dd if=/dev/zero bs=64k count={} 2>/dev/null; done", PORTION * 16);
    let mut wanted = container(Network::Host, &images.busybox);
    wanted.command = vec!["sh".into(), "-c".into(), script];
    wanted.stdin = true;
    let id_of = |wanted: ContainerConfig| client.create(&id, wanted, &config);
    let container = id_of(wanted).await.expect("a container");
    client.start(&container).await.expect("a start");
    for (name, protocol) in PROTOCOLS {
        for _ in 0..sizes.runs {
            let rate = exec(&client, &container, (protocol, sizes.exec)).await;
            add(figures, &format!("exec throughput, {name}, MiB a second"), rate);
            let rate = attach(&client, &container, (protocol, sizes.attach)).await;
            add(figures, &format!("attach throughput, {name}, MiB a second"), rate);
            let log = std::path::Path::new(&config.log_directory).join("main.log");
            let _ = std::fs::OpenOptions::new().write(true).truncate(true).open(log);
        }
    }
    client.stop_pod(&id).await.expect("a stop");
    client.remove_pod(&id).await.expect("a removal");
    let _ = std::fs::remove_dir_all(&config.log_directory);
}

async fn exec(client: &Client, container: &str, (protocol, size): (Protocol, usize)) -> f64 {
    let wanted = Wanted { stdout: true, ..Wanted::default() };
    let count = format!("count={}", size * 16);
    let cmd = ["dd", "if=/dev/zero", "bs=64k", &count].map(str::to_owned).to_vec();
    let request = ExecRequest { container_id: container.into(), cmd, stdout: true, ..Default::default() };
    let url = client.runtime.clone().exec(request).await.expect("an address").into_inner().url;
    let mut command = Command::open(&url, protocol, wanted).await.expect("an upgrade");
    rate(&mut command, size, Answers::None).await
}

async fn attach(client: &Client, container: &str, (protocol, size): (Protocol, usize)) -> f64 {
    let wanted = Wanted { stdin: true, stdout: true, ..Wanted::default() };
    let request =
        AttachRequest { container_id: container.into(), stdin: true, stdout: true, ..Default::default() };
    let url = client.runtime.clone().attach(request).await.expect("an address").into_inner().url;
    let mut command = Command::open(&url, protocol, wanted).await.expect("an upgrade");
    for _ in 0..AHEAD {
        command.send(Channel::Stdin, b"\n").await.expect("sent");
    }
    rate(&mut command, size, Answers::EachPortion).await
}

/// From the first byte to the last of so many MiB; each portion that came is answered with a line.
async fn rate(command: &mut Command, size: usize, answers: Answers) -> f64 {
    let (mut begun, mut first, mut heard) = (Instant::now(), 0, 0);
    let mut portions = 0;
    while heard < size << 20 {
        let next = command.next().await.expect("a connection");
        let (channel, bytes) = next.unwrap_or_else(|| panic!("the session ended after {heard} bytes"));
        match channel {
            Channel::Stdout if heard == 0 => {
                (begun, first, heard) = (Instant::now(), bytes.len(), bytes.len());
            }
            Channel::Stdout => heard += bytes.len(),
            Channel::Error => panic!("after {heard} bytes: {}", String::from_utf8_lossy(&bytes)),
            Channel::Stdin | Channel::Stderr | Channel::Resize => {}
        }
        if answers == Answers::EachPortion && heard >> 20 >= (portions + 1) * PORTION {
            portions += 1;
            if (portions - 1 + AHEAD) * PORTION >= size {
                continue;
            }
            command.send(Channel::Stdin, b"\n").await.expect("sent");
        }
    }
    (heard - first) as f64 / f64::from(1 << 20) / begun.elapsed().as_secs_f64()
}
