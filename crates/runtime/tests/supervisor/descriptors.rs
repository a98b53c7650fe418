//! Open files: how many a supervisor may have, how many what it makes, and what happens when there are too many.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;

use runtime::plan::{NamespaceSource, PodNamespace};
use runtime::wire::{Reply, Request, Stream};
use runtime::{FailedStep, FailureKind};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::client::Client;
use crate::patience::until;
use crate::rig::{self, GIVEN_FILES, Rig, container};

/// The soft and the hard limit of a process.
fn limits(pid: i32) -> (String, String) {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let mut fields = line.split_whitespace().map(str::to_owned);
    (fields.next().unwrap(), fields.next().unwrap())
}

#[test]
fn a_supervisor_may_open_more_files_than_what_it_makes() {
    let rig = Rig::bare();
    let mut client = rig.connect();
    let mut plan = rig::pod_plan();
    plan.pid = PodNamespace::Own;
    let Reply::PodCreated(created) = client.call(Request::CreatePod(plan)) else { panic!("no pod") };
    let hard = getrlimit(Resource::Nofile).maximum.unwrap().to_string();
    let given = (GIVEN_FILES.to_string(), hard.clone());
    assert_eq!(limits(rig.pid()), (hard.clone(), hard), "its own");
    assert_eq!(limits(created.init.unwrap()), given, "of the pod's first process");
    let mut container = container("c1", "ulimit -Sn; ulimit -Hn; exec sleep 1000");
    container.namespaces.pid = NamespaceSource::Pod;
    let pid = rig.start(&mut client, &container);
    assert_eq!(limits(pid), given, "of a container");
    assert_eq!(exec(&mut client, "ulimit -Sn; ulimit -Hn"), format!("{}\n{}\n", given.0, given.1));
    let name = fs::read_to_string(format!("/proc/{}/comm", rig.pid())).unwrap();
    assert_eq!(name, "knarr-superviso\n", "the kernel keeps 15 bytes");
}

/// What a command prints in the container, and which process has printed it.
fn exec(client: &mut Client, script: &str) -> String {
    let (reading, writing) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let start = rig::exec("e1", "c1", script, &[Stream::Stdout]);
    let reply = client.call_with(Request::Exec(Box::new(start)), &[writing.as_fd()]);
    assert!(matches!(reply, Reply::ExecStarted { .. }), "{reply:?}");
    drop(writing);
    assert_eq!(client.exec_exit("e1"), 0);
    let mut said = String::new();
    File::from(reading).read_to_string(&mut said).unwrap();
    said
}

/// What a supervisor has open is nothing to a process with a limit below that.
#[test]
fn a_limit_below_what_the_supervisor_has_open_is_kept() {
    let (rig, mut client) = Rig::new();
    let mut limited = container("c1", "ulimit -n; exec sleep 1000");
    rig::edit_process(&mut limited.spec, |process| {
        process.set_rlimits(Some(vec![rig::open_files(10)]));
    });
    for id in ["c2", "c3", "c4"] {
        rig.start(&mut client, &container(id, "exec sleep 1000"));
    }
    assert!(open(&rig).len() > 15, "{:?}", open(&rig));
    rig.start(&mut client, &limited);
    assert_eq!(exec(&mut client, "echo works"), "works\n");
}

/// The numbers of its descriptors.
fn open(rig: &Rig) -> Vec<u64> {
    let listed = fs::read_dir(format!("/proc/{}/fd", rig.pid())).unwrap();
    let mut open: Vec<u64> =
        listed.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
    open.sort_unstable();
    open
}

/// A limit for which one more descriptor of its can be opened.
fn leave_one(rig: &Rig) {
    let open = open(rig);
    let mut free = (0..).filter(|number| !open.contains(number));
    limit(rig, free.nth(1));
}

fn limit(rig: &Rig, soft: Option<u64>) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit { current: soft.or(maximum), maximum };
    prlimit(Pid::from_raw(rig.pid()), Resource::Nofile, limit).unwrap();
}

#[test]
fn a_request_whose_descriptors_do_not_fit_fails_alone() {
    let (rig, mut client) = Rig::new();
    rig.start(&mut client, &container("c1", "exec sleep 1000"));
    let (reading, writing) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let bystander = rig::exec("e0", "c1", "read line; echo got $line", &[Stream::Stdin, Stream::Stdout]);
    let (typed, typing) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let reply = client.call_with(Request::Exec(Box::new(bystander)), &[typed.as_fd(), writing.as_fd()]);
    assert!(matches!(reply, Reply::ExecStarted { .. }), "{reply:?}");
    drop((typed, writing));
    // The container's process and the exec's: the starter of that has gone, and with the answer its descriptors.
    until("two children are left", || {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", rig.pid())).unwrap();
        (children.split_whitespace().count() == 2).then_some(())
    });
    client.snapshot();
    let before = open(&rig);
    leave_one(&rig);
    let null = File::open("/dev/null").unwrap();
    let streams = vec![Stream::Stdout, Stream::Stderr];
    let exec_two = rig::exec("e2", "c1", "true", &streams);
    let mut in_memfd = rig::exec("e3", "c1", "true", &streams);
    in_memfd.process.env.push(format!("LONG={}", "x".repeat(1 << 20)));
    let attach =
        Request::Attach { container: "c1".to_owned(), attachment: "a1".to_owned(), streams: streams.clone() };
    for request in [Request::Exec(Box::new(exec_two)), attach, Request::Exec(Box::new(in_memfd))] {
        match client.call_with(request, &[null.as_fd(), null.as_fd()]) {
            Reply::Failed(failure) => {
                assert_eq!((failure.kind, failure.step), (FailureKind::Exhausted, FailedStep::Receive));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(open(&rig), before, "what came of them is closed");
    }
    limit(&rig, None);
    rustix::io::write(&typing, b"it\n").unwrap();
    assert_eq!(client.exec_exit("e0"), 0);
    let mut said = String::new();
    File::from(reading).read_to_string(&mut said).unwrap();
    assert_eq!(said, "got it\n");
    assert_eq!(exec(&mut client, "echo again"), "again\n");
}
