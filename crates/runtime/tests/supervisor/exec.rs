//! Processes that join a running container.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use runtime::plan::TerminalSize;
use runtime::wire::{Reply, Request, Scope, StartExec, Stream, Target};
use runtime::{FailedStep, FailureKind};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;

use crate::client::Client;
use crate::patience::until;
use crate::rig::{self, Rig, container};

fn pipe() -> (File, OwnedFd) {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    (File::from(read), write)
}

fn running() -> (Rig, Client) {
    let (rig, mut client) = Rig::new();
    rig.start(&mut client, &container("c1", "exec sleep 1000"));
    (rig, client)
}

fn started(client: &mut Client, exec: StartExec) -> i32 {
    match client.call(Request::Exec(Box::new(exec))) {
        Reply::ExecStarted { pid, .. } => pid,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_exec_has_its_streams_and_its_code() {
    let (_rig, mut client) = running();
    let (stdin_read, stdin_write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let ((mut stdout, stdout_write), (mut stderr, stderr_write)) = (pipe(), pipe());
    let exec =
        rig::exec("e1", "c1", "cat; echo err >&2; exit 9", &[Stream::Stdin, Stream::Stdout, Stream::Stderr]);
    let descriptors = [stdin_read.as_fd(), stdout_write.as_fd(), stderr_write.as_fd()];
    let reply = client.call_with(Request::Exec(Box::new(exec)), &descriptors);
    assert!(matches!(reply, Reply::ExecStarted { .. }), "{reply:?}");
    drop((stdin_read, stdout_write, stderr_write));
    let mut stdin = File::from(stdin_write);
    stdin.write_all(b"through\n").unwrap();
    drop(stdin);
    let (mut out, mut err) = (String::new(), String::new());
    stdout.read_to_string(&mut out).unwrap();
    stderr.read_to_string(&mut err).unwrap();
    assert_eq!((out.as_str(), err.as_str()), ("through\n", "err\n"));
    assert_eq!(client.exec_exit("e1"), 9);
}

#[test]
fn an_exec_that_cannot_be_fails() {
    let (rig, mut client) = running();
    let mut missing = rig::exec("e1", "c1", "", &[]);
    missing.process.args = vec!["/bin/nothing".to_owned()];
    match client.call(Request::Exec(Box::new(missing))) {
        Reply::Failed(failure) => {
            assert_eq!((failure.kind, failure.step), (FailureKind::NotFound, FailedStep::Exec), "{failure}");
        }
        other => panic!("{other:?}"),
    }
    let stranger = rig::exec("e2", "nobody", "true", &[]);
    assert_eq!(client.call(Request::Exec(Box::new(stranger))), Reply::Gone);
    let (mut out, _write) = pipe();
    let unfed = rig::exec("e3", "c1", "true", &[Stream::Stdout]);
    let reply = client.call(Request::Exec(Box::new(unfed)));
    assert!(matches!(reply, Reply::Failed(_)), "no descriptor: {reply:?}");
    drop(_write);
    let mut nothing = String::new();
    out.read_to_string(&mut nothing).unwrap();
    rig.start(&mut client, &container("c2", "true"));
    client.exit("c2");
    let late = rig::exec("e4", "c2", "true", &[]);
    assert_eq!(client.call(Request::Exec(Box::new(late))), Reply::Gone);
}

#[test]
fn an_exec_is_killed_with_its_group() {
    let (_rig, mut client) = running();
    let (mut stdout, write) = pipe();
    let exec = rig::exec("e1", "c1", "sleep 1000 & echo begun; wait", &[Stream::Stdout]);
    let reply = client.call_with(Request::Exec(Box::new(exec)), &[write.as_fd()]);
    assert!(matches!(reply, Reply::ExecStarted { .. }), "{reply:?}");
    drop(write);
    let mut begun = [0; 6];
    stdout.read_exact(&mut begun).unwrap();
    let kill = rig::signal(Target::Exec("e1".to_owned()), Signal::KILL, Scope::All);
    assert_eq!(client.call(kill), Reply::Done);
    assert_eq!(client.exec_exit("e1"), 137);
    // The end of the file: nobody of the group holds the pipe any more.
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"");
    let again = rig::signal(Target::Exec("e1".to_owned()), Signal::KILL, Scope::All);
    assert_eq!(client.call(again), Reply::Gone);
}

/// The processes of the container.
fn inside(rig: &Rig) -> Vec<i32> {
    rig.cgroup("c1").procs().unwrap()
}

/// What has a session of its own, what has a group of its own, and what was made a daemon.
const FAMILY: &str = "setsid sleep 1001 & sleep 1002 & (setsid sleep 1003 &) ; echo begun; wait";

#[test]
fn an_exec_is_killed_with_all_that_descends_from_it() {
    for (scope, left) in [(Scope::All, 2), (Scope::Session, 3)] {
        let (rig, mut client) = running();
        let (mut stdout, write) = pipe();
        let exec = rig::exec("e1", "c1", FAMILY, &[Stream::Stdout]);
        let reply = client.call_with(Request::Exec(Box::new(exec)), &[write.as_fd()]);
        assert!(matches!(reply, Reply::ExecStarted { .. }), "{reply:?}");
        drop(write);
        stdout.read_exact(&mut [0; 6]).unwrap();
        // Each is in the session that it wants to be in.
        let sleeps =
            |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n");
        until("they all sleep", || {
            (inside(&rig).iter().filter(|pid| sleeps(pid)).count() == 4).then_some(())
        });
        let kill = rig::signal(Target::Exec("e1".to_owned()), Signal::KILL, scope);
        assert_eq!(client.call(kill), Reply::Done);
        assert_eq!(client.exec_exit("e1"), 137);
        // The container's first process, the daemon, and who has a session of its own unless it goes too.
        until("the others are gone", || (inside(&rig).len() == left).then_some(()));
    }
}

#[test]
fn a_terminals_jobs_go_with_the_connection() {
    let (rig, mut client) = running();
    let mut exec = rig::exec("e1", "c1", "set -m; sleep 1001 & sleep 1002; wait", &[]);
    exec.process.terminal = Some(TerminalSize::default());
    let (reply, descriptors) = client.call_for_descriptors(Request::Exec(Box::new(exec)), &[]);
    assert!(matches!(reply, Reply::ExecStarted { .. }), "{reply:?}");
    until("they all run", || (inside(&rig).len() == 4).then_some(()));
    drop((client, descriptors));
    until("they are gone", || (inside(&rig).len() == 1).then_some(()));
    let mut client = rig.connect();
    assert_eq!(client.snapshot().containers.len(), 1);
}

#[test]
fn a_terminal_that_is_closed_hangs_up() {
    let (_rig, mut client) = running();
    let mut exec = rig::exec("e1", "c1", "sleep 1000", &[]);
    exec.process.terminal = Some(TerminalSize::default());
    let (reply, descriptors) = client.call_for_descriptors(Request::Exec(Box::new(exec)), &[]);
    assert!(matches!(reply, Reply::ExecStarted { .. }), "{reply:?}");
    drop(descriptors);
    assert_eq!(client.exec_exit("e1"), 129);
}

#[test]
fn execs_end_with_the_connection_and_containers_do_not() {
    let (rig, mut client) = running();
    let pid = started(&mut client, rig::exec("e1", "c1", "trap '' TERM HUP; sleep 1000", &[]));
    assert!(rig::is_alive(pid));
    drop(client);
    until("the exec is gone", || (!rig::is_alive(pid)).then_some(()));
    let mut client = rig.connect();
    assert_eq!(client.snapshot().containers.len(), 1);
    started(&mut client, rig::exec("e1", "c1", "exit 3", &[]));
    assert_eq!(client.exec_exit("e1"), 3);
}

#[test]
fn execs_end_with_their_container() {
    let (_rig, mut client) = running();
    started(&mut client, rig::exec("e1", "c1", "exec sleep 1000", &[]));
    let kill = rig::signal(Target::Container("c1".to_owned()), Signal::KILL, Scope::All);
    assert_eq!(client.call(kill), Reply::Done);
    assert_eq!(client.exec_exit("e1"), 137);
    assert_eq!(client.exit("c1").exit_code, 137);
}

#[test]
fn an_exec_with_a_terminal_hands_it_over() {
    let (_rig, mut client) = running();
    let mut exec = rig::exec("e1", "c1", "read line; echo \"<$line>\"; stty size", &[]);
    exec.process.terminal = Some(TerminalSize { rows: 30, columns: 90 });
    let (reply, descriptors) = client.call_for_descriptors(Request::Exec(Box::new(exec)), &[]);
    assert!(matches!(reply, Reply::ExecStarted { .. }), "{reply:?}");
    let [master] = <[OwnedFd; 1]>::try_from(descriptors).expect("the terminal");
    let mut master = File::from(master);
    master.write_all(b"hello\n").unwrap();
    assert_eq!(client.exec_exit("e1"), 0);
    let mut said = Vec::new();
    let mut buffer = [0; 512];
    // EIO: the other side is closed.
    while let Ok(count @ 1..) = master.read(&mut buffer) {
        said.extend_from_slice(&buffer[..count]);
    }
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("<hello>") && said.contains("30 90"), "{said}");
}

#[test]
fn many_execs_leave_nothing() {
    let (rig, mut client) = running();
    let count = || std::fs::read_dir(format!("/proc/{}/fd", rig.pid())).unwrap().count();
    let before = count();
    for number in 0..50 {
        let name = format!("e{number}");
        started(&mut client, rig::exec(&name, "c1", "exit 4", &[]));
        assert_eq!(client.exec_exit(&name), 4);
    }
    // The last one's descriptor is closed just after its end was told.
    until("the descriptors are as before", || (count() == before).then_some(()));
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", rig.pid())).unwrap();
    assert_eq!(children.split_whitespace().count(), 1, "{children}");
}
