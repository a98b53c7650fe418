//! A supervisor dies: what is left of its pod is found, ended, told and taken down, and nobody else's pod is touched.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use sandbox::{ContainerId, ContainerPhase, Error, EventKind, ExecRequest, PodId, PodPhase, Reason};

use crate::world::{World, until};

fn signal_supervisor(world: &World, pod: &PodId, signal: Signal) {
    let pid = world.pods().pod(pod.as_str()).unwrap().supervisor.expect("a supervisor");
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

/// Sends a signal until it is of effect: of SIGSEGV the standard library takes the first, to see whether it was the stack, and a fault
/// comes again.
async fn crash(world: &World, pod: &PodId, signal: Signal) {
    let pid = world.pods().pod(pod.as_str()).unwrap().supervisor.expect("a supervisor");
    let pid = Pid::from_raw(pid.cast_signed()).unwrap();
    until("a supervisor to end", || match kill_process(pid, signal) {
        Ok(()) => Err(format!("{signal:?} has had no effect")),
        Err(_) => Ok(()),
    })
    .await;
}

/// Kills a process and waits until it has nothing open any more.
async fn end(pid: u32) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
    until("a killed process to end", || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let state = status.lines().find(|line| line.starts_with("State:")).unwrap_or("State: Z").to_owned();
        if state.contains('Z') { Ok(()) } else { Err(state) }
    })
    .await;
}

/// The cgroups of a container that are still there, in any hierarchy.
fn cgroups_of(world: &World, id: &ContainerId) -> Vec<PathBuf> {
    let pods = world.parents().into_iter().filter_map(|parent| std::fs::read_dir(parent).ok());
    let of = pods.flatten().flatten().map(|pod| pod.path().join(id.as_str()));
    of.filter(|path| path.is_dir()).collect()
}

/// Whether this process, which is the daemon, has a network namespace open.
fn holds(inode: u64) -> bool {
    let name = format!("net:[{inode}]");
    let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    open.filter_map(|entry| std::fs::read_link(entry.path()).ok()).any(|link| link.to_string_lossy() == name)
}

fn echo() -> ExecRequest {
    let command = ["/bin/echo", "here"].map(str::to_owned).to_vec();
    ExecRequest { command, timeout: Some(Duration::from_secs(20)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn however_a_supervisor_dies_its_containers_are_ended_and_told_of() {
    for signal in [Signal::KILL, Signal::SEGV, Signal::ABORT] {
        let world = World::new().await;
        let (lost, other) = (world.pod("lost").await, world.pod("other").await);
        // One that won't go when its pipes break or when it is asked to.
        let script = "trap '' PIPE TERM HUP; while :; do sleep 1; done";
        let (id, unharmed) = (world.started(&lost, script).await, world.started(&other, script).await);
        let mut events = world.pods().events();
        crash(&world, &lost, signal).await;
        let exited = world.exit(&id).await;
        // Nothing is said to have ended that still runs.
        assert_eq!(cgroups_of(&world, &id), Vec::<PathBuf>::new(), "{signal:?}");
        assert_eq!((exited.exit_code, exited.reason), (137, Reason::SupervisorLost), "{signal:?}");
        let told = async {
            let mut told = Vec::new();
            while told.len() < 2 {
                let event = events.recv().await.expect("an event");
                told.extend((event.kind == EventKind::Stopped).then_some(event.id));
            }
            told
        };
        let told = tokio::time::timeout(Duration::from_secs(20), told).await.expect("kubelet hears of it");
        assert_eq!(told, [id.as_str(), lost.as_str()], "the pod after its container");
        assert_eq!(world.pods().pod(lost.as_str()).unwrap().phase, PodPhase::NotReady);
        assert_eq!(world.pods().exec_sync(unharmed.as_str(), echo()).await.unwrap().stdout, b"here\n");
        world.end().await;
    }
}

/// Plugins find by what is inside what they have made outside, such as the masquerade rules of Debian's bridge.
#[tokio::test(flavor = "multi_thread")]
async fn the_network_of_a_pod_outlives_its_supervisor_until_it_has_let_go() {
    for daemon_was_started_anew in [false, true] {
        let mut world = World::new().await;
        let pod = world.pod("lost").await;
        let netns = world.pods().pod(pod.as_str()).unwrap().netns.clone().expect("a namespace of its own");
        let inode = std::fs::metadata(&netns).unwrap().ino();
        if daemon_was_started_anew {
            world.kill_daemon();
            world.open().await;
        }
        signal_supervisor(&world, &pod, Signal::KILL);
        let pods = world.pods();
        until("the pod to be not ready", || match pods.pod(pod.as_str()).unwrap().phase {
            PodPhase::NotReady => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        assert!(holds(inode), "it is there for the network");
        pods.stop(pod.as_str()).await.unwrap();
        let by = world.net.detached.lock().unwrap()[&pod].clone().expect("a namespace that can be opened");
        assert_ne!(by, netns, "that one was the supervisor's");
        assert!(!holds(inode), "a stopped pod holds nothing");
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_supervisor_dies_while_it_is_attached_is_detached_by_its_namespace() {
    let world = World::new().await;
    world.net.hold.store(true, Ordering::SeqCst);
    let (pods, config) = (world.pods(), world.pod_config("half"));
    let making = tokio::spawn(async move { pods.run(config).await });
    let attached = || world.net.attached.lock().unwrap().keys().next().cloned().ok_or(String::new());
    let pod = until("the network to be reached", attached).await;
    for line in world.processes().iter().filter(|line| line.contains(pod.as_str())) {
        let pid = line.split(':').next().and_then(|pid| pid.parse().ok());
        end(pid.unwrap()).await;
    }
    world.net.fail_attach.store(true, Ordering::SeqCst);
    world.net.hold.store(false, Ordering::SeqCst);
    world.net.go_on.notify_one();
    making.await.unwrap().expect_err("its supervisor is gone");
    assert!(world.net.detached.lock().unwrap()[&pod].is_some(), "with the namespace");
    world.assert_clean().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_does_not_let_go_is_asked_again_by_the_same_namespace() {
    let world = World::new().await;
    let pod = world.pod("p").await;
    let netns = world.pods().pod(pod.as_str()).unwrap().netns.clone().expect("a namespace of its own");
    let inode = std::fs::metadata(&netns).unwrap().ino();
    world.net.fail_detach.store(true, Ordering::SeqCst);
    world.pods().stop(pod.as_str()).await.expect_err("the address is still taken");
    assert!(world.processes().is_empty(), "everything else is stopped: {:?}", world.processes());
    world.net.fail_detach.store(false, Ordering::SeqCst);
    assert!(holds(inode));
    world.pods().stop(pod.as_str()).await.expect("the retry works");
    assert!(world.net.detached.lock().unwrap()[&pod].is_some(), "with the namespace");
    assert!(!holds(inode));
    world.end().await;
}

/// A pod with a container that runs, whose daemon and supervisor were killed.
async fn with_neither(world: &mut World) -> (PodId, ContainerId) {
    let pod = world.pod("lost").await;
    let id = world.started(&pod, "exec sleep 1000").await;
    let pid = world.pods().pod(pod.as_str()).unwrap().supervisor.unwrap();
    world.kill_daemon();
    end(pid).await;
    (pod, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_daemon_and_supervisor_a_pod_is_detached_without_its_namespace() {
    let mut world = World::new().await;
    let (pod, id) = with_neither(&mut world).await;
    world.open().await;
    // At once: what ran was ended before anybody could ask.
    let ContainerPhase::Exited(exited) = world.phase(&id) else { panic!("{:?}", world.phase(&id)) };
    assert_eq!((exited.exit_code, exited.reason), (137, Reason::SupervisorLost));
    assert_eq!(cgroups_of(&world, &id), Vec::<PathBuf>::new());
    world.pods().stop(pod.as_str()).await.unwrap();
    assert_eq!(world.net.detached.lock().unwrap()[&pod], None);
    assert!(world.net.attached.lock().unwrap().is_empty(), "no address stays");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_nobody_saw_is_not_made_up() {
    let mut world = World::new().await;
    let (_, id) = with_neither(&mut world).await;
    // As after a boot with the state kept: nothing runs of what the records say, the pod's own PID 1 neither.
    for line in &world.processes() {
        let pid = line.split(':').next().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
        let _ended_meanwhile = kill_process(pid.unwrap(), Signal::KILL);
    }
    // As their cgroups have it: a process is there for a while after it has let go of its memory and its command line.
    until("their end", || {
        world.processes();
        let of = |cgroup: PathBuf| std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
        let left: String = cgroups_of(&world, &id).into_iter().map(of).collect();
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
    world.open().await;
    let exited = world.exit(&id).await;
    assert_eq!((exited.exit_code, exited.reason), (255, Reason::SupervisorLost), "{}", exited.message);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_by_a_supervisor_that_hangs_ends_in_its_time_and_others_go_on() {
    let world = World::new().await;
    let (hung, other) = (world.pod("hung").await, world.pod("other").await);
    let id = world.started(&hung, "exec sleep 1000").await;
    let unharmed = world.started(&other, "exec sleep 1000").await;
    signal_supervisor(&world, &hung, Signal::STOP);
    let late = ExecRequest { timeout: Some(Duration::from_millis(300)), ..echo() };
    let late = world.pods().exec_sync(id.as_str(), late).await.unwrap_err();
    assert!(matches!(late, Error::Deadline { .. }), "{late:?}");
    assert_eq!(late.to_string(), "the command of \"/bin/echo here\" took longer than 300ms");
    assert_eq!(world.pods().exec_sync(unharmed.as_str(), echo()).await.unwrap().stdout, b"here\n");
    assert!(matches!(world.phase(&id), ContainerPhase::Running { .. }), "it is only silent");
    signal_supervisor(&world, &hung, Signal::CONT);
    assert_eq!(world.pods().exec_sync(id.as_str(), echo()).await.unwrap().stdout, b"here\n");
    world.end().await;
}
