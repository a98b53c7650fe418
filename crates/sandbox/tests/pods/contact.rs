//! A supervisor that doesn't answer is not one that is gone: its pod is kept.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use rustix::process::{Pid, Signal, kill_process};
use sandbox::{ContainerId, ContainerPhase, Error, ExecRequest, PodPhase, StreamChoice};

use crate::world::{World, here, shell, until};

fn exec(command: &[&str]) -> ExecRequest {
    ExecRequest { command: command.iter().map(|word| (*word).to_owned()).collect(), timeout: None }
}

fn supervisor(world: &World, pod: &str) -> Pid {
    let pid = world.pods().pod(pod).unwrap().supervisor.expect("a supervisor");
    Pid::from_raw(pid.cast_signed()).unwrap()
}

/// Waits until the container can be reached by way of its supervisor.
async fn answers(world: &World, id: &ContainerId) {
    let begun = std::time::Instant::now();
    loop {
        match world.pods().exec_sync(id.as_str(), exec(&["/bin/echo", "here"])).await {
            Ok(output) => return assert_eq!(output.stdout, b"here\n"),
            Err(error) => assert!(begun.elapsed() < here(Duration::from_secs(30)), "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_supervisor_is_silent_at_adoption_is_kept() {
    let mut world = World::new().await;
    let pod = world.pod("p").await;
    let id = world.started(&pod, "exec sleep 1000").await;
    let waits = world.pods().create_container(pod.as_str(), shell("waits", "exit 5")).await.unwrap();
    let before = (*world.pods().pod(pod.as_str()).unwrap()).clone();
    let stalled = supervisor(&world, pod.as_str());
    kill_process(stalled, Signal::STOP).unwrap();
    world.kill_daemon();
    world.open().await;

    let pods = world.pods();
    assert_eq!(*pods.pod(pod.as_str()).unwrap(), before, "it stays what it was");
    assert!(matches!(world.phase(&id), ContainerPhase::Running { .. }), "{:?}", world.phase(&id));
    let refused = pods.start_container(waits.as_str()).await.unwrap_err();
    assert!(matches!(refused, Error::OutOfTouch { .. }), "{refused:?}");

    kill_process(stalled, Signal::CONT).unwrap();
    answers(&world, &id).await;
    pods.start_container(waits.as_str()).await.expect("the refusal left it as it was");
    assert_eq!(world.exit(&waits).await.exit_code, 5);
    assert!(matches!(world.phase(&id), ContainerPhase::Running { .. }), "{:?}", world.phase(&id));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_silent_supervisor_does_not_do_is_told_of_the_container() {
    let world = World::new().await;
    let pod = world.pod("p").await;
    let id = world.started(&pod, "exec sleep 1000").await;
    let stalled = supervisor(&world, pod.as_str());
    kill_process(stalled, Signal::STOP).unwrap();
    let choice = StreamChoice { stdout: true, ..StreamChoice::default() };
    let late = world.pods().attach(id.as_str(), choice).await.unwrap_err();
    assert_eq!(late.to_string(), format!("connecting to the streams of \"{id}\" took longer than 5s"));
    kill_process(stalled, Signal::CONT).unwrap();
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_supervisor_that_dies_is_noticed() {
    let mut world = World::new().await;
    let pod = world.pod("p").await;
    let id = world.started(&pod, "exec sleep 1000").await;
    let stalled = supervisor(&world, pod.as_str());
    kill_process(stalled, Signal::STOP).unwrap();
    world.kill_daemon();
    world.open().await;
    kill_process(stalled, Signal::KILL).unwrap();
    assert_eq!(world.exit(&id).await.exit_code, 137);
    let pods = world.pods();
    until("the pod to be not ready", || match pods.pod(pod.as_str()).unwrap().phase {
        PodPhase::NotReady => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    world.end().await;
}

/// Takes the daemon's place at a supervisor for a moment: it gives up the connection that it had.
fn intrude(directory: &Path) -> OwnedFd {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    // The whole path may be longer than an address.
    let directory = rustix::fs::open(
        directory,
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    let path = format!("/proc/self/fd/{}/supervisor.sock", std::os::fd::AsRawFd::as_raw_fd(&directory));
    rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    socket
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_is_made_anew() {
    let world = World::new().await;
    let pod = world.pod("p").await;
    let id = world.started(&pod, "exec sleep 1000").await;
    let ends = world
        .pods()
        .create_container(
            pod.as_str(),
            shell("ends", "while ! ls /data/go >/dev/null 2>&1; do sleep 0.05; done; exit 7"),
        )
        .await
        .unwrap();
    world.pods().start_container(ends.as_str()).await.unwrap();
    let go = exec(&["/bin/sh", "-c", "(sleep 0.2; touch /data/go) >/dev/null 2>&1 &"]);
    world.pods().exec_sync(ends.as_str(), go).await.unwrap();

    drop(intrude(&world.directory.path().join("state/pods").join(pod.as_str())));
    answers(&world, &id).await;
    assert_eq!(world.exit(&ends).await.exit_code, 7, "an end that may have been missed");
    assert!(matches!(world.phase(&id), ContainerPhase::Running { .. }), "{:?}", world.phase(&id));
    assert_eq!(world.pods().pod(pod.as_str()).unwrap().phase, PodPhase::Ready);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_whose_record_cannot_be_read_runs_on() {
    let mut world = World::new().await;
    let pod = world.pod("p").await;
    let id = world.started(&pod, "exec sleep 1000").await;
    let record =
        world.directory.path().join("state/pods").join(pod.as_str()).join("containers").join(id.as_str());
    world.kill_daemon();
    std::fs::write(record.join("record.json"), r#"{"version": 2}"#).unwrap();
    world.open().await;
    assert!(world.pods().container(id.as_str()).is_err(), "nobody can tell what it is");
    assert!(world.processes().iter().any(|line| line.contains("sleep 1000")), "{:?}", world.processes());
    assert_eq!(world.images.layers(), 1, "its files stay too");
    world.end().await;
}
