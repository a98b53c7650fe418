//! Daemons and supervisors of different releases: a daemon that finds supervisors of the first release.
//!
//! There is no earlier program to run, so one is played: what goes between the daemon and a supervisor goes through here, and what the
//! first release didn't have is answered or left out as it would. The bytes themselves are `runtime/tests/wire.rs`'s; the other way
//! round, an earlier daemon, is `runtime/tests/supervisor/session.rs`'s.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use runtime::container::Until;
use runtime::wire::{Event, Listener, Message, PodCreated, Received, Reply, Request, Socket, WireError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sandbox::{ContainerPhase, ExecRequest, PodId, PodPhase, StreamChoice};

use crate::world::{World, shell};

/// The supervisor of a pod, as the first release had it.
struct FirstRelease {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    seen: Arc<Mutex<Seen>>,
}

/// What the daemon has asked for.
#[derive(Debug, Default, Clone)]
struct Seen {
    /// Requests that were passed on, by their names.
    passed: Vec<String>,
    /// What of others was not known.
    refused: Vec<&'static str>,
}

impl FirstRelease {
    /// Takes the place of a pod's supervisor while no daemon is connected.
    fn before(directory: PathBuf) -> Self {
        std::fs::rename(directory.join("supervisor.sock"), directory.join("newer.sock")).unwrap();
        let listener = Listener::bind(&directory, "supervisor.sock").unwrap();
        let (ends, seen) = (Arc::<AtomicBool>::default(), Arc::default());
        let thread = std::thread::spawn({
            let (ends, seen) = (ends.clone(), Arc::clone(&seen));
            move || serve(&directory, &listener, (&ends, &seen))
        });
        Self { ends, thread: Some(thread), seen }
    }

    fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for FirstRelease {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        let _panicked = self.thread.take().map(JoinHandle::join);
    }
}

fn serve(directory: &Path, listener: &Listener, (ends, seen): (&AtomicBool, &Mutex<Seen>)) {
    while !ends.load(Ordering::SeqCst) {
        wait(&[listener.as_fd()]);
        let Ok(Some(daemon)) = listener.accept() else { continue };
        let Ok(supervisor) = Socket::connect(directory, "newer.sock") else { return };
        while !ends.load(Ordering::SeqCst) {
            wait(&[daemon.as_fd(), supervisor.as_fd()]);
            if pass(&daemon, (&daemon, &supervisor), seen).is_none()
                || pass(&supervisor, (&daemon, &supervisor), seen).is_none()
            {
                break;
            }
        }
    }
}

fn wait(sources: &[std::os::fd::BorrowedFd<'_>]) {
    let mut polled: Vec<_> = sources.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    let _ = poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 50_000_000 }));
}

/// Passes on all that has come from one side; `None` when a side has gone.
fn pass(from: &Socket, (daemon, supervisor): (&Socket, &Socket), seen: &Mutex<Seen>) -> Option<()> {
    loop {
        let (sequence, message, descriptors) = match from.receive() {
            Ok(Received::Message { sequence, message, descriptors, .. }) => (sequence, *message, descriptors),
            Ok(Received::Pending) => return Some(()),
            _ => return None,
        };
        match message {
            Message::Request(request) => match newer_part(&request) {
                None => {
                    seen.lock().unwrap().passed.push(name(&request));
                    send(supervisor, sequence, &Message::Request(request), &descriptors)?;
                }
                Some(part) => {
                    seen.lock().unwrap().refused.push(part);
                    let why = format!("unknown field or variant `{part}`");
                    send(daemon, sequence, &Message::Reply(Reply::Unknown { why }), &[])?;
                }
            },
            Message::Reply(reply) => {
                send(daemon, sequence, &Message::Reply(without_newer_fields(reply)), &descriptors)?
            }
            Message::Event(Event::Detached { .. } | Event::LogLost { .. }) => {}
            Message::Event(event) => send(daemon, sequence, &Message::Event(event), &descriptors)?,
        }
    }
}

fn send(to: &Socket, sequence: u64, message: &Message, descriptors: &[OwnedFd]) -> Option<()> {
    let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    loop {
        match to.send(sequence, message, &borrowed) {
            Ok(()) => return Some(()),
            Err(WireError::Full) => std::thread::yield_now(),
            Err(_) => return None,
        }
    }
}

/// What a request is called on the wire.
fn name(request: &Request) -> String {
    let body = Message::Request(request.clone()).encode().unwrap();
    let body = String::from_utf8(body).unwrap();
    body.split('"').nth(1).unwrap().to_owned()
}

/// What of a request the first release doesn't know: the lines of `wire-1.txt` that came later.
fn newer_part(request: &Request) -> Option<&'static str> {
    match request {
        Request::Attach { .. } => Some("attach"),
        Request::Detach { .. } => Some("detach"),
        Request::Execute { .. } => Some("execute"),
        Request::CreatePod(plan) if plan.user.is_some() => Some("user"),
        Request::Start(start) if start.log_limits.is_some() => Some("log_limits"),
        Request::Start(start) if start.log_copy.is_some() => Some("log_copy"),
        Request::Start(start) if start.external.is_some() => Some("external"),
        Request::Start(start) if start.until != Until::Executed => Some("until"),
        Request::Start(start) if !start.streams.is_empty() => Some("streams"),
        _ => None,
    }
}

fn without_newer_fields(reply: Reply) -> Reply {
    let first =
        |pod: PodCreated| PodCreated { network: pod.network, init: pod.init, ..PodCreated::default() };
    match reply {
        Reply::PodCreated(pod) => Reply::PodCreated(first(pod)),
        Reply::Snapshot(mut snapshot) => {
            snapshot.pod = snapshot.pod.map(first);
            Reply::Snapshot(snapshot)
        }
        other => other,
    }
}

fn directory(world: &World, pod: &PodId) -> PathBuf {
    world.directory.path().join("state/pods").join(pod.as_str())
}

fn echo() -> ExecRequest {
    ExecRequest { command: ["/bin/echo", "here"].map(str::to_owned).to_vec(), timeout: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_of_the_first_release_is_taken_over_and_served_to_its_end() {
    let mut world = World::new().await;
    let pod = world.pod("old").await;
    let runs = world.started(&pod, "exec sleep 1000").await;
    let waits =
        world.pods().create_container(pod.as_str(), shell("waits", "echo last; exit 7")).await.unwrap();
    world.kill_daemon();
    let old = FirstRelease::before(directory(&world, &pod));
    world.open().await;

    let pods = world.pods();
    assert_eq!(old.seen().passed, ["hello", "snapshot"], "two round trips a pod, whatever is in it");
    assert_eq!(pods.pod(pod.as_str()).unwrap().phase, PodPhase::Ready);
    assert!(matches!(world.phase(&runs), ContainerPhase::Running { .. }), "{:?}", world.phase(&runs));
    assert_eq!(pods.exec_sync(runs.as_str(), echo()).await.unwrap().stdout, b"here\n");
    pods.start_container(waits.as_str()).await.expect("what was created before");
    assert_eq!(world.exit(&waits).await.exit_code, 7);
    assert!(world.log("old", "waits").contains("last"));
    assert!(old.seen().refused.is_empty(), "what it can do is asked for in its words: {:?}", old.seen());

    // What it can't is refused in words, and breaks nothing.
    let choice = StreamChoice { stdout: true, ..StreamChoice::default() };
    let refused = pods.attach(runs.as_str(), choice).await.unwrap_err();
    let refused = sandbox::error::chain(&refused);
    assert!(refused.contains("does not understand the request") && refused.contains("attach"), "{refused}");
    assert!(old.seen().refused.contains(&"attach"), "{:?}", old.seen());
    assert_eq!(pods.exec_sync(runs.as_str(), echo()).await.unwrap().stdout, b"here\n");

    // A new pod has a new supervisor, which can.
    let new = world.pod("new").await;
    let attached = world.started(&new, "exec sleep 1000").await;
    pods.attach(attached.as_str(), choice).await.expect("attached");
    pods.stop_container(runs.as_str(), std::time::Duration::from_secs(5)).await.unwrap();
    assert_eq!(world.exit(&runs).await.exit_code, 143);
    pods.stop(pod.as_str()).await.unwrap();
    drop(old);
    world.end().await;
}
