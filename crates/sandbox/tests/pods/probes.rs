//! Commands that are run again and again to see whether a container is well.

use std::pin::pin;
use std::time::{Duration, Instant};

use sandbox::{ContainerId, Error, ExecRequest};

use crate::world::{World, here, until};

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

/// How many processes have exactly this command line.
fn exactly(world: &World, command: &str) -> usize {
    let lines = world.processes();
    lines
        .iter()
        .filter(|line| line.split_once(": ").is_some_and(|(_, found)| found.trim() == command))
        .count()
}

/// Runs a command until its time is up. Whether it had come so far by then as `is_there` says.
async fn cut_off(
    (world, id): (&World, &ContainerId),
    (script, time): (&str, Duration),
    is_there: impl Fn() -> bool,
) -> bool {
    let pods = world.pods();
    let mut late = pin!(pods.exec_sync(id.as_str(), probe(script, time)));
    let mut was_there = false;
    let late = loop {
        match tokio::time::timeout(Duration::from_millis(10), &mut late).await {
            Ok(late) => break late,
            Err(_) => was_there |= is_there(),
        }
    };
    assert!(matches!(late, Err(Error::Deadline { .. })), "{late:?}");
    was_there
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_takes_too_long_is_killed_with_its_children() {
    let mut time = Duration::from_millis(700);
    while !is_killed_with_its_children(time).await {
        // Too short for all of it to begin on this machine.
        time *= 2;
        assert!(time < here(Duration::from_secs(20)), "its children are not there within {time:?}");
    }
}

/// False where the commands had not come to what is to be shown when their time was up.
async fn is_killed_with_its_children(time: Duration) -> bool {
    let world = World::new().await;
    let pod = world.pod("family").await;
    let id = world.started(&pod, "exec sleep 1000").await;
    let family = "sleep 2001 & setsid sleep 2002 & (setsid sleep 2003 &) ; wait";
    let all = || {
        let children = ["sleep 2001", "sleep 2002", "sleep 2003"];
        // One shell: what is on its way, and who the daemon had for a parent, looks like it.
        running(&world, family).len() == 1 && children.iter().all(|child| exactly(&world, child) == 1)
    };
    if !cut_off((&world, &id), (family, time), all).await {
        world.end().await;
        return false;
    }
    left(&world, "sleep 2001", 0).await;
    left(&world, "sleep 2002", 0).await;
    assert_eq!(running(&world, "sleep 2003").len(), 1, "a daemon is the container's");
    // A shell whose child hands itself to nobody but that has a child elsewhere, deep down.
    let deep = "sh -c 'setsid sh -c \"setsid sleep 2004; true\"; true'; true";
    let was_there = cut_off((&world, &id), (deep, time), || exactly(&world, "sleep 2004") == 1).await;
    left(&world, "sleep 2004", 0).await;
    world.end().await;
    was_there
}

async fn one(world: &World, id: &ContainerId, number: usize) {
    let pods = world.pods();
    let quick = Duration::from_millis(20);
    let long = here(Duration::from_secs(20));
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
    let look = || [descriptors(own), descriptors(supervisor), running(&world, "").len()];
    let before = look();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let tasks_before = tasks();
    let begun = Instant::now();
    for _ in 0..ROUNDS {
        futures_join((0..AT_ONCE).map(|number| one(&world, &id, number))).await;
    }
    eprintln!("{AT_ONCE} probes at once, {ROUNDS} times: {:?}", begun.elapsed());
    until("processes, descriptors and tasks to be as before", || {
        // Of the one before, too, something may have been there for a moment longer.
        let now = look();
        if now.iter().zip(before).all(|(now, before)| *now <= before) && tasks() <= tasks_before {
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
