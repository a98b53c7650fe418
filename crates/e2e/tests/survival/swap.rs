//! The daemon is exchanged under many pods: nothing of theirs is lost, and what went through it ends clearly.

use std::path::Path;
use std::time::{Duration, Instant};

use e2e::cri::{AttachRequest, ContainerState, ExecRequest, PodSandboxState};
use e2e::streams::{Channel, Command, V5, Wanted};
use e2e::{Client, Network, Node, leaks, patience, until};
use futures::future::join_all;

use crate::{Started, start};

/// `KNARR_SWAP_PODS` has another number of them.
const PODS: usize = 100;

/// How many of the pods have a container that ends while no daemon is there, and how many calls are under way.
const ENDING: usize = 10;
const EXECS: usize = 20;
const STREAMS: usize = 5;

/// Counts without end, one line each.
const COUNTING: &str = "i=0; while :; do i=$((i+1)); echo line $i; usleep 200000; done";

#[derive(Debug, Clone, Copy)]
enum Way {
    /// SIGTERM, and another is started: `systemctl restart`, or an upgrade of the package.
    Stopped,
    /// SIGKILL, and another is started.
    Killed,
}

fn pods() -> usize {
    std::env::var("KNARR_SWAP_PODS").map_or(PODS, |number| number.parse().expect("a number"))
}

/// A container that ends with this code as soon as the flag of its round is there.
async fn ending(node: &Node, client: &Client, (round, number): (usize, usize)) -> (Started, i32) {
    let code = 7 + i32::try_from(number).unwrap();
    let script = format!("while [ ! -e /node/go{round} ]; do usleep 50000; done; echo bye; exit {code}");
    (start(node, client, &script).await, code)
}

fn stream_wanted() -> Wanted {
    Wanted { stdin: true, stdout: true, stderr: true, tty: false }
}

/// An address of a command that says something and goes on.
async fn exec_stream(client: &Client, container: &str) -> Command {
    let cmd = ["sh", "-c", "echo here; exec sleep 1000"].map(str::to_owned).to_vec();
    let container_id = container.to_owned();
    let request = ExecRequest { container_id, cmd, tty: false, stdin: true, stdout: true, stderr: true };
    let url = client.runtime.clone().exec(request).await.expect("an address").into_inner().url;
    opened(&url).await
}

async fn attach_stream(client: &Client, container: &str) -> Command {
    let container_id = container.to_owned();
    let request = AttachRequest { container_id, stdin: false, tty: false, stdout: true, stderr: true };
    let url = client.runtime.clone().attach(request).await.expect("an address").into_inner().url;
    opened(&url).await
}

/// Something has come, so that it is under way.
async fn opened(url: &str) -> Command {
    let mut command = Command::open(url, V5, stream_wanted()).await.expect("an upgrade");
    command.hear(|heard| !heard.text(Channel::Stdout).is_empty()).await;
    command
}

/// Waits for the end of a session, however it comes, and gives what was said of it.
async fn cut_off(mut command: Command) -> String {
    let ending = async {
        let mut said = Vec::new();
        while let Ok(Some((channel, bytes))) = command.next().await {
            if channel == Channel::Error {
                said.extend_from_slice(&bytes);
            }
        }
        String::from_utf8_lossy(&said).into_owned()
    };
    tokio::time::timeout(patience(Duration::from_secs(30)), ending).await.expect("a session that ends")
}

/// Read and write calls that a process has made (proc(5): `syscr` and `syscw`).
fn calls(pid: u32) -> String {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let figures = io.lines().filter(|line| line.starts_with("syscr") || line.starts_with("syscw"));
    figures.collect::<Vec<_>>().join(", ")
}

fn assert_counts(log: &Path) {
    let text = std::fs::read_to_string(log).unwrap();
    let numbers: Vec<u32> = text.lines().filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    assert!(numbers.len() > 1, "nothing was counted: {text}");
    let is_whole = numbers.iter().zip(1..).all(|(number, expected)| *number == expected);
    assert!(is_whole, "a line is lost or doubled in {}: {numbers:?}", log.display());
}

/// Exchanges the daemon while calls and sessions are under way.
async fn swap(
    node: &mut Node,
    (counting, ending): (&[Started], &[(Started, i32)]),
    (round, way): (usize, Way),
) {
    let client = node.client();
    let execs: Vec<_> = counting
        .iter()
        .cycle()
        .take(EXECS)
        .map(|started| {
            let (client, container) = (node.client(), started.container.clone());
            tokio::spawn(async move { client.exec(&container, &["sleep", "1000"], 0).await })
        })
        .collect();
    let mut sessions = Vec::new();
    for started in counting.iter().take(STREAMS) {
        sessions.push(exec_stream(&client, &started.container).await);
        sessions.push(attach_stream(&client, &started.container).await);
    }
    until(Duration::from_secs(30), "the execs to run", || async {
        let sleeping = node
            .traces()
            .processes()
            .into_iter()
            .filter(|(_, command)| command.trim() == "sleep 1000")
            .count();
        if sleeping >= EXECS + STREAMS { Ok(()) } else { Err(sleeping) }
    })
    .await;
    match way {
        Way::Stopped => node.stop_daemon(),
        Way::Killed => node.kill_daemon(),
    }
    std::fs::write(node.path(&format!("go{round}")), "").unwrap();
    for exec in execs {
        exec.await.unwrap().expect_err("its daemon has gone");
    }
    let said = join_all(sessions.into_iter().map(cut_off)).await;
    if matches!(way, Way::Stopped) {
        assert!(said.iter().all(|said| said.contains("Failure")), "why a session ended: {said:?}");
    }
    for (started, _) in ending {
        until(Duration::from_secs(30), "the last line of a container that ends meanwhile", || async {
            let text = std::fs::read_to_string(&started.log).unwrap_or_default();
            if text.contains("stdout F bye") { Ok(()) } else { Err(text) }
        })
        .await;
    }
    let begun = Instant::now();
    node.start_daemon();
    let (took, pid) = (begun.elapsed(), node.pid());
    println!(
        "{way:?}: serving {} pods after {took:?}; {}; {} descriptors",
        pods(),
        calls(pid),
        leaks::descriptors(pid)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_is_exchanged_under_a_hundred_pods() {
    let mut node = Node::start(Network::BuiltIn).await;
    let client = node.client();
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    let mut counting = Vec::new();
    for _ in 0..pods() - 2 * ENDING {
        counting.push(start(&node, &client, COUNTING).await);
    }
    let ways = [Way::Stopped, Way::Killed];
    let mut rounds = Vec::new();
    for round in 0..ways.len() {
        let mut all = Vec::new();
        for number in 0..ENDING {
            all.push(ending(&node, &client, (round, number)).await);
        }
        rounds.push(all);
    }
    for (round, way) in ways.into_iter().enumerate() {
        swap(&mut node, (&counting, &rounds[round]), (round, way)).await;
        let client = node.client();
        assert_eq!(client.pods().await.unwrap().len(), pods());
        for started in &counting {
            // At once: nobody has to wait until the daemon has found its pods.
            assert_eq!(client.exec(&started.container, &["true"], 20).await.unwrap().exit_code, 0);
            let status = client.container(&started.container).await.unwrap();
            assert_eq!(status.state, ContainerState::ContainerRunning as i32, "{way:?}: {status:?}");
            let pod = client.pod(&started.pod).await.unwrap();
            assert_eq!(pod.state, PodSandboxState::SandboxReady as i32, "{way:?}");
        }
        for (started, code) in &rounds[round] {
            let status = client.container(&started.container).await.unwrap();
            assert_eq!((status.exit_code, status.reason.as_str()), (*code, "Error"), "{way:?}: {status:?}");
        }
        attach_stream(&client, &counting[0].container).await;
        // What those who have gone had begun goes with them.
        until(Duration::from_secs(30), "the execs of before to be gone", || async {
            let left: Vec<_> = node
                .traces()
                .processes()
                .into_iter()
                .filter(|(_, command)| command.trim() == "sleep 1000")
                .collect();
            if left.is_empty() { Ok(()) } else { Err(left) }
        })
        .await;
    }
    let client = node.client();
    for started in &counting {
        client.stop(&started.container, 0).await.unwrap();
        assert_counts(&started.log);
    }
}
