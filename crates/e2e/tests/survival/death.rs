//! A supervisor dies under its pod.

use e2e::cri::{ContainerEventType, ContainerState, GetEventsRequest, PodSandboxState};
use e2e::node::PATIENCE;
use e2e::{Client, Netns, Network, Node, Setup, needs, patience, until};
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_stream::StreamExt;

use crate::{kill, start, supervisor};

async fn not_ready(client: &Client, pod: &str) {
    until(PATIENCE, "the pod to be not ready", || async {
        let state = client.pod(pod).await.map_err(|status| status.to_string())?.state;
        if state == PodSandboxState::SandboxNotready as i32 { Ok(()) } else { Err(state.to_string()) }
    })
    .await;
}

/// Sends a signal until it is of effect: of SIGSEGV the standard library takes the first, to see whether it was the stack, and a fault
/// comes again.
async fn crash(pid: i32, signal: Signal) {
    until(PATIENCE, "a process to end", || async {
        match nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal) {
            Ok(()) => Err(signal),
            Err(_) => Ok(()),
        }
    })
    .await;
}

#[tokio::test]
async fn kubelet_is_told_of_a_dead_supervisor_and_makes_its_pod_anew() {
    for signal in [Signal::SIGKILL, Signal::SIGSEGV, Signal::SIGABRT] {
        let node = Node::start(Network::BuiltIn).await;
        let client = node.client();
        client.pull(&node.registry.image("busybox:latest")).await.unwrap();
        let lost = start(&node, &client, "trap '' PIPE TERM; while :; do echo on; usleep 10000; done").await;
        let other = start(&node, &client, "exec sleep 1000").await;
        let mut events =
            client.runtime.clone().get_container_events(GetEventsRequest {}).await.unwrap().into_inner();
        let minder = supervisor(&client, &lost.pod).await;
        crash(minder, signal).await;
        let mut told = Vec::new();
        while told.len() < 2 {
            let event =
                tokio::time::timeout(patience(PATIENCE), events.next()).await.expect("an event in time");
            let event = event.expect("the stream goes on").unwrap();
            if event.container_event_type() == ContainerEventType::ContainerStoppedEvent {
                told.push(event.container_id);
            }
        }
        assert_eq!(told, [lost.container.clone(), lost.pod.clone()], "{signal}");
        assert_eq!(
            node.processes_of(&lost.container),
            Vec::<u32>::new(),
            "nothing runs of what is told to have ended"
        );
        not_ready(&client, &lost.pod).await;
        let status = client.container(&lost.container).await.unwrap();
        assert_eq!(status.state, ContainerState::ContainerExited as i32);
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "SupervisorLost"), "{status:?}");
        assert!(status.message.contains("its supervisor has died"), "{status:?}");
        // What kubelet does about a pod that is not ready.
        let attempt = {
            let mut config = node.pod();
            let metadata = client.pod(&lost.pod).await.unwrap().metadata.unwrap();
            config.metadata =
                Some(e2e::cri::PodSandboxMetadata { attempt: metadata.attempt + 1, ..metadata });
            config
        };
        client.stop_pod(&lost.pod).await.unwrap();
        client.run_pod(attempt).await.expect("the next attempt");
        assert_eq!(client.exec(&other.container, &["true"], 10).await.unwrap().exit_code, 0);
        assert!(std::fs::read_to_string(&lost.log).unwrap().contains("stdout F on"), "its log stays");
    }
}

/// Debian's bridge takes its masquerade rules away by the addresses that it finds inside: they would stay for ever, and catch whoever has
/// the address next. What stays is what the node's leak check looks for.
#[tokio::test]
async fn a_dead_supervisors_pod_leaves_no_rule_of_the_reference_plugins() {
    needs!("bridge", "host-local", "portmap", "nft");
    let host = Arc::new(Netns::new());
    let node = Setup::new(Network::Plugins).inside(&host).start().await;
    let client = node.client();
    let pod = client.run_pod(node.pod()).await.unwrap();
    let address = client.pod(&pod).await.unwrap().network.unwrap().ip;
    let rules = || host.sh("nft list ruleset");
    let of_pod = |rules: &str| rules.lines().filter(|line| line.contains(&format!("{address} "))).count();
    assert!(of_pod(&rules()) > 0, "{}", rules());
    kill(supervisor(&client, &pod).await, Signal::SIGKILL);
    not_ready(&client, &pod).await;
    client.stop_pod(&pod).await.unwrap();
    assert_eq!(of_pod(&rules()), 0, "{}", rules());
    client.remove_pod(&pod).await.unwrap();
}

/// Where the limit of the node's pods can be written, in the words of either version.
fn limit_file(node: &Node) -> Option<PathBuf> {
    let files = ["memory.limit_in_bytes", "memory.max"];
    let parents = node.traces().cgroup_parents();
    parents.iter().flat_map(|parent| files.map(|file| parent.join(file))).find(|file| file.exists())
}

fn oom_group(limit: &Path) -> bool {
    let group = limit.with_file_name("memory.oom.group");
    group.exists() && std::fs::write(group, "1").is_ok()
}

/// As kubelet has it: the pods' cgroup has the limit, a container has none of its own.
#[tokio::test]
async fn memory_that_runs_out_in_the_cgroup_above_takes_no_supervisor() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    let quiet = start(&node, &client, "exec sleep 1000").await;
    let Some(limit) = limit_file(&node) else {
        println!("skipped: no memory controller");
        return;
    };
    let greedy =
        start(&node, &client, "while [ ! -e /node/go ]; do usleep 10000; done; tail /dev/zero").await;
    let minder = supervisor(&client, &greedy.pod).await;
    let score = std::fs::read_to_string(format!("/proc/{minder}/oom_score_adj")).unwrap();
    // Everything there goes at once then, but for what is exempt.
    let is_group = score.trim() == "-1000" && oom_group(&limit);
    std::fs::write(&limit, (48 << 20).to_string()).unwrap();
    std::fs::write(node.path("go"), "").unwrap();
    let status = client.exited(&greedy.container).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"), "{status:?}");
    assert_eq!(supervisor(&client, &greedy.pod).await, minder);
    for pod in [&greedy.pod, &quiet.pod] {
        let state = client.pod(pod).await.unwrap().state;
        assert_eq!(state, PodSandboxState::SandboxReady as i32, "oom_score_adj {score}, group {is_group}");
    }
    if !is_group {
        assert_eq!(client.exec(&quiet.container, &["true"], 10).await.unwrap().exit_code, 0);
    }
}

/// Nobody can call a supervisor that was stopped; whoever tries is answered, and nobody else waits.
#[tokio::test]
async fn a_supervisor_that_hangs_fails_its_own_execs_in_time_and_no_others() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    let hung = start(&node, &client, "exec sleep 1000").await;
    let other = start(&node, &client, "exec sleep 1000").await;
    let minder = supervisor(&client, &hung.pod).await;
    kill(minder, Signal::SIGSTOP);
    let late = client.exec(&hung.container, &["true"], 1).await.unwrap_err();
    assert_eq!(late.code(), tonic::Code::DeadlineExceeded, "{late}");
    assert!(late.message().contains("took longer than"), "{late}");
    assert_eq!(client.exec(&other.container, &["true"], 10).await.unwrap().exit_code, 0);
    assert_eq!(client.pods().await.unwrap().len(), 2);
    // A pod goes without its supervisor's help.
    client.stop_pod(&hung.pod).await.unwrap();
    client.remove_pod(&hung.pod).await.unwrap();
}
