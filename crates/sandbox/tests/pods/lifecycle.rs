//! What pods and containers do when nothing goes wrong.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use sandbox::{
    ContainerFilter, ContainerPhase, EventKind, ExecRequest, NamespaceMode, PodFilter, PodPhase, Reason,
    Resources, RunAs,
};

use crate::world::{World, here, shell, until};

fn command(words: &[&str]) -> ExecRequest {
    ExecRequest {
        command: words.iter().map(|word| (*word).to_owned()).collect(),
        timeout: Some(Duration::from_secs(20)),
    }
}

fn script(text: &str) -> ExecRequest {
    command(&["/bin/sh", "-c", text])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_gets_a_network_namespace_that_was_ready() {
    let world = World::new().await;
    let pods = world.pods();
    assert_eq!(pods.prepared_networks(), 0, "nobody has asked for one yet");
    world.pod("first").await;
    let is_ready = || if pods.prepared_networks() == 1 { Ok(()) } else { Err("none".to_owned()) };
    until("one for the next pod", is_ready).await;
    let ready = held_namespaces();
    let pod = world.pod("second").await;
    let path = world.net.attached.lock().unwrap()[&pod].clone();
    let namespace = std::fs::read_link(path).unwrap();
    assert!(ready.contains(&namespace), "{namespace:?} is none of {ready:?}");
    until("its successor", is_ready).await;
    let held = held_namespaces().into_iter().filter(|held| *held == namespace).count();
    assert_eq!(held, 1, "it is the pod's alone, for which the daemon holds it until it is detached");
    world.end().await;
}

/// The network namespaces that this process, in which the daemons run, holds open.
fn held_namespaces() -> Vec<PathBuf> {
    let held = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let held = held.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    held.filter(|link| link.to_string_lossy().starts_with("net:[")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_lives_and_leaves_nothing() {
    let world = World::new().await;
    let pods = world.pods();
    let mut events = pods.events();
    let pod = world.pod("web").await;
    let status = pods.pod(pod.as_str()).unwrap();
    assert_eq!(status.phase, PodPhase::Ready);
    assert_eq!(status.ips.len(), 2);
    assert!(status.supervisor.is_some_and(|pid| pid > 0));

    let id = world.started(&pod, "echo out; echo err >&2; hostname; exec sleep 1000").await;
    assert!(
        matches!(world.phase(&id), ContainerPhase::Running { pid, started_at } if pid > 0 && started_at > 0)
    );
    until("the log", || {
        let log = world.log("web", "main");
        if log.contains("host-web") { Ok(()) } else { Err(log) }
    })
    .await;
    assert!(world.log("web", "main").contains(" stdout F out\n"));
    assert!(world.log("web", "main").contains(" stderr F err\n"));

    let output = pods.exec_sync(id.as_str(), script("echo hello; echo oops >&2; exit 3")).await.unwrap();
    assert_eq!((output.exit_code, &*output.stdout, &*output.stderr), (3, &b"hello\n"[..], &b"oops\n"[..]));
    let stats = pods.container_stats(id.as_str()).await.unwrap();
    assert!(
        stats.usage.counters.cpu.is_some_and(|cpu| cpu.usage_ns > 0)
            && stats.usage.counters.memory.is_some_and(|memory| memory.usage > 0)
    );
    let of_pod = pods.pod_stats(pod.as_str()).await.unwrap();
    assert_eq!(of_pod.containers.len(), 1);
    assert!(of_pod.containers[0].1.processes.is_some_and(|processes| processes.count == 1), "{of_pod:?}");
    let spec = pods.container_spec(id.as_str()).await.unwrap();
    assert_eq!(spec["process"]["args"][0], "/bin/sh");

    pods.stop_container(id.as_str(), Duration::from_secs(10)).await.unwrap();
    let exited = world.exit(&id).await;
    assert_eq!((exited.exit_code, exited.reason), (143, Reason::Error));
    pods.stop_container(id.as_str(), Duration::from_secs(10)).await.expect("stopping is idempotent");
    pods.remove_container(id.as_str()).await.unwrap();
    pods.remove_container(id.as_str()).await.expect("removing is idempotent");
    let netns = world.net.attached.lock().unwrap().get(&pod).cloned();
    pods.stop(pod.as_str()).await.unwrap();
    assert_eq!(pods.pod(pod.as_str()).unwrap().phase, PodPhase::NotReady);
    let detached = world.net.detached.lock().unwrap().get(&pod).cloned();
    assert!(netns.is_some() && detached == Some(netns), "the network is told where the pod is: {detached:?}");
    assert!(world.processes().is_empty(), "the supervisor ends with the pod: {:?}", world.processes());
    pods.stop(pod.as_str()).await.expect("stopping is idempotent");
    pods.remove(pod.as_str()).await.unwrap();
    pods.remove(pod.as_str()).await.expect("removing is idempotent");
    world.assert_clean().await;

    let mut told = Vec::new();
    while let Ok(Ok(event)) = tokio::time::timeout(Duration::ZERO, events.recv()).await {
        told.push((event.id == pod.as_str(), event.kind));
    }
    use EventKind::{Created, Deleted, Started, Stopped};
    let of = |is_pod: bool| {
        told.iter().filter(|(of_pod, _)| *of_pod == is_pod).map(|(_, kind)| *kind).collect::<Vec<_>>()
    };
    assert_eq!(of(false), [Created, Started, Stopped, Deleted]);
    assert_eq!(of(true), [Created, Started, Stopped, Deleted]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_what_was_asked_for() {
    let world = World::new().await;
    let pods = world.pods();
    let pod = world.pod("shape").await;
    std::fs::write(world.directory.path().join("given"), "volume").unwrap();
    let mut config = shell("main", "exec sleep 1000");
    config.envs = vec![("GREETING".to_owned(), "hi".to_owned())];
    config.working_dir = "/tmp".to_owned();
    config.security.run_as = RunAs::Username { name: "web".to_owned(), gid: None };
    config.security.supplemental_groups = vec![77];
    config.security.seccomp = Some(sandbox::Profile::RuntimeDefault);
    config.security.readonly_rootfs = true;
    config.mounts = vec![sandbox::Mount {
        container_path: "/data".into(),
        source: sandbox::MountSource::Host(world.directory.path().to_owned()),
        access: sandbox::MountAccess::ReadOnly,
        propagation: sandbox::Propagation::Private,
        selinux_relabel: false,
        id_mapping: None,
        options: vec![],
    }];
    let id = pods.create_container(pod.as_str(), config).await.unwrap();
    pods.start_container(id.as_str()).await.unwrap();
    let run = async |text: &str| {
        let output = pods.exec_sync(id.as_str(), script(text)).await.unwrap();
        (output.exit_code, String::from_utf8(output.stdout).unwrap().trim().to_owned())
    };
    assert_eq!(run("id -u; id -g; id -G").await.1, "33\n34\n34 50 77");
    assert_eq!(run("echo $GREETING; pwd; echo $HOME; echo $HOSTNAME").await.1, "hi\n/tmp\n/srv\nhost-shape");
    assert_eq!(run("cat /data/given").await.1, "volume");
    assert_eq!(run("cat /etc/hostname").await.1, "host-shape");
    assert_eq!(run("echo x > /data/given 2>/dev/null || echo refused").await.1, "refused");
    assert_eq!(run("echo x > /file 2>/dev/null || echo refused").await.1, "refused");
    assert_eq!(run("head -c1 /proc/1/stat; cat /proc/self/status | grep Seccomp: ; true").await.0, 0);
    let status = run(
        "while read line; do case $line in Seccomp:*|CapInh:*) echo $line;; esac; done < /proc/self/status",
    )
    .await
    .1;
    assert!(status.contains("Seccomp: 2"), "{status}");
    assert!(status.contains("CapInh: 0000000000000000"), "{status}");
    let user = &pods.container(id.as_str()).unwrap().user;
    assert_eq!((user.uid, user.gid, &*user.supplemental_groups), (33, 34, &[34, 50, 77][..]));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_have_their_codes_and_reasons() {
    let world = World::new().await;
    let pods = world.pods();
    let pod = world.pod("ends").await;
    for (name, text, code, reason) in [
        ("done", "exit 0", 0, Reason::Completed),
        ("failed", "exit 7", 7, Reason::Error),
        ("killed", "kill -9 $$", 137, Reason::Error),
    ] {
        let id = pods.create_container(pod.as_str(), shell(name, text)).await.unwrap();
        pods.start_container(id.as_str()).await.unwrap();
        let exited = world.exit(&id).await;
        assert_eq!((exited.exit_code, exited.reason), (code, reason), "{name}");
        assert!(exited.finished_at >= exited.started_at && exited.started_at > 0, "{exited:?}");
    }
    let mut hungry = shell("hungry", "tail /dev/zero");
    hungry.resources = Resources { memory_limit: Some(16 << 20), ..Resources::default() };
    let id = pods.create_container(pod.as_str(), hungry).await.unwrap();
    pods.start_container(id.as_str()).await.unwrap();
    let exited = world.exit(&id).await;
    assert_eq!((exited.exit_code, exited.reason), (137, Reason::OOMKilled));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_escalates_and_holds_nobody_up() {
    let world = World::new().await;
    let pods = world.pods();
    let pod = world.pod("stubborn").await;
    let id = world.started(&pod, "trap '' TERM; echo ready; while true; do sleep 1; done").await;
    until("the trap", || {
        if world.log("stubborn", "main").contains("ready") { Ok(()) } else { Err(String::new()) }
    })
    .await;
    let grace = here(Duration::from_millis(700));
    let begun = Instant::now();
    let stopping = {
        let (pods, id) = (pods.clone(), id.clone());
        tokio::spawn(async move { pods.stop_container(id.as_str(), grace).await })
    };
    let other = pods.create_container(pod.as_str(), shell("other", "exit 0")).await.unwrap();
    pods.start_container(other.as_str()).await.expect("a stop that waits holds nobody up");
    assert!(begun.elapsed() < grace);
    stopping.await.unwrap().unwrap();
    assert!(begun.elapsed() >= grace, "the grace period is kept");
    assert_eq!(world.exit(&id).await.exit_code, 137);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn execs_are_bounded() {
    let world = World::new().await;
    let pods = world.pods();
    let pod = world.pod("execs").await;
    let id = world.started(&pod, "exec sleep 1000").await;
    let slow = ExecRequest { timeout: Some(Duration::from_millis(300)), ..command(&["/bin/sleep", "1000"]) };
    let late = pods.exec_sync(id.as_str(), slow).await;
    assert!(matches!(late, Err(sandbox::Error::Deadline { .. })), "{late:?}");
    until("the command to be killed", || {
        let left = world.processes().iter().filter(|line| line.contains("sleep 1000")).count();
        if left <= 1 { Ok(()) } else { Err(format!("{:?}", world.processes())) }
    })
    .await;
    let begun = Instant::now();
    let output = pods.exec_sync(id.as_str(), script("sleep 1000 & echo done")).await.unwrap();
    assert_eq!((&*output.stdout, output.exit_code), (&b"done\n"[..], 0));
    assert!(begun.elapsed() < here(Duration::from_secs(5)), "a child left behind holds nobody up");
    let output = pods.exec_sync(id.as_str(), script("yes & exit 0")).await.unwrap();
    assert_eq!((&output.stdout[..2], output.exit_code), (&b"y\n"[..], 0));
    assert!(begun.elapsed() < here(Duration::from_secs(10)), "nor does one that never stops writing");
    until("the writer to end with its reader", || {
        let left: Vec<_> = world.processes().into_iter().filter(|line| line.contains(": yes")).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    let output = pods.exec_sync(id.as_str(), script("head -c 20000000 /dev/zero")).await.unwrap();
    assert_eq!((output.stdout.len(), output.exit_code), (sandbox::exec::OUTPUT_LIMIT, 0));
    let missing = pods.exec_sync(id.as_str(), command(&["/no/such/command"])).await.unwrap_err();
    assert!(
        sandbox::error::chain(&missing).contains("/no/such/command"),
        "{}",
        sandbox::error::chain(&missing)
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_share_what_their_pod_shares() {
    let world = World::new().await;
    let pods = world.pods();
    let mut config = world.pod_config("host");
    config.namespaces.network = NamespaceMode::Node;
    config.namespaces.pid = NamespaceMode::Pod;
    let pod = pods.run(config).await.unwrap();
    assert!(pods.pod(pod.as_str()).unwrap().ips.is_empty());
    assert!(world.net.attach_calls.lock().unwrap().is_empty(), "the host's network is not attached to");
    let one = world.started(&pod, "exec sleep 1000").await;
    let two = pods.create_container(pod.as_str(), shell("two", "exec sleep 2000")).await.unwrap();
    pods.start_container(two.as_str()).await.unwrap();
    let output = pods.exec_sync(one.as_str(), script("ps; readlink /proc/self/ns/net")).await.unwrap();
    let seen = String::from_utf8(output.stdout).unwrap();
    assert!(seen.contains("sleep 1000") && seen.contains("sleep 2000"), "{seen}");
    let host = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert!(seen.contains(host.to_str().unwrap()), "{seen}");
    // Processes that outlive the first one of a container that shares its namespace go with it.
    pods.stop_container(two.as_str(), Duration::from_secs(5)).await.unwrap();
    assert_eq!(
        pods.containers(&ContainerFilter { pod: pod.to_string(), ..ContainerFilter::default() }).len(),
        2
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_of_an_exec_covers_its_start() {
    let world = World::new().await;
    let pods = world.pods();
    let pod = world.pod("slow").await;
    let id = world.started(&pod, "exec sleep 1000").await;
    let supervisor = pods.pod(pod.as_str()).unwrap().supervisor.unwrap();
    let supervisor = rustix::process::Pid::from_raw(supervisor.cast_signed()).unwrap();
    rustix::process::kill_process(supervisor, rustix::process::Signal::STOP).unwrap();
    let begun = Instant::now();
    let wanted =
        ExecRequest { timeout: Some(Duration::from_millis(300)), ..command(&["/bin/sleep", "2000"]) };
    let late = pods.exec_sync(id.as_str(), wanted).await;
    assert!(matches!(late, Err(sandbox::Error::Deadline { .. })), "{late:?}");
    assert!(begun.elapsed() < here(Duration::from_secs(5)), "took {:?}", begun.elapsed());
    rustix::process::kill_process(supervisor, rustix::process::Signal::CONT).unwrap();
    // Answered after what was asked before it: the start and the kill.
    pods.exec_sync(id.as_str(), command(&["/bin/true"])).await.unwrap();
    until("the command that nobody waits for to be gone", || {
        let left: Vec<_> = world.processes().into_iter().filter(|line| line.contains("sleep 2000")).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_change_while_it_runs() {
    let world = World::new().await;
    let pods = world.pods();
    let pod = world.pod("limits").await;
    let id = world.started(&pod, "exec sleep 1000").await;
    let wanted = Resources { memory_limit: Some(64 << 20), cpu_shares: Some(512), ..Resources::default() };
    pods.update_resources(id.as_str(), wanted.clone()).await.unwrap();
    let status = pods.container(id.as_str()).unwrap();
    assert_eq!((status.resources.memory_limit, status.resources.cpu_shares), (Some(64 << 20), Some(512)));
    let usage = pods.container_stats(id.as_str()).await.unwrap().usage;
    assert_eq!(usage.counters.memory.and_then(|memory| memory.limit), Some(64 << 20), "{usage:?}");
    // A resize and the CPU manager at once: both are kept, and so is the score that the process has.
    let memory = Resources { memory_limit: Some(96 << 20), oom_score_adj: Some(7), ..Resources::default() };
    let cpus = Resources { cpuset_cpus: "0".to_owned(), oom_score_adj: Some(0), ..Resources::default() };
    let shares = Resources { cpu_shares: Some(700), ..Resources::default() };
    let (one, two, three) = tokio::join!(
        pods.update_resources(id.as_str(), memory),
        pods.update_resources(id.as_str(), cpus),
        pods.update_resources(id.as_str(), shares),
    );
    for outcome in [one, two, three] {
        outcome.unwrap();
    }
    let now = pods.container(id.as_str()).unwrap().resources.clone();
    assert_eq!(
        (now.memory_limit, now.cpuset_cpus.as_str(), now.cpu_shares),
        (Some(96 << 20), "0", Some(700))
    );
    assert_eq!(now.oom_score_adj, Some(7), "0 says nothing");
    // What this host can't do is said to be refused, of a container that runs and of one that doesn't yet.
    let created = pods.create_container(pod.as_str(), shell("created", "true")).await.unwrap();
    for container in [&id, &created] {
        let nowhere = Resources { cpuset_cpus: "4000".to_owned(), ..Resources::default() };
        let refused = pods.update_resources(container.as_str(), nowhere).await.unwrap_err();
        assert!(
            matches!(&refused, sandbox::Error::Refused { field, .. } if field == "linux.resources.cpuset_cpus"),
            "{refused:?}"
        );
    }
    assert_eq!(pods.container(id.as_str()).unwrap().resources, now);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_opened_anew() {
    let world = World::new().await;
    let pods = world.pods();
    let pod = world.pod("logs").await;
    let id = world.started(&pod, "echo before; read line < /tmp/go 2>/dev/null; while ! ls /tmp/go >/dev/null 2>&1; do sleep 0.05; done; echo after; exec sleep 1000").await;
    until("the first line", || {
        if world.log("logs", "main").contains("before") { Ok(()) } else { Err(String::new()) }
    })
    .await;
    let directory = world.directory.path().join("logs/logs");
    std::fs::rename(directory.join("main.log"), directory.join("main.log.old")).unwrap();
    pods.reopen_log(id.as_str()).await.unwrap();
    pods.exec_sync(id.as_str(), command(&["/bin/touch", "/tmp/go"])).await.unwrap();
    until("the second line", || {
        let log = world.log("logs", "main");
        if log.contains("after") && !log.contains("before") { Ok(()) } else { Err(log) }
    })
    .await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_removed_with_all_that_runs_in_it() {
    let world = World::new().await;
    let pods = world.pods();
    let pod = world.pod("busy").await;
    for name in ["one", "two", "three"] {
        let id = pods
            .create_container(pod.as_str(), shell(name, "trap '' TERM; while true; do sleep 1; done"))
            .await
            .unwrap();
        pods.start_container(id.as_str()).await.unwrap();
    }
    pods.create_container(pod.as_str(), shell("created", "true")).await.unwrap();
    pods.remove(pod.as_str()).await.unwrap();
    world.assert_clean().await;
    assert!(pods.containers(&ContainerFilter::default()).is_empty());
    assert!(pods.pods(&PodFilter::default()).is_empty());
    world.end().await;
}
