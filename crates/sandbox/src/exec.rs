//! Running a command in a container and collecting what it prints.
//!
//! The bytes go from the command's pipes to the caller, past the pod's actor. What is bounded: the output that is kept (the rest is read
//! and dropped, so the command is not stopped by a full pipe), the time of the command, and the time that output may still flow when it has ended:
//! a child that it left behind with the pipes open holds nobody up (CVE-2026-53495).

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use runtime::plan::ProcessPlan;

use crate::container::status::ContainerPhase;
use crate::error::{Error, Kind};
use crate::registry::{ContainerEntry, PodEntry};
use crate::shared::Shared;
use crate::supervisor::client::Client;

/// The most that is kept of both streams together. kubelet reads no message above 16 MiB (its cri-client's `maxMsgSize`), and
/// an answer that it can't read would turn a command that went well into an error; a little is left for the rest of the message.
pub const OUTPUT_LIMIT: usize = (16 << 20) - (4 << 10);

/// A command to run in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecRequest {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// After this time it is killed; `None` for no limit.
    pub timeout: Option<Duration>,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Exit status, or 128 and the number of the signal.
    pub exit_code: i32,
    /// Standard output; with standard error at most [`OUTPUT_LIMIT`] bytes of it.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

/// The connection to the supervisor of a container that runs.
///
/// # Errors
/// [`Error::WrongState`] when it doesn't.
pub(crate) fn running(
    container: &ContainerEntry,
    pod: &PodEntry,
    wish: &'static str,
) -> Result<Client, Error> {
    let state = match &container.status.phase {
        ContainerPhase::Running { .. } => "without a supervisor",
        ContainerPhase::Created => "created",
        ContainerPhase::Exited(_) => "exited",
    };
    match (&container.status.phase, &pod.client) {
        (ContainerPhase::Running { .. }, Some(client)) => Ok(client.clone()),
        _ => {
            Err(Error::WrongState { kind: Kind::Container, id: container.status.id.to_string(), state, wish })
        }
    }
}

/// Runs a command. Safe to cancel: the command is killed when the answer is dropped.
///
/// The request's time-out is one for the whole: the start, the command, and the output that still flows when it has ended.
pub(crate) async fn sync(
    shared: &Shared,
    (container, pod): (&ContainerEntry, &PodEntry),
    request: ExecRequest,
) -> Result<ExecOutput, Error> {
    let client = running(container, pod, "have a command run in it")?;
    let Some(first) = &container.process else {
        return Err(Error::WrongState {
            kind: Kind::Container,
            id: container.status.id.to_string(),
            state: "without its plan, which cannot be read",
            wish: "have a command run in it",
        });
    };
    let process = process(first, &request.command)?;
    let (stdout, stdout_end) = pipe()?;
    let (stderr, stderr_end) = pipe()?;
    let limit = Limit::of(&request);
    let start = shared.config.deadlines.start.min(request.timeout.unwrap_or(Duration::MAX));
    // A start that is given up is killed by the drop, or by the supervisor, which has the same deadline.
    let starting = client.exec(&container.status.id, process, (stdout_end, stderr_end), start);
    let started = limit.on(starting).await.unwrap_or_else(|| Err(limit.passed()));
    let mut exec = started.map_err(|error| match error {
        Error::Exec { container, cause } => Error::exec(container, cause),
        other => other,
    })?;
    let room = Room::default();
    let (stdout, stderr) = (Collector::new(stdout, &room), Collector::new(stderr, &room));
    let Some(exit_code) = limit.on(exec.exited()).await else {
        // Whoever hears that it was too late finds it gone; one that hangs in the kernel is not waited for.
        let _hangs = tokio::time::timeout(KILL_PATIENCE, exec.kill()).await;
        return Err(limit.passed());
    };
    let exit_code = exit_code?;
    // A command that ended in time is answered in time, with what has come by then.
    let drained = limit.cut(Instant::now() + shared.config.deadlines.exec_drain);
    let (stdout, stderr) = tokio::join!(stdout.finish(drained), stderr.finish(drained));
    Ok(ExecOutput { exit_code, stdout, stderr })
}

/// How long the answer that a command took too long waits for its end.
const KILL_PATIENCE: Duration = Duration::from_secs(1);

/// The time of a request, from when it came.
struct Limit {
    command: String,
    /// How long, and until when; `None` for as long as it takes.
    time: Option<(Duration, Instant)>,
}

impl Limit {
    fn of(request: &ExecRequest) -> Self {
        let until = |after: Duration| Some((after, Instant::now().checked_add(after)?));
        Self { command: request.command.join(" "), time: request.timeout.and_then(until) }
    }

    /// What comes of the work; `None` when the time is over first.
    async fn on<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        match self.time {
            None => Some(work.await),
            Some((_, by)) => tokio::time::timeout_at(by, work).await.ok(),
        }
    }

    fn cut(&self, by: Instant) -> Instant {
        self.time.map_or(by, |(_, limit)| limit.min(by))
    }

    fn passed(&self) -> Error {
        let after = self.time.map_or(Duration::ZERO, |(after, _)| after);
        Error::Deadline { step: "the command", subject: self.command.clone(), after }
    }
}

/// The process that joins: like the container's first one, seccomp filter included, but for the command; it has no terminal.
fn process(first: &ProcessPlan, command: &[String]) -> Result<ProcessPlan, Error> {
    match command.first() {
        Some(program) if !program.is_empty() && !command.iter().any(|word| word.contains('\0')) => {}
        _ => return Err(Error::refused("cmd", "names no command, or has a zero byte in it")),
    }
    Ok(ProcessPlan { args: command.to_vec(), terminal: None, ..first.clone() })
}

fn pipe() -> Result<(Receiver, OwnedFd), Error> {
    let failed = |cause: std::io::Error| Error::step("creating a pipe", "exec", cause);
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
    rustix::io::ioctl_fionbio(&read, true).map_err(|errno| failed(errno.into()))?;
    Ok((Receiver::from_owned_fd(read).map_err(failed)?, write))
}

/// What may still be kept of a command's output.
#[derive(Debug, Clone)]
struct Room(Arc<AtomicUsize>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(AtomicUsize::new(OUTPUT_LIMIT)))
    }
}

impl Room {
    /// How much of this many bytes can be kept.
    fn take(&self, count: usize) -> usize {
        let take = |room: usize| Some(room - room.min(count));
        // Never refused: there is always a new value.
        let room = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).unwrap_or(0);
        room.min(count)
    }
}

/// Reads a stream while the command runs.
struct Collector(JoinHandle<Vec<u8>>, watch::Sender<Option<Instant>>);

impl Collector {
    fn new(stream: impl AsyncRead + Unpin + Send + 'static, room: &Room) -> Self {
        let (sender, deadline) = watch::channel(None);
        Self(tokio::spawn(collect(stream, deadline, room.clone())), sender)
    }

    /// What was read when the stream ended, or at that time.
    async fn finish(mut self, by: Instant) -> Vec<u8> {
        self.1.send_replace(Some(by));
        (&mut self.0).await.unwrap_or_default()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn collect(
    mut stream: impl AsyncRead + Unpin,
    mut deadline: watch::Receiver<Option<Instant>>,
    room: Room,
) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = vec![0_u8; 16 << 10];
    loop {
        tokio::select! {
            biased;
            count = stream.read(&mut buffer) => match count {
                Ok(0) | Err(_) => return kept,
                Ok(count) => {
                    kept.extend_from_slice(&buffer[..room.take(count)]);
                    // While there is always something to read, the other branch never gets a turn.
                    if deadline.borrow().is_some_and(|by| by <= Instant::now()) {
                        return kept;
                    }
                }
            },
            () = passed(&mut deadline) => return kept,
        }
    }
}

/// Waits until there is a deadline, and then for it.
async fn passed(deadline: &mut watch::Receiver<Option<Instant>>) {
    let by = match deadline.wait_for(Option::is_some).await {
        Ok(by) => *by,
        Err(_) => None,
    };
    if let Some(by) = by {
        tokio::time::sleep_until(by).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_writer_that_never_stops_is_not_read_for_ever() {
        let collector = Collector::new(tokio::io::repeat(b'y'), &Room::default());
        let by = Instant::now() + Duration::from_millis(100);
        let read = tokio::time::timeout(Duration::from_secs(10), collector.finish(by)).await;
        let read = read.expect("an end");
        assert!(!read.is_empty() && read.len() <= OUTPUT_LIMIT);
    }

    #[test]
    fn what_is_left_of_the_time_bounds_the_drain() {
        let by = Instant::now() + Duration::from_secs(60);
        let limit = |timeout| Limit::of(&ExecRequest { command: vec![], timeout });
        assert!(limit(Some(Duration::from_secs(1))).cut(by) < by);
        assert_eq!(limit(Some(Duration::from_secs(600))).cut(by), by);
        assert_eq!(limit(None).cut(by), by);
        assert_eq!(limit(Some(Duration::MAX)).cut(by), by, "longer than clocks go");
    }
}
