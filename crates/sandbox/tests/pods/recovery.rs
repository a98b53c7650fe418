//! The daemon is killed and comes back; retries; a supervisor is killed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use sandbox::{ContainerFilter, ContainerPhase, Error, ExecRequest, PodFilter, PodPhase, Reason};

use crate::world::{World, shell, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_was_killed_finds_everything_again() {
    let mut world = World::new().await;
    let pod = world.pod("stays").await;
    let runs = world.started(&pod, "exec sleep 1000").await;
    let pods = world.pods();
    let ends = pods
        .create_container(
            pod.as_str(),
            shell("ends", "while ! ls /data/go >/dev/null 2>&1; do sleep 0.05; done; echo last; exit 7"),
        )
        .await
        .unwrap();
    pods.start_container(ends.as_str()).await.unwrap();
    let waits = pods.create_container(pod.as_str(), shell("waits", "exit 5")).await.unwrap();
    let go = ExecRequest {
        command: ["/bin/sh", "-c", "sleep 0.2; touch /data/go"].map(str::to_owned).to_vec(),
        timeout: None,
    };
    let before = (*pods.pod(pod.as_str()).unwrap()).clone();
    // The exec outlives the daemon's interest in it only if it is detached from it: done by the container itself.
    pods.exec_sync(
        ends.as_str(),
        ExecRequest {
            command: ["/bin/sh", "-c", "(sleep 0.3; touch /data/go) >/dev/null 2>&1 &"]
                .map(str::to_owned)
                .to_vec(),
            ..go
        },
    )
    .await
    .unwrap();
    drop(pods);
    world.kill_daemon();
    until("the end while nobody looks", || {
        let log = world.log("stays", "ends");
        if log.contains("last") { Ok(()) } else { Err(log) }
    })
    .await;
    world.open().await;
    let pods = world.pods();
    let after = pods.pod(pod.as_str()).expect("the pod is still there");
    assert_eq!(*after, before);
    assert!(matches!(world.phase(&runs), ContainerPhase::Running { .. }), "{:?}", world.phase(&runs));
    assert!(matches!(world.phase(&waits), ContainerPhase::Created));
    let exited = world.exit(&ends).await;
    assert_eq!((exited.exit_code, exited.reason), (7, Reason::Error));
    assert_eq!(world.net.collected.lock().unwrap().as_deref(), Some(&[pod.clone()][..]));
    assert_eq!(world.images.retained.lock().unwrap().as_ref().map(Vec::len), Some(3));

    pods.start_container(waits.as_str()).await.expect("what was created before can be started");
    assert_eq!(world.exit(&waits).await.exit_code, 5);
    let echo =
        ExecRequest { command: ["/bin/echo", "still here"].map(str::to_owned).to_vec(), timeout: None };
    assert_eq!(pods.exec_sync(runs.as_str(), echo).await.unwrap().stdout, b"still here\n");
    assert_eq!(pods.run(world.pod_config("stays")).await.expect("the retry finds it"), pod);
    pods.stop_container(runs.as_str(), Duration::from_secs(5)).await.unwrap();
    assert_eq!(world.exit(&runs).await.exit_code, 143);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_was_being_made_is_undone() {
    let mut world = World::new().await;
    world.net.hold.store(true, Ordering::SeqCst);
    let making = {
        let (pods, config) = (world.pods(), world.pod_config("half"));
        tokio::spawn(async move { pods.run(config).await })
    };
    until("the network to be reached", || {
        if world.net.attached.lock().unwrap().is_empty() { Err(String::new()) } else { Ok(()) }
    })
    .await;
    making.abort();
    let _aborted = making.await;
    world.kill_daemon();
    assert!(!world.processes().is_empty(), "the supervisor outlives the daemon");
    world.net.hold.store(false, Ordering::SeqCst);
    world.open().await;
    world.assert_clean().await;
    world.pod("half").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_joins() {
    let world = World::new().await;
    let pods = world.pods();
    world.net.hold.store(true, Ordering::SeqCst);
    let run = || {
        let (pods, config) = (pods.clone(), world.pod_config("joined"));
        tokio::spawn(async move { pods.run(config).await })
    };
    let (first, second) = (run(), run());
    until("the network to be reached", || {
        if world.net.attached.lock().unwrap().is_empty() { Err(String::new()) } else { Ok(()) }
    })
    .await;
    assert!(pods.pods(&PodFilter::default()).is_empty(), "a pod that is being made is not listed");
    first.abort();
    let third = run();
    let mut other = world.pod_config("joined");
    other.hostname = "another".to_owned();
    let taken = pods.run(other).await;
    assert!(matches!(taken, Err(Error::NameTaken { .. })), "{taken:?}");
    world.net.hold.store(false, Ordering::SeqCst);
    world.net.go_on.notify_waiters();
    let pod = second.await.unwrap().unwrap();
    assert_eq!(third.await.unwrap().unwrap(), pod);
    assert_eq!(world.net.attach_calls.lock().unwrap().len(), 1, "the work was done once");
    assert_eq!(
        pods.run(world.pod_config("joined")).await.unwrap(),
        pod,
        "a late retry gets the finished pod"
    );

    let create = || {
        let (pods, pod) = (pods.clone(), pod.clone());
        tokio::spawn(
            async move { pods.create_container(pod.as_str(), shell("main", "exec sleep 1000")).await },
        )
    };
    let (first, second) = (create(), create());
    let id = first.await.unwrap().unwrap();
    assert_eq!(second.await.unwrap().unwrap(), id);
    pods.start_container(id.as_str()).await.unwrap();
    let taken = pods.create_container(pod.as_str(), shell("main", "exec sleep 1000")).await;
    assert!(matches!(taken, Err(Error::NameTaken { .. })), "{taken:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_is_killed_is_noticed() {
    for daemon_is_away in [false, true] {
        let mut world = World::new().await;
        let pod = world.pod("lost").await;
        let id = world.started(&pod, "exec sleep 1000").await;
        let pid = world.pods().pod(pod.as_str()).unwrap().supervisor.unwrap();
        if daemon_is_away {
            world.kill_daemon();
        }
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        if daemon_is_away {
            world.open().await;
        }
        let exited = world.exit(&id).await;
        assert_eq!((exited.exit_code, exited.reason), (137, Reason::SupervisorLost));
        assert_eq!(world.pods().pod(pod.as_str()).unwrap().phase, PodPhase::NotReady);
        assert_eq!(world.pods().figures().contacts.lost, 1);
        until("the container's processes to be gone", || {
            let left = world.processes();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await;
        let refused = world.pods().create_container(pod.as_str(), shell("more", "true")).await;
        assert!(matches!(refused, Err(Error::WrongState { .. })), "{refused:?}");
        assert_eq!(world.pods().containers(&ContainerFilter::default()).len(), 1);
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_goes_down_leaves_its_pods() {
    let mut world = World::new().await;
    let pod = world.pod("quiet").await;
    let id = world.started(&pod, "exec sleep 1000").await;
    world.pods().shutdown().await;
    let refused = world.pods().run(world.pod_config("late")).await;
    assert!(matches!(refused, Err(Error::ShuttingDown)), "{refused:?}");
    world.kill_daemon();
    world.open().await;
    assert!(matches!(world.phase(&id), ContainerPhase::Running { .. }));
    let pods = world.pods();
    pods.remove(pod.as_str()).await.unwrap();
    pods.shutdown().await;
    assert_eq!(world.parents(), Vec::<std::path::PathBuf>::new(), "the cgroup that all pods were in");
}

/// Lives of a pod, as far as they come.
async fn churn(pods: sandbox::Pods, config: sandbox::PodConfig) -> Result<(), Error> {
    let pod = pods.run(config).await?;
    let id = pods.create_container(pod.as_str(), shell("main", "exec sleep 1000")).await?;
    pods.start_container(id.as_str()).await?;
    pods.stop_container(id.as_str(), Duration::ZERO).await?;
    pods.remove_container(id.as_str()).await?;
    pods.stop(pod.as_str()).await?;
    pods.remove(pod.as_str()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_may_be_killed_anywhere() {
    for milliseconds in [1, 2, 4, 6, 8, 11, 14, 18, 23, 30, 45] {
        let mut world = World::new().await;
        let pods = world.pods();
        let lives: Vec<_> = (0..6)
            .map(|number| tokio::spawn(churn(pods.clone(), world.pod_config(&format!("p{number}")))))
            .collect();
        drop(pods);
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        lives.iter().for_each(tokio::task::JoinHandle::abort);
        for life in lives {
            let _aborted = life.await;
        }
        world.kill_daemon();
        world.open().await;
        // What was half made goes by itself; the rest is known, and can be removed.
        world.end().await;
    }
}

/// Plugins find what they made by the links inside: Debian's bridge its masquerade rules, which nobody else takes away.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_attached_or_detached_when_the_daemon_is_killed_is_detached_by_its_namespace() {
    let mut world = World::new().await;
    let stopped = world.pod("stopped").await;
    world.net.hold_detach.store(true, Ordering::SeqCst);
    world.net.hold.store(true, Ordering::SeqCst);
    let (pods, id, config) = (world.pods(), stopped.clone(), world.pod_config("made"));
    let stopping = tokio::spawn(async move { pods.stop(id.as_str()).await });
    let pods = world.pods();
    let making = tokio::spawn(async move { pods.run(config).await });
    let held = || match (
        world.net.held_detachments.load(Ordering::SeqCst),
        world.net.attach_calls.lock().unwrap().as_slice(),
    ) {
        (1, [_, made]) => Ok(made.clone()),
        other => Err(format!("{other:?}")),
    };
    let made = until("a pod being stopped and one being made", held).await;
    stopping.abort();
    making.abort();
    let _aborted = (stopping.await, making.await);
    world.kill_daemon();
    world.net.hold.store(false, Ordering::SeqCst);
    world.net.hold_detach.store(false, Ordering::SeqCst);
    world.open().await;
    world.pods().stop(stopped.as_str()).await.expect("stopped");
    for pod in [stopped, made] {
        let detached = || world.net.detached.lock().unwrap().get(&pod).cloned().ok_or("no".to_owned());
        let netns = until("the pod to be detached", detached).await;
        assert!(netns.is_some(), "{pod}: its namespace was there");
    }
    world.end().await;
}

/// What a daemon leaves that is killed while it removes a container's files.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_of_which_only_the_record_is_left_is_known_and_can_be_removed() {
    let mut world = World::new().await;
    let pod = world.pod("p").await;
    let ended = world.started(&pod, "exit 3").await;
    world.exit(&ended).await;
    let runs = {
        let id = world.pods().create_container(pod.as_str(), shell("runs", "exec sleep 1000")).await.unwrap();
        world.pods().start_container(id.as_str()).await.unwrap();
        id
    };
    let containers = world.directory.path().join("state/pods").join(pod.as_str()).join("containers");
    world.kill_daemon();
    for id in [&ended, &runs] {
        for entry in std::fs::read_dir(containers.join(id.as_str())).unwrap().flatten() {
            if entry.file_name() != "record.json" {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
    }
    world.open().await;
    let pods = world.pods();
    let ContainerPhase::Exited(exited) = world.phase(&ended) else { panic!("{:?}", world.phase(&ended)) };
    assert_eq!(exited.exit_code, 3);
    assert!(matches!(world.phase(&runs), ContainerPhase::Running { .. }), "{:?}", world.phase(&runs));
    let command = ExecRequest { command: vec!["/bin/true".to_owned()], timeout: None };
    let refused = pods.exec_sync(runs.as_str(), command).await.unwrap_err();
    assert!(matches!(refused, Error::WrongState { .. }), "{refused:?}");
    pods.stop_container(runs.as_str(), Duration::ZERO).await.expect("stopped");
    for id in [&ended, &runs] {
        pods.remove_container(id.as_str()).await.expect("removed");
        assert!(!containers.join(id.as_str()).exists());
    }
    assert_eq!(world.images.layers(), 0);
    world.end().await;
}
