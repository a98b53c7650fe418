//! Forwarded ports. Listeners are this test's own, made in the pod's network namespace: they send back what they get.

use std::fs::File;
use std::net::TcpListener;

use e2e::{Network, Pod};
use futures::future::join_all;
use nix::sched::{CloneFlags, setns};
use proto::runtime::v1 as cri;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::program::{ClientGo, Run};

/// SPDY, SPDY in a WebSocket tunnel, and the tunnel that is refused with SPDY after it.
const PROTOCOLS: [&str; 3] = ["spdy", "tunnel", "fallback"];

/// A port that nobody listens on: the kernel gives it to no one, and the pod's network is its own.
const NOBODY: u16 = 9;

/// Connections at once.
const MANY: usize = 50;

/// A listener that sends back what it gets, and ends its side when the other has ended.
struct Echo {
    port: u16,
    task: JoinHandle<()>,
}

impl Echo {
    /// Listens on an address in the network namespace of a container's process.
    fn inside(process: &Value, address: &'static str) -> Self {
        Self::of(listener(process, address))
    }

    fn of(listener: TcpListener) -> Self {
        let port = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _broken_off = tokio::io::copy(&mut from, &mut to).await;
                    let _broken_off = to.shutdown().await;
                });
            }
        });
        Self { port, task }
    }
}

fn listener(process: &Value, address: &'static str) -> TcpListener {
    let namespace = File::open(format!("/proc/{process}/ns/net")).expect("a network namespace");
    // A thread of its own: it ends where it went.
    let bound = std::thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("entering the namespace");
        TcpListener::bind(address).expect("a listener")
    });
    bound.join().unwrap()
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(client: ClientGo, pod: &Pod, (protocol, ports): (&str, &[u16])) -> (Run, Vec<u16>) {
    let plan = json!({ "URL": url(pod, ports).await, "Protocol": protocol, "Ports": ports });
    let mut run = client.run("forward", &plan).await;
    let local = run.report().await["Ports"].as_array().expect("ports").clone();
    (run, local.iter().map(|port| port.as_u64().unwrap().try_into().unwrap()).collect())
}

async fn url(pod: &Pod, ports: &[u16]) -> String {
    let port = ports.iter().copied().map(i32::from).collect();
    let request = cri::PortForwardRequest { pod_sandbox_id: pod.id.clone(), port };
    pod.runtime.clone().port_forward(request).await.expect("an address").into_inner().url
}

/// Nothing went wrong, and the fallback was one.
fn judge(protocol: &str, report: &Value) {
    let upgrades = if protocol == "fallback" { json!(["websocket", "SPDY/3.1"]) } else { Value::Null };
    assert_eq!((&report["Errors"], &report["Upgrades"]), (&Value::Null, &upgrades), "{protocol}");
}

/// Bytes that no two connections have in common.
fn bytes(seed: usize, length: usize) -> Vec<u8> {
    let mut state = (seed as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let next = || {
        // Xorshift (Marsaglia, 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Sends all, ends its side, and gives what came until the other side ended.
async fn through(port: u16, sent: &[u8]) -> Vec<u8> {
    let (mut from, mut to) = TcpStream::connect(("127.0.0.1", port)).await.unwrap().into_split();
    let mut came = Vec::new();
    let send = async {
        to.write_all(sent).await.unwrap();
        to.shutdown().await.unwrap();
    };
    let (read, ()) = tokio::join!(from.read_to_end(&mut came), send);
    read.unwrap();
    came
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_connections_at_once_over_both_families() {
    let Some(client) = ClientGo::new() else { return };
    let pod = Pod::new(Network::BuiltIn, |_| {}).await;
    let container = pod.waiting("main", |_| {}).await;
    let process = pod.container(&container).await.1["pid"].clone();
    let echoes = ["127.0.0.1:0", "[::1]:0"].map(|address| Echo::inside(&process, address));
    for protocol in PROTOCOLS {
        let (run, local) = forward(client, &pod, (protocol, &echoes.each_ref().map(|echo| echo.port))).await;
        let connections = (0..MANY).map(|number| {
            let (port, sent) = (local[number % local.len()], bytes(number, 100_000));
            async move { through(port, &sent).await == sent }
        });
        assert!(
            join_all(connections).await.into_iter().all(|same| same),
            "{protocol}: other bytes came back"
        );
        judge(protocol, &run.ended().await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_transfer_arrives_and_holds_up_no_other() {
    let Some(client) = ClientGo::new() else { return };
    let pod = Pod::new(Network::BuiltIn, |_| {}).await;
    let container = pod.waiting("main", |_| {}).await;
    let echo = Echo::inside(&pod.container(&container).await.1["pid"], "127.0.0.1:0");
    let large = bytes(0, 1 << 20).repeat(64);
    for protocol in PROTOCOLS {
        let (run, local) = forward(client, &pod, (protocol, &[echo.port])).await;
        let small = async {
            for number in 1..=10 {
                let sent = bytes(number, 1000);
                assert!(through(local[0], &sent).await == sent, "{protocol}: other bytes came back");
            }
        };
        let (came, ()) = tokio::join!(through(local[0], &large), small);
        assert!(came == large, "{protocol}: {} bytes came back, or others", came.len());
        judge(protocol, &run.ended().await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_nobody_listens_on_is_told_and_others_go_on() {
    let Some(client) = ClientGo::new() else { return };
    let pod = Pod::new(Network::BuiltIn, |_| {}).await;
    let container = pod.waiting("main", |_| {}).await;
    let process = pod.container(&container).await.1["pid"].clone();
    let echo = Echo::inside(&process, "127.0.0.1:0");
    for protocol in PROTOCOLS {
        let url = url(&pod, &[echo.port, NOBODY]).await;
        let plan = json!({ "URL": url, "Protocol": protocol, "Echo": echo.port, "Nobody": NOBODY });
        let report = client.reports("pairs", &plan).await;
        assert_eq!((&report["Before"], &report["After"]), (&json!("before"), &json!("after")), "{protocol}");
        let refusal = report["Refusal"].as_str().unwrap();
        assert!(refusal.contains(&format!("port {NOBODY}")) && refusal.contains("refused"), "{refusal}");

        // kubectl tells its user, and ends.
        let (run, local) = forward(client, &pod, (protocol, &[NOBODY])).await;
        assert_eq!(through(local[0], b"").await, b"", "{protocol}");
        let errors = run.ended().await["Errors"].to_string();
        assert!(
            errors.contains(&format!("port {NOBODY}")) && errors.contains("refused"),
            "{protocol}: {errors}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_on_the_host_s_network_has_the_host_s_ports() {
    let Some(client) = ClientGo::new() else { return };
    let pod = Pod::new(Network::None, |_| {}).await;
    let echoes = ["127.0.0.1:0", "[::1]:0"].map(|address| Echo::of(TcpListener::bind(address).unwrap()));
    for protocol in PROTOCOLS {
        let (run, local) = forward(client, &pod, (protocol, &echoes.each_ref().map(|echo| echo.port))).await;
        for port in local {
            assert_eq!(through(port, b"hello").await, b"hello", "{protocol}");
        }
        judge(protocol, &run.ended().await);
    }
}
