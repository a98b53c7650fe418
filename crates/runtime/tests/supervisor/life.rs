//! Containers from start to exit record.

use std::fs;

use runtime::plan::{NamespaceSource, PodNamespace};
use runtime::record::read_exit;
use runtime::wire::{ContainerState, Reply, Request, Scope, Stdin, Target};
use runtime::{FailedStep, FailureKind};
use rustix::process::Signal;

use crate::client::Client;
use crate::patience::until;
use crate::rig::{self, Rig, container};

#[test]
fn a_container_runs_logs_and_exits() {
    let (rig, mut client) = Rig::new();
    let pid = rig.start(&mut client, &container("c1", "echo out; echo err >&2; printf tail; exit 7"));
    let exit = client.exit("c1");
    assert_eq!((exit.exit_code, exit.signal, exit.oom_killed, exit.pid), (7, None, false, pid));
    assert!(exit.started_at > 0 && exit.finished_at >= exit.started_at);
    let mut lines = rig.log("c1");
    lines.sort();
    assert_eq!(lines, ["stderr F err", "stdout F out", "stdout F tail"]);
    let record = read_exit(&rig.pod().join("containers/c1")).unwrap();
    assert_eq!(record.as_ref(), Some(&exit));
    let states: Vec<_> = client.snapshot().containers.into_iter().map(|found| found.state).collect();
    assert_eq!(states, [ContainerState::Exited(exit)]);
    let forget = Request::Forget { container: "c1".to_owned() };
    assert_eq!(client.call(forget.clone()), Reply::Done);
    assert_eq!(client.call(forget), Reply::Done, "what is unknown is forgotten");
    assert!(client.snapshot().containers.is_empty());
}

#[test]
fn an_exit_while_no_daemon_is_there_is_known_later() {
    let (rig, mut client) = Rig::new();
    let script = "trap 'sleep 0.1; echo after; exit 7' TERM; echo before; while :; do sleep 0.01; done";
    rig.start(&mut client, &container("c1", script));
    until("the trap is set", || (rig.log("c1") == ["stdout F before"]).then_some(()));
    let term = rig::signal(Target::Container("c1".to_owned()), Signal::TERM, Scope::Init);
    assert_eq!(client.call(term), Reply::Done);
    drop(client);
    let mut client = rig.connect();
    let exit = until("the snapshot has the exit", || match client.snapshot().containers.pop()?.state {
        ContainerState::Exited(exit) => Some(exit),
        ContainerState::Starting | ContainerState::Created { .. } | ContainerState::Running { .. } => None,
    });
    assert_eq!(exit.exit_code, 7);
    assert_eq!(rig.log("c1"), ["stdout F before", "stdout F after"]);
}

#[test]
fn a_start_is_asked_twice_and_done_once() {
    let (rig, mut client) = Rig::new();
    let sleeper = container("c1", "exec sleep 1000");
    let first = rig.try_start(&mut client, &sleeper);
    assert!(matches!(first, Reply::Started { .. }), "{first:?}");
    assert_eq!(rig.try_start(&mut client, &sleeper), first);
    assert_eq!(client.snapshot().containers.len(), 1);
}

#[test]
fn a_pod_is_created_once() {
    let (_rig, mut client) = Rig::new();
    let first = client.call(Request::CreatePod(rig::pod_plan()));
    assert_eq!(client.call(Request::CreatePod(rig::pod_plan())), first);
    match first {
        Reply::PodCreated(created) => {
            assert_eq!(client.snapshot().pod.as_ref(), Some(&created));
            let network = fs::metadata(created.network.expect("a network namespace")).unwrap();
            let host = fs::metadata("/proc/self/ns/net").unwrap();
            assert_ne!(
                std::os::unix::fs::MetadataExt::ino(&network),
                std::os::unix::fs::MetadataExt::ino(&host)
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_command_that_is_missing_fails_the_start_and_the_retry_works() {
    let (rig, mut client) = Rig::new();
    let mut broken = container("c1", "");
    broken.spec = rig::spec(&["/bin/nothing"]);
    match rig.try_start(&mut client, &broken) {
        Reply::Failed(failure) => {
            assert_eq!((failure.kind, failure.step), (FailureKind::NotFound, FailedStep::Exec), "{failure}");
        }
        other => panic!("{other:?}"),
    }
    assert!(client.snapshot().containers.is_empty());
    assert_eq!(rig.cgroup("c1").procs().unwrap(), Vec::<i32>::new());
    rig.start(&mut client, &container("c1", "exit 3"));
    assert_eq!(client.exit("c1").exit_code, 3);
}

#[test]
fn requests_that_cannot_be_are_refused() {
    let rig = Rig::bare();
    let mut client = rig.connect();
    let early = rig.try_start(&mut client, &container("c1", "true"));
    assert!(matches!(early, Reply::Failed(_)), "{early:?}");
    assert!(matches!(client.call(Request::CreatePod(rig::pod_plan())), Reply::PodCreated(_)));
    let (start, _all) = rig.request(&container("c1", "true"));
    let without = client.call(Request::Start(Box::new(start.clone())));
    assert!(matches!(without, Reply::Failed(_)), "no root: {without:?}");
    for id in ["", "..", "a/b", "../../c1"] {
        let (mut start, descriptors) = rig.request(&container("c1", "true"));
        start.container = id.to_owned();
        let borrowed: Vec<_> = descriptors.iter().map(std::os::fd::AsFd::as_fd).collect();
        let reply = client.call_with(Request::Start(Box::new(start)), &borrowed);
        assert!(matches!(reply, Reply::Failed(_)), "{id:?}: {reply:?}");
    }
    let (mut start, descriptors) = rig.request(&container("c1", "true"));
    start.log = Some(rig.directory.path().join("no/such/directory/c1.log"));
    let borrowed: Vec<_> = descriptors.iter().map(std::os::fd::AsFd::as_fd).collect();
    let reply = client.call_with(Request::Start(Box::new(start)), &borrowed);
    assert!(matches!(&reply, Reply::Failed(failure) if failure.to_string().contains("c1.log")), "{reply:?}");
    assert!(client.snapshot().containers.is_empty());
    rig.start(&mut client, &container("c1", "exit 4"));
    assert_eq!(client.exit("c1").exit_code, 4);
}

#[test]
fn signals_arrive() {
    let (rig, mut client) = Rig::new();
    rig.start(
        &mut client,
        &container("c1", "trap 'echo asked; exit 9' TERM; echo ready; while :; do sleep 0.01; done"),
    );
    until("the trap is set", || (rig.log("c1") == ["stdout F ready"]).then_some(()));
    let target = Target::Container("c1".to_owned());
    assert_eq!(client.call(rig::signal(target.clone(), Signal::TERM, Scope::Init)), Reply::Done);
    assert_eq!(client.exit("c1").exit_code, 9);
    assert_eq!(rig.log("c1"), ["stdout F ready", "stdout F asked"]);
    assert_eq!(client.call(rig::signal(target, Signal::TERM, Scope::Init)), Reply::Gone);

    rig.start(&mut client, &container("c2", "trap '' TERM; sleep 1000"));
    let all = rig::signal(Target::Container("c2".to_owned()), Signal::KILL, Scope::All);
    assert_eq!(client.call(all), Reply::Done);
    let exit = client.exit("c2");
    assert_eq!((exit.exit_code, exit.signal, exit.oom_killed), (137, Some(9), false));
}

#[test]
fn what_a_container_of_the_hosts_pid_namespace_leaves_is_killed() {
    let (rig, mut client) = Rig::new();
    let mut container = container("c1", "sleep 1000 & echo left $!; exit 5");
    container.namespaces.pid = NamespaceSource::Host;
    rig.start(&mut client, &container);
    assert_eq!(client.exit("c1").exit_code, 5);
    let line = rig.log("c1").pop().unwrap();
    let left: i32 = line.rsplit(' ').next().unwrap().parse().unwrap();
    until("the process is gone", || (!rig::is_alive(left)).then_some(()));
    until("the cgroup is empty", || rig.cgroup("c1").procs().unwrap().is_empty().then_some(()));
}

#[test]
fn containers_of_a_pod_can_share_pids() {
    let rig = Rig::bare();
    let mut client = rig.connect();
    let mut plan = rig::pod_plan();
    plan.pid = PodNamespace::Own;
    let created = client.call(Request::CreatePod(plan));
    assert!(matches!(&created, Reply::PodCreated(pod) if pod.init.is_some()), "{created:?}");
    for (id, code) in [("c1", 5), ("c2", 6)] {
        let mut container = container(id, &format!("sleep 1000 & [ $$ != 1 ] && exit {code}"));
        container.namespaces.pid = NamespaceSource::Pod;
        rig.start(&mut client, &container);
        assert_eq!(client.exit(id).exit_code, code);
        until("the cgroup is empty", || rig.cgroup(id).procs().unwrap().is_empty().then_some(()));
    }
}

#[test]
fn a_container_can_join_the_pids_of_another() {
    let (rig, mut client) = Rig::new();
    rig.start(&mut client, &container("c1", "exec sleep 1000"));
    let mut debugger = container("c2", "tr '\\0' ' ' < /proc/1/cmdline; exit 3");
    debugger.namespaces.pid = NamespaceSource::Container("c1".to_owned());
    rig.start(&mut client, &debugger);
    assert_eq!(client.exit("c2").exit_code, 3);
    assert_eq!(rig.log("c2"), ["stdout F sleep 1000 "]);
    let mut stray = container("c3", "true");
    stray.namespaces.pid = NamespaceSource::Container("nobody".to_owned());
    let reply = rig.try_start(&mut client, &stray);
    assert!(matches!(&reply, Reply::Failed(failure) if failure.kind == FailureKind::Gone), "{reply:?}");
}

#[test]
fn standard_input_is_empty_or_open() {
    let (rig, mut client) = Rig::new();
    rig.start(&mut client, &container("c1", "cat; echo end"));
    assert_eq!(client.exit("c1").exit_code, 0);
    assert_eq!(rig.log("c1"), ["stdout F end"]);
    let mut open = container("c2", "echo begin; cat; echo end");
    open.stdin = Stdin::Open;
    rig.start(&mut client, &open);
    until("it reads", || (rig.log("c2") == ["stdout F begin"]).then_some(()));
    let target = Target::Container("c2".to_owned());
    assert_eq!(client.call(rig::signal(target, Signal::KILL, Scope::All)), Reply::Done);
    assert_eq!(client.exit("c2").exit_code, 137);
    assert_eq!(rig.log("c2"), ["stdout F begin"]);
}

#[test]
fn a_shutdown_kills_what_runs_and_leaves_its_record() {
    let (mut rig, mut client) = Rig::new();
    let pids: Vec<i32> =
        ["c1", "c2"].map(|id| rig.start(&mut client, &container(id, "trap '' TERM; sleep 1000"))).into();
    rig.shut_down(&mut client);
    for (id, pid) in ["c1", "c2"].iter().zip(pids) {
        assert!(!rig::is_alive(pid));
        let exit = read_exit(&rig.pod().join("containers").join(id)).unwrap().expect("a record");
        assert_eq!((exit.exit_code, exit.pid), (137, pid));
    }
    assert_eq!(rig.complaints(), "");
}

#[test]
fn an_empty_pod_shuts_down() {
    let mut rig = Rig::bare();
    let mut client = Client::connect(&rig.pod());
    rig.shut_down(&mut client);
}
