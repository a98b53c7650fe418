//! Clients that are attached to containers.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use runtime::wire::{AttachedInput, DetachReason, Event, Reply, Request, Scope, Stdin, Stream, Target};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use rustix::process::Signal;
use rustix::termios::{Winsize, tcsetwinsize};

use crate::client::Client;
use crate::patience::{patience, until};
use crate::rig::{self, Container, Rig, container, edit_process};

/// A client that is attached.
pub struct Attached {
    stdout: File,
    kind: AttachedInput,
    input: Option<File>,
}

impl Attached {
    pub fn say(&mut self, text: &str) {
        self.input.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    pub fn expect(&mut self, text: &str) {
        let mut read = vec![0; text.len()];
        let mut length = 0;
        while length < text.len() {
            let some = self.read(&mut read[length..]);
            length += some;
            let heard = String::from_utf8_lossy(&read[..length]);
            assert!(some > 0 && text.starts_with(&*heard), "{heard:?} is not {text:?}");
        }
    }

    fn expect_end(&mut self) {
        let mut rest = [0; 512];
        let length = self.read(&mut rest);
        assert_eq!(String::from_utf8_lossy(&rest[..length]), "");
    }

    /// Some bytes, once there are any; none at the end.
    fn read(&mut self, into: &mut [u8]) -> usize {
        let give_up = Timespec::try_from(patience()).unwrap();
        let ready = poll(&mut [PollFd::new(&self.stdout, PollFlags::IN)], Some(&give_up)).unwrap();
        assert_eq!(ready, 1, "nothing is heard within {:?}", patience());
        self.stdout.read(into).unwrap()
    }
}

fn request(name: &str, streams: &[Stream]) -> Request {
    Request::Attach { container: "c1".to_owned(), attachment: name.to_owned(), streams: streams.to_vec() }
}

pub fn attach(client: &mut Client, name: &str, streams: &[Stream]) -> Attached {
    let (reading, writing) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let (reply, mut descriptors) = client.call_for_descriptors(request(name, streams), &[writing.as_fd()]);
    let Reply::Attached { input: kind } = reply else { panic!("{reply:?}") };
    assert_eq!(descriptors.len(), usize::from(kind != AttachedInput::None));
    Attached { stdout: reading.into(), kind, input: descriptors.pop().map(File::from) }
}

pub const BOTH: [Stream; 2] = [Stream::Stdin, Stream::Stdout];

fn detach(client: &mut Client, name: &str, streams: &[Stream]) {
    let request = Request::Detach { attachment: name.to_owned(), streams: streams.to_vec() };
    assert_eq!(client.call(request), Reply::Done);
}

fn detached(client: &mut Client, name: &str) -> DetachReason {
    client.event("detached", |event| match event {
        Event::Detached { attachment, why } if attachment == name => Some(*why),
        _ => None,
    })
}

fn with_input<'a>(script: &str, stdin: Stdin) -> Container<'a> {
    Container { stdin, ..container("c1", script) }
}

/// The supervisor's descriptors between two requests: of one that was answered it may still hold some.
fn count(rig: &Rig, client: &mut Client) -> usize {
    client.snapshot();
    fs::read_dir(format!("/proc/{}/fd", rig.pid())).unwrap().count()
}

fn kill(client: &mut Client) {
    let kill = rig::signal(Target::Container("c1".to_owned()), Signal::KILL, Scope::All);
    assert_eq!(client.call(kill), Reply::Done);
    client.exit("c1");
}

#[test]
fn everybody_sees_what_is_written_when_the_log_has_it() {
    let (rig, mut client) = Rig::new();
    rig.start(&mut client, &with_input("echo before; exec cat", Stdin::Open));
    until("the first line is there", || (rig.log("c1") == ["stdout F before"]).then_some(()));
    let mut one = attach(&mut client, "one", &BOTH);
    let mut two = attach(&mut client, "two", &[Stream::Stdout]);
    assert_eq!((one.kind, two.kind), (AttachedInput::Pipe, AttachedInput::None));
    one.say("hello\n");
    one.expect("hello\n");
    assert_eq!(rig.log("c1"), ["stdout F before", "stdout F hello"]);
    two.expect("hello\n");
    detach(&mut client, "two", &[]);
    two.expect_end();
    one.say("again\n");
    one.expect("again\n");
    kill(&mut client);
    assert_eq!(detached(&mut client, "one"), DetachReason::Ended);
    one.expect_end();
    assert_eq!(rig.log("c1").len(), 3);
}

#[test]
fn streams_are_kept_apart_and_a_log_is_not_needed() {
    let (rig, mut client) = Rig::new();
    let script = "read go; echo out; echo err >&2; echo last";
    let (mut start, descriptors) = rig.request(&with_input(script, Stdin::Open));
    start.log = None;
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    let reply = client.call_with(Request::Start(Box::new(start)), &borrowed);
    assert!(matches!(reply, Reply::Started { .. }), "{reply:?}");
    let pipes: Vec<(OwnedFd, OwnedFd)> = (0..2).map(|_| pipe_with(PipeFlags::CLOEXEC).unwrap()).collect();
    let (reading, writing): (Vec<_>, Vec<_>) = pipes.into_iter().unzip();
    let all = [Stream::Stderr, Stream::Stdin, Stream::Stdout];
    let ends: Vec<_> = writing.iter().map(AsFd::as_fd).collect();
    let (reply, mut descriptors) = client.call_for_descriptors(request("a", &all), &ends);
    assert_eq!(reply, Reply::Attached { input: AttachedInput::Pipe });
    drop(writing);
    File::from(descriptors.remove(0)).write_all(b"go\n").unwrap();
    assert_eq!(detached(&mut client, "a"), DetachReason::Ended);
    let read = |end: OwnedFd| {
        let mut text = String::new();
        File::from(end).read_to_string(&mut text).unwrap();
        text
    };
    assert_eq!(reading.into_iter().map(read).collect::<Vec<_>>(), ["err\n", "out\nlast\n"]);
}

#[test]
fn who_only_had_something_to_say_is_told_that_it_was_all() {
    let (rig, mut client) = Rig::new();
    rig.start(&mut client, &with_input("exec cat", Stdin::Open));
    let (reply, mut descriptors) = client.call_for_descriptors(request("only", &[Stream::Stdin]), &[]);
    assert_eq!(reply, Reply::Attached { input: AttachedInput::Pipe });
    File::from(descriptors.remove(0)).write_all(b"said\n").unwrap();
    detach(&mut client, "only", &[Stream::Stdin]);
    assert_eq!(detached(&mut client, "only"), DetachReason::Ended);
    until("it was heard", || (rig.log("c1") == ["stdout F said"]).then_some(()));
    kill(&mut client);
}

#[test]
fn who_does_not_read_is_cut_off_and_nobody_waits() {
    /// What the container writes at a time, in bytes, and how often: more than a pipe, what is kept, and again.
    const PIECE: usize = 1_000_000;
    const PIECES: usize = 12;
    let (rig, mut client) = Rig::new();
    let script = "while read go; do head -c 1000000 /dev/zero | tr '\\0' 'x'; done; echo; exit 3";
    rig.start(&mut client, &with_input(script, Stdin::Once));
    let slow = attach(&mut client, "slow", &[Stream::Stdout]);
    fcntl_setpipe_size(&slow.stdout, 1 << 20).unwrap();
    let mut quick = attach(&mut client, "quick", &BOTH);
    fcntl_setpipe_size(&quick.stdout, 1 << 20).unwrap();
    for _ in 0..PIECES {
        quick.say("go\n");
        quick.expect(&"x".repeat(PIECE));
    }
    assert_eq!(detached(&mut client, "slow"), DetachReason::TooSlow);
    let mut slow = slow;
    let mut rest = Vec::new();
    slow.stdout.read_to_end(&mut rest).unwrap();
    // A pipe has its size in pages, of which any two that follow each other hold more than one at least: it depends on how much the
    // container had written whenever it was read from.
    assert!(
        (1 << 19..=1 << 20).contains(&rest.len()),
        "what was in its pipe, with the end behind it: {}",
        rest.len()
    );
    quick.input = None;
    detach(&mut client, "quick", &[Stream::Stdin]);
    quick.expect("\n");
    quick.expect_end();
    assert_eq!(detached(&mut client, "quick"), DetachReason::Ended);
    assert_eq!(client.exit("c1").exit_code, 3);
    assert_eq!(rig::content(&rig.log("c1")).len(), PIECES * PIECE + 1);
}

#[test]
fn what_is_kept_comes_before_the_end() {
    let (rig, mut client) = Rig::new();
    let script = "read go; head -c 3000000 /dev/zero | tr '\\0' 'x'; exit 4";
    rig.start(&mut client, &with_input(script, Stdin::Open));
    let mut late = attach(&mut client, "late", &BOTH);
    late.say("go\n");
    assert_eq!(client.exit("c1").exit_code, 4);
    assert_eq!(client.call(Request::Forget { container: "c1".to_owned() }), Reply::Done);
    late.expect(&"x".repeat(3_000_000));
    late.expect_end();
    assert_eq!(detached(&mut client, "late"), DetachReason::Ended);
}

#[test]
fn the_end_of_the_pod_waits_for_who_is_behind_but_not_for_ever() {
    /// How long it may, at least.
    const FAREWELL: Duration = Duration::from_secs(1);
    const BYTES: usize = 1_000_000;
    let (rig, mut client) = Rig::new();
    let script = "read go; head -c 1000000 /dev/zero | tr '\\0' 'x'; exit 4";
    rig.start(&mut client, &with_input(script, Stdin::Open));
    let (mut late, mut lost) = (attach(&mut client, "late", &BOTH), attach(&mut client, "lost", &BOTH));
    late.say("go\n");
    assert_eq!(client.exit("c1").exit_code, 4);
    let asked = Instant::now();
    let end = client.send(Request::Shutdown, &[]);
    let mut read = Vec::new();
    late.stdout.read_to_end(&mut read).unwrap();
    let heard = detached(&mut client, "late");
    // A machine on which that takes longer is told the truth, too.
    let expected = if heard == DetachReason::Ended { BYTES..=BYTES } else { 1..=BYTES - 1 };
    assert!(expected.contains(&read.len()), "{heard:?} after {} bytes", read.len());
    assert!(heard == DetachReason::Ended || asked.elapsed() >= FAREWELL);
    assert_eq!(client.reply(end).0, Reply::Done);
    assert_eq!(detached(&mut client, "lost"), DetachReason::TooSlow);
    assert!(asked.elapsed() >= FAREWELL);
    read.clear();
    lost.stdout.read_to_end(&mut read).unwrap();
    assert!(!read.is_empty() && read.len() < BYTES, "what was in its pipe");
}

#[test]
fn a_connection_that_drops_leaves_container_and_log_alone() {
    let (rig, mut client) = Rig::new();
    rig.start(&mut client, &with_input("exec cat", Stdin::Open));
    let mut first = attach(&mut client, "a", &BOTH);
    first.say("one\n");
    first.expect("one\n");
    drop(client);
    first.expect_end();
    drop(first);
    let mut client = rig.connect();
    let mut second = attach(&mut client, "a", &BOTH);
    assert_eq!(second.kind, AttachedInput::Pipe, "the input is still there");
    second.say("two\n");
    second.expect("two\n");
    assert_eq!(rig.log("c1"), ["stdout F one", "stdout F two"]);
}

#[test]
fn input_outlives_clients_unless_it_is_for_one() {
    let (rig, mut client) = Rig::new();
    rig.start(&mut client, &with_input("exec cat", Stdin::Open));
    for name in ["one", "two", "three"] {
        let mut attached = attach(&mut client, name, &BOTH);
        attached.say("here\n");
        attached.expect("here\n");
        attached.input = None;
        detach(&mut client, name, &[Stream::Stdin]);
        detach(&mut client, name, &[]);
    }
    assert_eq!(rig.log("c1").len(), 3);
    kill(&mut client);
}

#[test]
fn the_input_for_one_ends_with_its_first_client() {
    /// How the first client goes.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Way {
        SaysSo,
        Detaches,
        DropsItsPipe,
        Dies,
    }
    for way in [Way::SaysSo, Way::Detaches, Way::DropsItsPipe, Way::Dies] {
        let (rig, mut client) = Rig::new();
        rig.start(&mut client, &with_input("cat; echo over; exec sleep 1000", Stdin::Once));
        // One who only looks on doesn't count.
        drop(attach(&mut client, "onlooker", &[Stream::Stdout]));
        detach(&mut client, "onlooker", &[]);
        let mut first = attach(&mut client, "first", &BOTH);
        first.say("one\n");
        first.expect("one\n");
        first.input = None;
        match way {
            Way::SaysSo => {
                detach(&mut client, "first", &[Stream::Stdin]);
                first.expect("over\n");
            }
            Way::Detaches => detach(&mut client, "first", &[]),
            // It may still have written: only its connection's word counts.
            Way::DropsItsPipe => {
                drop(first);
                assert_eq!(client.snapshot().containers.len(), 1);
                assert_eq!(rig.log("c1"), ["stdout F one"]);
                detach(&mut client, "first", &[]);
            }
            Way::Dies => {
                drop(client);
                client = rig.connect();
            }
        }
        until("its input has ended", || (rig.log("c1") == ["stdout F one", "stdout F over"]).then_some(()));
        assert_eq!(attach(&mut client, "late", &BOTH).kind, AttachedInput::None, "{way:?}");
    }
}

#[test]
fn a_terminal_is_typed_at_and_resized() {
    let (rig, mut client) = Rig::new();
    // A signal ends what waits for a line, unless it comes just before the shell does: it looks again each second.
    let script = "trap 'echo resized' WINCH; echo ready; until [ \"$line\" = end ]; do read -t 1 line && echo \"<$line>\" && stty size; done";
    let mut terminal = with_input(script, Stdin::Once);
    edit_process(&mut terminal.spec, |process| {
        process.set_terminal(Some(true));
    });
    rig.start(&mut client, &terminal);
    until("the shell hears of sizes", || (!rig.log("c1").is_empty()).then_some(()));
    for (name, columns) in [("one", 100), ("two", 101)] {
        let mut attached = attach(&mut client, name, &BOTH);
        assert_eq!(attached.kind, AttachedInput::Terminal);
        let size = Winsize { ws_row: 40, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(attached.input.as_ref().unwrap(), size).unwrap();
        attached.expect("resized\r\n");
        attached.say("a\n");
        attached.expect(&format!("a\r\n<a>\r\n40 {columns}\r\n"));
        detach(&mut client, name, &[]);
        attached.expect_end();
    }
    let mut last = attach(&mut client, "last", &BOTH);
    last.say("end\n");
    last.expect("end\r\n<end>\r\n40 101\r\n");
    assert_eq!(client.exit("c1").exit_code, 0);
    last.expect_end();
    assert_eq!(detached(&mut client, "last"), DetachReason::Ended);
}

#[test]
fn what_cannot_be_attached_is_refused() {
    let (rig, mut client) = Rig::new();
    let (_reading, writing) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let stdout = [Stream::Stdout];
    assert_eq!(client.call_with(request("a", &stdout), &[writing.as_fd()]), Reply::Gone);
    rig.start(&mut client, &container("c1", "exec sleep 1000"));
    let before = count(&rig, &mut client);
    assert_eq!(attach(&mut client, "a", &BOTH).kind, AttachedInput::None, "it reads nothing");
    let null = File::open("/dev/null").unwrap();
    for (name, streams, descriptors) in [
        ("b", &stdout[..], vec![]),
        ("b", &stdout, vec![null.as_fd()]),
        ("b", &[], vec![writing.as_fd()]),
        ("a", &stdout, vec![writing.as_fd()]),
    ] {
        let reply = client.call_with(request(name, streams), &descriptors);
        assert!(matches!(reply, Reply::Failed(_)), "{name} {streams:?}: {reply:?}");
    }
    detach(&mut client, "a", &[]);
    detach(&mut client, "unknown", &[]);
    until("the descriptors are as before", || (count(&rig, &mut client) == before).then_some(()));
    kill(&mut client);
    assert_eq!(client.call_with(request("c", &stdout), &[writing.as_fd()]), Reply::Gone);
}

#[test]
fn clients_that_vanish_leave_nothing() {
    let (rig, mut client) = Rig::new();
    rig.start(&mut client, &with_input("exec cat", Stdin::Open));
    let before = count(&rig, &mut client);
    for number in 0..100 {
        drop(attach(&mut client, &format!("a{number}"), &[Stream::Stdout]));
    }
    until("the descriptors are as before", || (count(&rig, &mut client) == before).then_some(()));
    assert!(!client.has_event(|event| matches!(event, Event::Detached { .. })), "nobody is there to be told");
}

/// What is a process's own, in KiB.
fn memory(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

#[test]
fn thousands_of_clients_come_and_go_and_nothing_stays() {
    const CYCLES: u32 = 10_000;
    /// In KiB. Half of the cycles would leave more of the least allocation (32 bytes); what is given back between two requests, when
    /// nobody asks for 50 ms, leaves some 80 more or less.
    const GROWTH: u64 = 128;
    let (rig, mut client) = Rig::new();
    let script = "while read size; do head -c $size /dev/zero | tr '\\0' 'x'; done";
    rig.start(&mut client, &with_input(script, Stdin::Open));
    let mut writer = attach(&mut client, "writer", &BOTH);
    let cycle = |client: &mut Client, writer: &mut Attached, number: u32| {
        let name = format!("a{number}");
        let attached = attach(client, &name, &BOTH);
        match number % 100 {
            // One that is behind when it goes: there is more than its pipe holds.
            0 => {
                writer.say("1000000\n");
                writer.expect(&"x".repeat(1_000_000));
                detach(client, &name, &[]);
            }
            1..50 => detach(client, &name, &[]),
            _ => {
                drop(attached);
                detach(client, &name, &[Stream::Stdin]);
            }
        }
    };
    (0..200).for_each(|number| cycle(&mut client, &mut writer, number));
    let used = |client: &mut Client| (count(&rig, client), memory(rig.pid()));
    let before = used(&mut client);
    (0..CYCLES).for_each(|number| cycle(&mut client, &mut writer, number));
    let mut after = (0, 0);
    until("descriptors and memory are as before", || {
        let now = used(&mut client);
        if now != after {
            eprintln!("{before:?} became {now:?}");
        }
        after = now;
        // What the last one held may have been open still when it was counted before.
        (after.0 <= before.0 && after.1 <= before.1 + GROWTH).then_some(())
    });
    eprintln!(
        "{CYCLES} attach cycles: descriptors {} then {}, memory {} KiB then {} KiB",
        before.0, after.0, before.1, after.1
    );
}
