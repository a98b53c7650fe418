//! Who speaks to a supervisor, and how it begins and ends.

use std::io::IoSlice;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use runtime::wire::{Message, Reply, Request, VERSION, WireError};
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use rustix::process::{Pid, Signal, kill_process};

use crate::client::Client;
use crate::patience::until;
use crate::rig::{self, Rig, container};

/// Sends a request of a version to come.
fn send_raw(client: &Client, sequence: u64, body: &str) {
    let mut frame = b"KNRR\x01\x00\x01\x00".to_vec();
    frame.extend_from_slice(&sequence.to_le_bytes());
    frame.extend_from_slice(&u32::try_from(body.len()).unwrap().to_le_bytes());
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(body.as_bytes());
    let sent = sendmsg(
        client.socket.as_fd(),
        &[IoSlice::new(&frame)],
        &mut SendAncillaryBuffer::default(),
        SendFlags::NOSIGNAL,
    );
    assert_eq!(sent, Ok(frame.len()));
}

#[test]
fn a_supervisor_says_who_it_is() {
    let rig = Rig::bare();
    let mut client = Client::silent(&rig.pod());
    match client.call(Request::Hello { version: VERSION + 1 }) {
        Reply::Welcome { version, pod, pid, .. } => {
            assert_eq!((version, pod.as_str(), pid), (VERSION, "p1", rig.pid()));
        }
        other => panic!("{other:?}"),
    }
}

/// Requests of the first release, with the beginning of what its daemons read as the answer. Here is nothing that those could call.
const FIRST_RELEASE: [(&str, &str); 12] = [
    ("hello", "Welcome"),
    ("create_pod", "PodCreated"),
    ("snapshot", "Snapshot"),
    ("start", "Failed"),
    ("start_interactive", "Failed"),
    ("start_interactive_once", "Failed"),
    ("signal_container", "Gone"),
    ("signal_exec", "Gone"),
    ("exec", "Gone"),
    ("reopen_log", "Gone"),
    ("forget", "Done"),
    ("shutdown", "Done"),
];

#[test]
fn an_earlier_daemon_is_served_in_its_own_words() {
    let rig = Rig::bare();
    let mut client = Client::silent(&rig.pod());
    let golden = include_str!("../golden/wire-1.txt");
    for (sequence, (name, answer)) in (1..).zip(FIRST_RELEASE) {
        let line = golden.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let (_header, body) = line.unwrap().split_once(' ').unwrap();
        send_raw(&client, sequence, body);
        let reply = format!("{:?}", client.reply(sequence).0);
        assert!(reply.starts_with(answer), "{name}: {reply}");
    }
}

#[test]
fn a_request_of_another_version_is_answered_and_the_connection_stays() {
    let rig = Rig::bare();
    let mut client = rig.connect();
    for (sequence, body, named) in [
        (1000, r#"{"checkpoint":{"container":"c1"}}"#, "checkpoint"),
        (1001, r#"{"forget":{"container":"c1","softly":true}}"#, "softly"),
        (1002, "[]", ""),
    ] {
        send_raw(&client, sequence, body);
        match client.reply(sequence).0 {
            Reply::Unknown { why } => assert!(why.contains(named), "{why}"),
            other => panic!("{other:?}"),
        }
    }
    assert!(client.snapshot().containers.is_empty());
}

#[test]
fn the_newest_daemon_is_served() {
    let (rig, mut first) = Rig::new();
    rig.start(&mut first, &container("c1", "exec sleep 1000"));
    let mut second = rig.connect();
    first.expect_closed();
    assert_eq!(second.snapshot().containers.len(), 1);
    assert!(second.snapshot().pod.is_some());
}

#[test]
fn a_daemon_that_sends_garbage_is_cut_off() {
    let rig = Rig::bare();
    let mut client = rig.connect();
    let frame = [IoSlice::new(b"GET / HTTP/1.1\r\nHost: supervisor\r\n\r\n")];
    sendmsg(client.socket.as_fd(), &frame, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL).unwrap();
    client.expect_closed();
    assert!(rig.connect().snapshot().containers.is_empty());
}

#[test]
fn a_daemon_that_does_not_read_keeps_nobody_waiting() {
    let (rig, mut client) = Rig::new();
    rig.start(&mut client, &container("c1", "exec sleep 1000"));
    // Far more replies than a socket and a queue hold.
    for sequence in 10_000..30_000 {
        match client.socket.send(sequence, &Message::Request(Request::Snapshot), &[]) {
            Ok(()) => {}
            Err(WireError::Full | WireError::Closed) => break,
            Err(error) => panic!("{error}"),
        }
    }
    let mut other = rig.connect();
    assert_eq!(other.snapshot().containers.len(), 1);
}

#[test]
fn a_supervisor_does_not_end_on_sigterm() {
    let (mut rig, mut client) = Rig::new();
    rig.start(&mut client, &container("c1", "exec sleep 1000"));
    let pid = Pid::from_raw(rig.pid()).unwrap();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR1] {
        kill_process(pid, signal).unwrap();
        assert_eq!(client.snapshot().containers.len(), 1, "{signal:?}");
    }
    assert!(rig.is_alive());
    rig.shut_down(&mut client);
}

#[test]
fn containers_come_and_go_and_nothing_stays() {
    let (rig, mut client) = Rig::new();
    let count = || std::fs::read_dir(format!("/proc/{}/fd", rig.pid())).unwrap().count();
    let mut counts = Vec::new();
    for number in 0..20 {
        let id = format!("c{number}");
        rig.start(&mut client, &container(&id, "echo hello"));
        client.exit(&id);
        assert_eq!(client.call(Request::Forget { container: id }), Reply::Done);
        counts.push(count());
    }
    assert_eq!(counts.first(), counts.last(), "{counts:?}");
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", rig.pid())).unwrap();
    assert_eq!(children.trim(), "");
}

#[test]
fn misuse_is_said_in_a_line() {
    let directory = tempfile::tempdir().unwrap();
    let good = directory.path().to_str().unwrap();
    let cases: [&[&str]; 5] = [
        &[],
        &["--pod", "p1"],
        &["--pod", "p1", "--dir", "relative"],
        &["--pod", "p1", "--dir", good, "--cgroup", "nonsense"],
        // Right, but its standard input is no listening socket.
        &["--pod", "p1", "--dir", good],
    ];
    for arguments in cases {
        let output = Command::new(rig::binary()).args(arguments).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{arguments:?}: {said}");
        assert!(said.starts_with("knarr-supervisor: "), "{said}");
    }
}

#[test]
fn a_user_namespace_that_cannot_be_made_is_answered_with_the_kernels_number() {
    // The loader needs one descriptor at a time, and what tells this namespace's process to end is a pipe.
    let limited = "ulimit -n 4; exec \"$0\" --hold-user-namespace";
    let mut command = Command::new("/bin/sh");
    command.args(["-c", limited]).arg(rig::binary()).stdin(Stdio::null());
    let output = command.output().unwrap();
    let [said, why] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    let too_many = rustix::io::Errno::MFILE.raw_os_error();
    assert_eq!((said, output.status.code()), (format!("{too_many}\n"), Some(1)), "{why}");
}

#[test]
fn it_is_in_its_own_cgroup_and_session() {
    let rig = Rig::bare();
    drop(rig.connect());
    until("it has joined", || rig.cgroup("supervisor").procs().unwrap().contains(&rig.pid()).then_some(()));
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", rig.pid())).unwrap();
    let session = stat.rsplit_once(") ").unwrap().1.split(' ').nth(3).unwrap().to_owned();
    assert_eq!(session, rig.pid().to_string());
}
