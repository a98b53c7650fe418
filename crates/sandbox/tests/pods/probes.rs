//! Commands that are run again and again to see whether a container is well.

use std::time::{Duration, Instant};

use sandbox::{ContainerId, Error, ExecRequest};

use crate::world::{World, until};

fn probe(script: &str, timeout: Duration) -> ExecRequest {
    ExecRequest { command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(), timeout: Some(timeout) }
}

/// Processes with this on their command line.
fn running(world: &World, command: &str) -> Vec<String> {
    world.processes().into_iter().filter(|line| line.contains(command)).collect()
}

async fn left(world: &World, command: &str, count: usize) {
    until(&format!("{count} of {command}"), || {
        let found = running(world, command);
        if found.len() == count { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_takes_too_long_is_killed_with_its_children() {
    let world = World::new().await;
    let pod = world.pod("family").await;
    let id = world.started(&pod, "exec sleep 1000").await;
    let family = "sleep 2001 & setsid sleep 2002 & (setsid sleep 2003 &) ; wait";
    let late = world.pods().exec_sync(id.as_str(), probe(family, Duration::from_millis(700))).await;
    assert!(matches!(late, Err(Error::Deadline { .. })), "{late:?}");
    left(&world, "sleep 2001", 0).await;
    left(&world, "sleep 2002", 0).await;
    assert_eq!(running(&world, "sleep 2003").len(), 1, "a daemon is the container's");
    // A shell whose child hands itself to nobody but that has a child elsewhere, deep down.
    let deep = "sh -c 'setsid sh -c \"setsid sleep 2004; true\"; true'; true";
    let late = world.pods().exec_sync(id.as_str(), probe(deep, Duration::from_millis(700))).await;
    assert!(matches!(late, Err(Error::Deadline { .. })), "{late:?}");
    left(&world, "sleep 2004", 0).await;
    world.end().await;
}

async fn one(world: &World, id: &ContainerId, number: usize) {
    let pods = world.pods();
    let quick = Duration::from_millis(20);
    let long = Duration::from_secs(20);
    match number % 5 {
        0 => match pods.exec_sync(id.as_str(), probe("sleep 3000", quick)).await {
            Err(Error::Deadline { .. }) => {}
            other => panic!("{other:?}"),
        },
        1 => {
            let output = pods.exec_sync(id.as_str(), probe("(sleep 0.3 &) ; echo well", long)).await.unwrap();
            assert_eq!((output.exit_code, &*output.stdout), (0, &b"well\n"[..]));
        }
        2 => {
            // Whoever asked has gone.
            let asked = pods.exec_sync(id.as_str(), probe("sleep 3000", long));
            assert!(tokio::time::timeout(quick, asked).await.is_err());
        }
        _ => {
            let script = format!("echo {number}; echo err >&2; exit {}", number % 7);
            let output = pods.exec_sync(id.as_str(), probe(&script, long)).await.unwrap();
            assert_eq!(
                (output.exit_code, &*output.stderr),
                (i32::try_from(number % 7).unwrap(), &b"err\n"[..])
            );
            assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{number}\n"));
        }
    }
}

/// The descriptors of a process.
fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_at_once_leave_nothing() {
    const ALONE: &str = "KNARR_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        // In a process of its own: descriptors are counted, and other tests have theirs.
        let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
        alone.args(["--exact", "probes::fifty_at_once_leave_nothing", "--nocapture"]).env(ALONE, "1");
        let status = tokio::task::spawn_blocking(move || alone.status().unwrap()).await.unwrap();
        assert!(status.success());
        return;
    }
    const AT_ONCE: usize = 50;
    const ROUNDS: usize = 10;
    let world = World::new().await;
    let pod = world.pod("probes").await;
    let id = world.started(&pod, "exec sleep 1000").await;
    let supervisor = world.pods().pod(pod.as_str()).unwrap().supervisor.unwrap();
    one(&world, &id, 3).await;
    let own = std::process::id();
    let look = || (descriptors(own), descriptors(supervisor), running(&world, "").len());
    let before = look();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let tasks_before = tasks();
    let begun = Instant::now();
    for _ in 0..ROUNDS {
        futures_join((0..AT_ONCE).map(|number| one(&world, &id, number))).await;
    }
    eprintln!("{AT_ONCE} probes at once, {ROUNDS} times: {:?}", begun.elapsed());
    until("processes, descriptors and tasks to be as before", || {
        let now = look();
        if now == before && tasks() <= tasks_before {
            Ok(())
        } else {
            Err(format!("{now:?}, not {before:?}; {} tasks", tasks()))
        }
    })
    .await;
    world.end().await;
}

/// Does all at once, in this task.
async fn futures_join(work: impl Iterator<Item = impl Future<Output = ()>>) {
    let mut pending: Vec<_> = work.map(Box::pin).collect();
    std::future::poll_fn(|context| {
        pending.retain_mut(|one| one.as_mut().poll(context).is_pending());
        if pending.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}
