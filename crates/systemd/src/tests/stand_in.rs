//! A stand-in for the bus and systemd behind it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::sent::{Received, Sent};
use crate::Manager;
use crate::incoming::{BUS, MANAGER};
use crate::message::{self, LONGEST, PREAMBLE, Writer};

/// systemd's name on this bus, and a stranger's.
pub(super) const SYSTEMD: &str = ":1.1";
const STRANGER: &str = ":1.66";

/// What the stand-in for bus and systemd does with a call.
#[derive(Clone, Copy)]
pub(super) enum Does {
    /// Answers without values; with a name when that is asked for.
    Nothing,
    /// Answers with a job, and ends that with a result before it answers.
    Job(&'static str),
    /// Answers with a job of this path, which doesn't end by itself.
    JobWithoutEnd(&'static str),
    /// As [`Does::Job`], after strangers have sent what they can think of.
    JobAmongStrangers(&'static str),
    /// Answers with an error of this name.
    Refuses(&'static str),
    /// As the bus does for whom it doesn't let through.
    BusRefuses(&'static str),
    /// Answers with a list of two units.
    Lists,
    /// Answers with a list that is longer than what is kept.
    ListsTooLong,
    /// systemd is another process from now on.
    NewOwner,
    /// Never answers.
    Hangs,
    /// Hangs up.
    HangsUp,
}

pub(super) struct Bus {
    _directory: tempfile::TempDir,
    pub(super) manager: Manager,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Bus {
    pub(super) fn new(deadline: Duration, script: &[(&'static str, Does)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bus");
        let listener = UnixListener::bind(&path).unwrap();
        let script = Arc::new(Mutex::new(script.iter().copied().collect::<VecDeque<_>>()));
        let calls = Arc::new(Mutex::new(Vec::new()));
        let heard = calls.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, script.clone(), heard.clone()));
            }
        });
        let manager = Manager::at(format!("unix:path={}", path.display()), deadline);
        Self { _directory: directory, manager, calls }
    }

    pub(super) fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    /// Waits until a method is called.
    pub(super) async fn heard(&self, method: &str) {
        while self.times(method) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// How often a method was called.
    pub(super) fn times(&self, method: &str) -> usize {
        self.calls().iter().filter(|call| *call == method).count()
    }
}

type Script = Arc<Mutex<VecDeque<(&'static str, Does)>>>;

async fn serve(mut stream: UnixStream, script: Script, heard: Arc<Mutex<Vec<String>>>) {
    let mut talk = [0; 16];
    stream.read_exact(&mut talk).await.unwrap();
    assert_eq!(&talk, b"\0AUTH EXTERNAL\r\n");
    stream.write_all(b"DATA\r\n").await.unwrap();
    stream.read_exact(&mut talk[..6]).await.unwrap();
    stream.write_all(b"OK 0123\r\n").await.unwrap();
    stream.read_exact(&mut talk[..7]).await.unwrap();
    assert_eq!(&talk[..7], b"BEGIN\r\n");
    let mut preamble = [0; PREAMBLE];
    while stream.read_exact(&mut preamble).await.is_ok() {
        let lengths = message::lengths(&preamble).unwrap();
        let mut bytes = preamble.to_vec();
        bytes.resize(PREAMBLE + lengths.header + lengths.body, 0);
        stream.read_exact(&mut bytes[PREAMBLE..]).await.unwrap();
        let call = Received::read(&bytes);
        heard.lock().unwrap().push(call.member.clone());
        let does = {
            let mut script = script.lock().unwrap();
            let is_next = script.front().is_some_and(|(awaited, _)| *awaited == call.member);
            is_next.then(|| script.pop_front()).flatten().map_or(Does::Nothing, |(_, does)| does)
        };
        match does {
            Does::Hangs => {}
            Does::HangsUp => return,
            does => {
                for message in answers(&call, does) {
                    // Whoever has given up reads nothing.
                    let _gone = stream.write_all(&message).await;
                }
            }
        }
    }
}

/// What is sent for a call, the answer last.
fn answers(call: &Received, does: Does) -> Vec<Vec<u8>> {
    let is_bus = ["Hello", "AddMatch", "GetNameOwner"].contains(&call.member.as_str());
    let whom = if is_bus || matches!(does, Does::BusRefuses(_)) { BUS } else { SYSTEMD };
    let mut messages = Vec::new();
    let mut body = Writer::default();
    let answer = match does {
        Does::Refuses(name) | Does::BusRefuses(name) => {
            body.string("so it is");
            Sent::error(call.serial, name).with("s", &body.into_bytes())
        }
        Does::Job(result) | Does::JobAmongStrangers(result) => {
            if matches!(does, Does::JobAmongStrangers(_)) {
                messages.extend(strangers(call.serial));
            }
            // Jobs of others, and of this unit, end all the time.
            let ends =
                [("/j/1", "x.scope", "failed"), ("/j/2", "y.scope", "done"), ("/j/7", "x.scope", result)];
            messages.extend(ends.map(|end| job_removed(end).from(SYSTEMD).encode()));
            body.string("/j/7");
            Sent::reply(call.serial).with("o", &body.into_bytes())
        }
        Does::JobWithoutEnd(job) => {
            body.string(job);
            Sent::reply(call.serial).with("o", &body.into_bytes())
        }
        Does::Lists => Sent::reply(call.serial).with("a(ssssssouso)", &two_units()),
        Does::ListsTooLong => Sent::reply(call.serial).with("a(ssssssouso)", &vec![0; LONGEST + 1]),
        Does::NewOwner => {
            ["org.freedesktop.systemd1", SYSTEMD, ":1.2"].into_iter().for_each(|text| body.string(text));
            Sent::signal(BUS, "NameOwnerChanged").with("sss", &body.into_bytes())
        }
        Does::Nothing if call.member == "GetNameOwner" => {
            body.string(SYSTEMD);
            Sent::reply(call.serial).with("s", &body.into_bytes())
        }
        Does::Nothing | Does::Hangs | Does::HangsUp => Sent::reply(call.serial),
    };
    let whom = if matches!(does, Does::NewOwner) { BUS } else { whom };
    messages.push(answer.from(whom).encode());
    messages
}

/// What a stranger can send: ends of jobs and answers as if they were systemd's, and what breaks a reader that takes every
/// message for one of whom it has asked.
fn strangers(serial: u32) -> Vec<Vec<u8>> {
    let forged = job_removed(("/j/7", "x.scope", "done"));
    let mut job = Writer::default();
    job.string("/j/66");
    let mut owner = Writer::default();
    ["org.freedesktop.systemd1", SYSTEMD, ""].into_iter().for_each(|text| owner.string(text));
    vec![
        forged.from(STRANGER).encode(),
        job_removed(("/j/7", "x.scope", "done")).encode(),
        Sent::signal("a.b", "C").from(STRANGER).encode_big_endian(),
        Sent::signal("a.b", "C").from(STRANGER).with("ay", &too_long()).encode(),
        job_removed(("/j/7", "x.scope", "done")).from(STRANGER).from(SYSTEMD).encode(),
        Sent::signal("a.b", &"C".repeat(20_000)).from(STRANGER).encode(),
        Sent::signal(BUS, "NameOwnerChanged").from(STRANGER).with("sss", &owner.into_bytes()).encode(),
        Sent::reply(serial).from(STRANGER).with("o", &job.into_bytes()).encode(),
        Sent::error(serial, "a.E").from(STRANGER).encode(),
    ]
}

/// An array of bytes that is longer than what is kept.
pub(super) fn too_long() -> Vec<u8> {
    let mut bytes = vec![0; LONGEST + 4];
    bytes[..4].copy_from_slice(&u32::try_from(LONGEST).unwrap().to_le_bytes());
    bytes
}

/// The end of a job: path, unit, result.
pub(super) fn job_removed((job, unit, result): (&str, &str, &str)) -> Sent {
    let mut body = Writer::default();
    body.uint32(7);
    [job, unit, result].into_iter().for_each(|text| body.string(text));
    Sent::signal(MANAGER, "JobRemoved").with("uoss", &body.into_bytes())
}

fn two_units() -> Vec<u8> {
    let mut body = Writer::default();
    body.array(8, |units| {
        for name in ["a.scope", "b.scope"] {
            units.align(8);
            [name, "of us", "loaded", "active", "running", "", "/u"]
                .into_iter()
                .for_each(|text| units.string(text));
            units.uint32(0);
            ["", "/"].into_iter().for_each(|text| units.string(text));
        }
    });
    body.into_bytes()
}
