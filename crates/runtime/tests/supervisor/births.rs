//! Processes whose birth takes long, for their container's cgroup is slow: everybody else is served meanwhile.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use runtime::plan::{IdMapping, IdMappings, NamespacePlan, NamespaceSource, PodPlan};
use runtime::spec::oci;
use runtime::wire::{Reply, Request, Scope, Target};
use runtime::{Failure, FailureKind};
use rustix::process::{Pid, Signal, kill_process};

use crate::client::Client;
use crate::patience::{slowness, until};
use crate::rig::{self, Container, Frozen, Rig, container};

/// A daemon waits for two seconds for the answer to a signal.
fn prompt() -> Duration {
    Duration::from_secs(1) * slowness()
}

const ECHO: &str = "trap 'echo heard' USR1; echo up; while :; do sleep 0.05; done";

/// A container that says when it hears a signal.
fn echo(rig: &Rig, client: &mut Client, container: &Container<'_>) {
    rig.start(client, container);
    until("it is up", || (!rig.log(container.id).is_empty()).then_some(()));
}

/// Has a container hear a signal, and its log drained.
fn serve(rig: &Rig, client: &mut Client, id: &str) {
    let begun = Instant::now();
    let lines = rig.log(id).len();
    let signal = rig::signal(Target::Container(id.to_owned()), Signal::USR1, Scope::Init);
    assert_eq!(client.call(signal), Reply::Done);
    assert!(begun.elapsed() < prompt(), "a signal took {:?}", begun.elapsed());
    until("it has heard", || (rig.log(id).len() > lines).then_some(()));
    assert!(begun.elapsed() < 2 * prompt(), "a line took {:?}", begun.elapsed());
}

fn children(rig: &Rig) -> BTreeSet<i32> {
    let listed = fs::read_to_string(format!("/proc/{0}/task/{0}/children", rig.pid())).unwrap();
    listed.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn expect_late(reply: &Reply) {
    match reply {
        Reply::Failed(Failure { errno, .. }) => {
            assert_eq!(*errno, Some(rustix::io::Errno::TIMEDOUT.raw_os_error()), "{reply:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_exec_into_a_frozen_container_holds_nobody_up() {
    let (rig, mut client) = Rig::new();
    rig.start(&mut client, &container("c1", "exec sleep 1000"));
    echo(&rig, &mut client, &container("c2", ECHO));
    let before = children(&rig);
    let Some(frozen) = Frozen::freeze(&rig, "c1") else {
        eprintln!("skipped: this host cannot freeze cgroups");
        return;
    };
    let deadline = Duration::from_secs(3) * slowness();
    let mut hanging = rig::exec("e1", "c1", "exit 3", &[]);
    hanging.deadline_ms = u64::try_from(deadline.as_millis()).unwrap();
    let begun = Instant::now();
    let sequence = client.send(Request::Exec(Box::new(hanging)), &[]);
    serve(&rig, &mut client, "c2");
    assert!(begun.elapsed() < deadline, "while it hangs");
    expect_late(&client.reply(sequence).0);
    assert!((deadline..deadline + prompt()).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    // Another one is not wanted any more.
    let sequence = client.send(Request::Exec(Box::new(rig::exec("e2", "c1", "exit 3", &[]))), &[]);
    let kill = rig::signal(Target::Exec("e2".to_owned()), Signal::KILL, Scope::All);
    assert_eq!(client.call(kill), Reply::Done);
    drop(frozen);
    let reply = client.reply(sequence).0;
    assert!(matches!(&reply, Reply::Failed(failure) if failure.kind == FailureKind::Gone), "{reply:?}");
    until("they are gone", || (children(&rig) == before).then_some(()));
    let reply = client.call(Request::Exec(Box::new(rig::exec("e3", "c1", "exit 4", &[]))));
    assert!(matches!(reply, Reply::ExecStarted { .. }), "{reply:?}");
    assert_eq!(client.exec_exit("e3"), 4);
    assert_eq!(children(&rig), before);
}

#[test]
fn an_exec_into_a_frozen_container_ends_with_its_connection_or_the_pod() {
    let (mut rig, mut client) = Rig::new();
    rig.start(&mut client, &container("c1", "exec sleep 1000"));
    let before = children(&rig);
    let Some(frozen) = Frozen::freeze(&rig, "c1") else {
        eprintln!("skipped: this host cannot freeze cgroups");
        return;
    };
    let begin = |client: &mut Client| {
        let exec = rig::exec("e1", "c1", "exec sleep 1000", &[]);
        client.send(Request::Exec(Box::new(exec)), &[]);
        until("its starter is there", || (children(&rig).len() > before.len()).then_some(()));
    };
    begin(&mut client);
    drop(client);
    let mut client = rig.connect();
    drop(frozen);
    until("it is gone", || (children(&rig) == before).then_some(()));
    assert_eq!(client.snapshot().containers.len(), 1);
    let frozen = Frozen::freeze(&rig, "c1");
    begin(&mut client);
    drop(client);
    rig.shut_down(&mut rig.connect());
    drop(frozen);
}

#[test]
fn an_exec_into_a_throttled_container_holds_nobody_up() {
    const SPIN: &str = "for i in 1 2 3 4 5 6 7 8; do (while :; do :; done) & done; wait";
    let (rig, mut client) = Rig::new();
    rig.start(&mut client, &container("c1", SPIN));
    echo(&rig, &mut client, &container("c2", ECHO));
    let limit = |quota: i64| {
        let cpu = oci::LinuxCpuBuilder::default().quota(quota).period(100_000u64).build().unwrap();
        let limits = oci::LinuxResourcesBuilder::default().cpu(cpu).devices(Vec::new()).build().unwrap();
        rig.cgroup("c1").apply(&limits).unwrap();
    };
    limit(2000 * i64::from(slowness()));
    let before = children(&rig);
    for number in 0..3 {
        let exec = rig::exec(&format!("e{number}"), "c1", "exit 3", &[]);
        let sequence = client.send(Request::Exec(Box::new(exec)), &[]);
        serve(&rig, &mut client, "c2");
        let reply = client.reply(sequence).0;
        assert!(matches!(reply, Reply::ExecStarted { .. }), "{reply:?}");
        assert_eq!(client.exec_exit(&format!("e{number}")), 3);
    }
    let mut late = rig::exec("late", "c1", "exec sleep 1000", &[]);
    late.deadline_ms = 20;
    let begun = Instant::now();
    expect_late(&client.call(Request::Exec(Box::new(late))));
    assert!(begun.elapsed() < prompt(), "its deadline was kept after {:?}", begun.elapsed());
    until("it is gone", || (children(&rig) == before).then_some(()));
    // Processes that are killed need processor time to end, too.
    limit(-1);
}

/// A starter that is killed between its clone and its word has borne a process that nobody was told of.
#[test]
fn what_a_killed_starter_has_borne_is_found() {
    if std::thread::available_parallelism().is_ok_and(|processors| processors.get() == 1) {
        eprintln!("skipped: with one processor nobody sees a starter between its clone and its word");
        return;
    }
    let (rig, mut client) = Rig::new();
    rig.start(&mut client, &container("c1", "exec sleep 1000"));
    let before = children(&rig);
    let list = format!("/proc/{0}/task/{0}/children", rig.pid());
    until("a starter was killed in time", || {
        let exec = rig::exec("e1", "c1", "exec sleep 1000", &[]);
        let sequence = client.send(Request::Exec(Box::new(exec)), &[]);
        // The starter is the first of two: it is killed as soon as the second is there.
        let give_up = Instant::now() + Duration::from_millis(50) * slowness();
        while Instant::now() < give_up {
            let listed = fs::read_to_string(&list).unwrap();
            let mut new = listed.split_whitespace().filter_map(|pid| pid.parse().ok());
            let mut new = new.by_ref().filter(|pid| !before.contains(pid));
            if let (Some(starter), Some(_)) = (new.next().and_then(Pid::from_raw), new.next()) {
                let _ended = kill_process(starter, Signal::KILL);
                break;
            }
        }
        match client.reply(sequence).0 {
            Reply::Failed(failure) => {
                assert_eq!(failure.kind, FailureKind::Died, "{failure}");
                Some(())
            }
            Reply::ExecStarted { .. } => {
                let kill = rig::signal(Target::Exec("e1".to_owned()), Signal::KILL, Scope::All);
                assert_eq!(client.call(kill), Reply::Done);
                assert_eq!(client.exec_exit("e1"), 137);
                None
            }
            other => panic!("{other:?}"),
        }
    });
    until("nothing is left", || (children(&rig) == before).then_some(()));
}

#[test]
fn a_start_in_a_user_namespace_that_hangs_holds_nobody_up() {
    let rig = Rig::bare();
    let mut client = rig.connect();
    // Whose the image is has no name in there, so nothing can be made in it.
    for part in ["proc", "sys", "dev"] {
        fs::create_dir(rig.directory.path().join("image").join(part)).unwrap();
    }
    let mappings = vec![IdMapping { inside: 0, outside: 300_000, length: 65_536 }];
    let user = Some(IdMappings { uids: mappings.clone(), gids: mappings });
    let reply = client.call(Request::CreatePod(PodPlan { user, ..rig::pod_plan() }));
    assert!(matches!(reply, Reply::PodCreated(_)), "{reply:?}");
    let inside = |id, script| Container {
        namespaces: NamespacePlan { user: NamespaceSource::Pod, ..rig::namespaces() },
        ..container(id, script)
    };
    echo(&rig, &mut client, &inside("c2", ECHO));
    let before = children(&rig);
    let Some(frozen) = Frozen::freeze(&rig, "c1") else {
        eprintln!("skipped: this host cannot freeze cgroups");
        return;
    };
    let deadline = Duration::from_secs(3) * slowness();
    let mut hanging = inside("c1", "true");
    hanging.deadline_ms = u64::try_from(deadline.as_millis()).unwrap();
    let (start, descriptors) = rig.request(&hanging);
    let borrowed: Vec<_> = descriptors.iter().map(std::os::fd::AsFd::as_fd).collect();
    let begun = Instant::now();
    let sequence = client.send(Request::Start(Box::new(start)), &borrowed);
    serve(&rig, &mut client, "c2");
    assert_eq!(client.snapshot().containers.len(), 2);
    assert!(begun.elapsed() < deadline, "while it hangs");
    expect_late(&client.reply(sequence).0);
    // The answer may wait for a second more, for the process to be gone.
    let latest = deadline + Duration::from_secs(1) + prompt();
    assert!((deadline..latest).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    drop(frozen);
    until("it is gone", || (children(&rig) == before).then_some(()));
    rig.start(&mut client, &inside("c1", "exit 4"));
    assert_eq!(client.exit("c1").exit_code, 4);
    // One that is killed before it is born: version 1 thaws it for that.
    let _frozen = Frozen::freeze(&rig, "c3");
    let (start, descriptors) = rig.request(&inside("c3", "true"));
    let borrowed: Vec<_> = descriptors.iter().map(std::os::fd::AsFd::as_fd).collect();
    let sequence = client.send(Request::Start(Box::new(start)), &borrowed);
    let kill = rig::signal(Target::Container("c3".to_owned()), Signal::KILL, Scope::All);
    assert_eq!(client.call(kill), Reply::Done);
    let reply = client.reply(sequence).0;
    assert!(matches!(&reply, Reply::Failed(failure) if failure.kind == FailureKind::Died), "{reply:?}");
    until("it is gone", || (children(&rig) == before).then_some(()));
}

/// Its starter may not have begun, may be at work, or may have said its word already.
#[test]
fn an_exec_that_is_called_off_is_gone_whenever_that_is() {
    let (rig, mut client) = Rig::new();
    rig.start(&mut client, &container("c1", "exec sleep 1000"));
    let before = children(&rig);
    for number in 0..100 {
        let name = format!("e{number}");
        let exec = Request::Exec(Box::new(rig::exec(&name, "c1", "exec sleep 1000", &[])));
        client.send(exec, &[]);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_micros(50 * number) {
            std::hint::spin_loop();
        }
        // In what order both are answered is open.
        client.send(rig::signal(Target::Exec(name), Signal::KILL, Scope::Session), &[]);
        (0..2).for_each(|_| client.any_reply());
    }
    until("all of them are gone", || (children(&rig) == before).then_some(()));
    assert_eq!(rig.cgroup("c1").procs().unwrap().len(), 1);
}
