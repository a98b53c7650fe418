//! What lives on when something else dies: a supervisor, the daemon, the machine (docs/lifecycle.md has the table).
//!
//! | file | what |
//! |---|---|
//! | `death` | a supervisor is killed or crashes; memory runs out beside it |
//! | `swap` | the daemon is exchanged under a hundred pods, with execs, streams and attachments under way |
//! | `boot` | the machine is booted: with the state lost, kept, and damaged |
//!
//! Not here: kills in the middle of a pod's making or end (`network_faults`, `sandbox/tests`).

mod boot;
mod death;
mod swap;

use std::path::PathBuf;

use e2e::{Client, Node};

/// A pod with one container that runs a script.
struct Started {
    pod: String,
    container: String,
    log: PathBuf,
}

async fn start(node: &Node, client: &Client, script: &str) -> Started {
    let config = node.pod();
    let pod = client.run_pod(config.clone()).await.expect("a pod");
    let mut wanted = node.busybox("main", &["sh", "-c", script]);
    wanted.mounts.push(e2e::cri::Mount {
        container_path: "/node".into(),
        host_path: node.path("").display().to_string(),
        readonly: true,
        ..Default::default()
    });
    let container = client.create(&pod, wanted, &config).await.expect("created");
    client.start(&container).await.expect("started");
    Started { pod, container, log: PathBuf::from(&config.log_directory).join("main.log") }
}

/// The process that minds a pod, as its verbose status says.
async fn supervisor(client: &Client, pod: &str) -> i32 {
    let request = e2e::cri::PodSandboxStatusRequest { pod_sandbox_id: pod.to_owned(), verbose: true };
    let info = client.runtime.clone().pod_sandbox_status(request).await.expect("a status").into_inner().info;
    let info: serde_json::Value = serde_json::from_str(&info["info"]).expect("JSON");
    i32::try_from(info["pid"].as_i64().expect("a process id")).expect("a process id")
}

fn kill(pid: i32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("a process to signal");
}
