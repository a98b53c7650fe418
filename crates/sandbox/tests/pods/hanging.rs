//! A start that hangs, here in a hook without a time-out of its own, ends when it is stopped or removed, not at its deadline.

use std::time::{Duration, Instant};

use sandbox::{ContainerConfig, ContainerId, ContainerPhase, Error, PodId, Reason};
use tokio::task::JoinHandle;

use crate::world::{World, here, shell, until};

/// Far less than a start's deadline.
const SOON: Duration = Duration::from_secs(15);

/// Where a hook hangs: on the host, or in the container as its first process.
const MOMENTS: [&str; 2] = ["createRuntime", "startContainer"];

fn hanging(name: &str, moment: &str) -> ContainerConfig {
    let mut config = shell(name, "exec sleep 1000");
    config.cdi_devices = vec![format!("v.com/hangs={}", moment.to_lowercase())];
    config
}

fn describe_devices(world: &World) {
    let device = |moment: &str, script: String| {
        format!(
            r#"{{"name": "{}", "containerEdits": {{"hooks": [{{
                "hookName": "{moment}", "path": "/bin/sh", "args": ["sh", "-c", "{script}"], "env": ["PATH=/bin"]
            }}]}}}}"#,
            moment.to_lowercase()
        )
    };
    // On the host its command line tells the world's processes from others.
    let on_host = format!("sleep 1000 # {}", world.directory.path().display());
    let devices = [device(MOMENTS[0], on_host), device(MOMENTS[1], "exec sleep 1000".to_owned())];
    let file =
        format!(r#"{{"cdiVersion": "1.0.0", "kind": "v.com/hangs", "devices": [{}]}}"#, devices.join(","));
    let directory = world.directory.path().join("cdi");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("hangs.json"), file).unwrap();
}

type Start = JoinHandle<Result<(), Error>>;

/// A container whose start has got to the hook.
async fn begun(world: &World, pod: &PodId, (name, moment): (&str, &str)) -> (ContainerId, Start) {
    let pods = world.pods();
    let before = sleeping(world);
    let id = pods.create_container(pod.as_str(), hanging(name, moment)).await.expect("created");
    let (starting, wanted) = (pods.clone(), id.clone());
    let start = tokio::spawn(async move { starting.start_container(wanted.as_str()).await });
    until("the hook to hang", || if sleeping(world) > before { Ok(()) } else { Err(format!("{before}")) })
        .await;
    (id, start)
}

fn sleeping(world: &World) -> usize {
    world.processes().iter().filter(|line| line.contains("sleep 1000")).count()
}

async fn was_called_off(start: Start) {
    let error = start.await.expect("no panic").expect_err("it was stopped");
    assert!(matches!(error, Error::CalledOff { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_hangs_can_be_stopped() {
    let world = World::new().await;
    describe_devices(&world);
    let (pods, pod) = (world.pods(), world.pod("p").await);
    for (at, moment) in MOMENTS.into_iter().enumerate() {
        for grace in [Duration::ZERO, Duration::from_secs(1)] {
            let name = format!("main-{at}-{}", grace.as_secs());
            let (id, start) = begun(&world, &pod, (&name, moment)).await;
            let asked = Instant::now();
            pods.stop_container(id.as_str(), grace).await.expect("stopped");
            assert!(asked.elapsed() >= grace && asked.elapsed() < here(SOON), "{:?}", asked.elapsed());
            was_called_off(start).await;
            let ContainerPhase::Exited(exited) = world.phase(&id) else { panic!("{:?}", world.phase(&id)) };
            assert_eq!((exited.exit_code, exited.reason), (128, Reason::StartError));
            assert!(exited.message.contains("before it had started"), "{}", exited.message);
            until("the hook's end", || match sleeping(&world) {
                0 => Ok(()),
                _ => Err(format!("{:?}", world.processes())),
            })
            .await;
        }
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_hangs_can_be_removed_with_its_container_or_its_pod() {
    let world = World::new().await;
    describe_devices(&world);
    let pods = world.pods();
    for moment in MOMENTS {
        let pod = world.pod("p").await;
        let begin = Instant::now();
        let (id, start) = begun(&world, &pod, ("alone", moment)).await;
        pods.remove_container(id.as_str()).await.expect("removed");
        was_called_off(start).await;
        assert!(pods.container(id.as_str()).is_err());
        let (_, start) = begun(&world, &pod, ("stopped", moment)).await;
        pods.stop(pod.as_str()).await.expect("stopped");
        was_called_off(start).await;
        pods.remove(pod.as_str()).await.expect("removed");
        let pod = world.pod("p").await;
        let (_, start) = begun(&world, &pod, ("removed", moment)).await;
        pods.remove(pod.as_str()).await.expect("removed");
        was_called_off(start).await;
        assert!(begin.elapsed() < here(SOON), "{:?}", begin.elapsed());
        world.assert_clean().await;
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_hangs_can_be_stopped_by_the_next_daemon() {
    let mut world = World::new().await;
    describe_devices(&world);
    let pod = world.pod("p").await;
    let (id, start) = begun(&world, &pod, ("main", MOMENTS[0])).await;
    start.abort();
    world.kill_daemon();
    world.open().await;
    let asked = Instant::now();
    world.pods().stop_container(id.as_str(), Duration::from_secs(1)).await.expect("stopped");
    assert!(asked.elapsed() < here(SOON), "{:?}", asked.elapsed());
    assert!(matches!(world.phase(&id), ContainerPhase::Exited(_)), "{:?}", world.phase(&id));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_whose_supervisor_dies_says_so() {
    let world = World::new().await;
    describe_devices(&world);
    let pod = world.pod("p").await;
    let (id, start) = begun(&world, &pod, ("main", MOMENTS[1])).await;
    let pid = world.pods().pod(pod.as_str()).unwrap().supervisor.expect("a supervisor");
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let error = start.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::SupervisorGone { .. }), "{error:?}");
    assert!(matches!(world.phase(&id), ContainerPhase::Exited(_)), "{:?}", world.phase(&id));
    world.end().await;
}
