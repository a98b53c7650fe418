//! A stand-in for the bus and systemd behind it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::Manager;
use crate::message::{self, PREAMBLE, Writer, testing};

const INTERFACE: &str = "org.freedesktop.systemd1.Manager";

/// What the stand-in for bus and systemd does with a call.
#[derive(Clone, Copy)]
pub(super) enum Does {
    /// Answers without values.
    Nothing,
    /// Answers with a job, and ends that with a result before it answers.
    Job(&'static str),
    /// Answers with an error of this name.
    Refuses(&'static str),
    /// Answers with a list of two units.
    Lists,
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
        let mut bytes = preamble.to_vec();
        let mut rest = vec![0; message::rest(&preamble).unwrap()];
        stream.read_exact(&mut rest).await.unwrap();
        bytes.extend(rest);
        let (serial, member) = testing::call(&bytes);
        heard.lock().unwrap().push(member.clone());
        let does = {
            let mut script = script.lock().unwrap();
            let is_next = script.front().is_some_and(|(awaited, _)| *awaited == member);
            is_next.then(|| script.pop_front()).flatten().map_or(Does::Nothing, |(_, does)| does)
        };
        let mut body = Writer::default();
        let answer = match does {
            Does::Nothing => testing::reply(serial, "", &[]),
            Does::Hangs => continue,
            Does::HangsUp => return,
            Does::Refuses(name) => {
                body.string("so it is");
                testing::error(serial, name, &body.into_bytes())
            }
            Does::Job(result) => {
                // Jobs of others, and of this unit, end all the time.
                for (job, unit, result) in
                    [("/j/1", "x.scope", "failed"), ("/j/2", "y.scope", "done"), ("/j/7", "x.scope", result)]
                {
                    let mut signal = Writer::default();
                    signal.uint32(7);
                    [job, unit, result].into_iter().for_each(|text| signal.string(text));
                    let signal = testing::signal(INTERFACE, "JobRemoved", "uoss", &signal.into_bytes());
                    stream.write_all(&signal).await.unwrap();
                }
                body.string("/j/7");
                testing::reply(serial, "o", &body.into_bytes())
            }
            Does::Lists => {
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
                testing::reply(serial, "a(ssssssouso)", &body.into_bytes())
            }
        };
        stream.write_all(&answer).await.unwrap();
    }
}
