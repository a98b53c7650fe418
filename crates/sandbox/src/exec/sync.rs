//! Running a command and collecting what it prints.
//!
//! What is bounded: the output that is kept (the rest is read and dropped, so the command is not stopped by a full pipe), that of all
//! commands together (who prints more than there is room for fails), the time of the command, and the time that output may still flow when it has ended: a child that it left behind with the pipes open holds nobody up
//! (CVE-2026-53495). A command whose time is over is killed with its process group, its session, and every process that descends from
//! it then; only what has left all of these before, a daemon, stays, as the container's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use runtime::wire::{Scope, Stream};
use runtime::{FailedStep, Failure};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{ExecOutput, ExecRequest, OUTPUT_LIMIT, OUTPUT_OF_ALL, begin, running};
use crate::error::Error;
use crate::registry::{ContainerEntry, PodEntry};
use crate::shared::Shared;
use crate::streams::{Pipe, failed, read_pipe};
use crate::supervisor::client::ExecStart;

/// Runs a command. Safe to cancel: the command is killed when the answer is dropped.
///
/// The request's time-out is one for the whole: the start, the command, and the output that still flows when it has ended.
pub(crate) async fn collected(
    shared: &Shared,
    (container, pod): (&ContainerEntry, &PodEntry),
    request: ExecRequest,
) -> Result<ExecOutput, Error> {
    let client = running(container, pod, "have a command run in it")?;
    let process = super::process(container, &request.command)?;
    let failed = failed(&container.status.id);
    let (stdout, stdout_end) = read_pipe(Pipe::Ordinary).map_err(&failed)?;
    let (stderr, stderr_end) = read_pipe(Pipe::Ordinary).map_err(&failed)?;
    let streams = vec![(Stream::Stdout, stdout_end), (Stream::Stderr, stderr_end)];
    let limit = Limit::of(&request);
    let longest = shared.config.deadlines.start;
    let after = longest.min(request.timeout.unwrap_or(Duration::MAX));
    let start = ExecStart { container: &container.status.id, process, streams, after, reach: Scope::All };
    // A start that is given up is killed by the drop, or by the supervisor, which has the same deadline.
    let started = limit.on(begin(&client, start)).await.unwrap_or_else(|| Err(limit.passed()));
    let late = |error| if limit.is_why(&error, longest) { limit.passed() } else { error };
    let mut exec = started.map_err(late)?.exec;
    let room = Arc::new(Room::new(&shared.exec_output));
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
    if room.is_exceeded.load(Ordering::Relaxed) {
        return Err(Error::Exhausted { what: OUTPUT_OF_ALL, subject: limit.command, cause: None });
    }
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

    /// Whether it is why a start was given up that could have taken as long as `start`: the supervisor may notice first.
    fn is_why(&self, error: &Error, start: Duration) -> bool {
        let Error::Exec { cause, .. } = error else { return false };
        let failure = cause.downcast_ref::<Failure>();
        failure.is_some_and(|failure| failure.step == FailedStep::Deadline)
            && self.time.is_some_and(|(after, _)| after <= start)
    }

    fn passed(&self) -> Error {
        let after = self.time.map_or(Duration::ZERO, |(after, _)| after);
        Error::Deadline { step: "the command", subject: self.command.clone(), after }
    }
}

/// What may still be kept of a command's output.
#[derive(Debug)]
struct Room {
    /// Of its own.
    own: AtomicUsize,
    /// Of all commands; what was taken comes back when this is dropped.
    of_all: Arc<AtomicUsize>,
    /// Not even its own was left of that.
    is_exceeded: AtomicBool,
}

impl Room {
    fn new(of_all: &Arc<AtomicUsize>) -> Self {
        Self {
            own: AtomicUsize::new(OUTPUT_LIMIT),
            of_all: Arc::clone(of_all),
            is_exceeded: AtomicBool::new(false),
        }
    }

    /// How much of this many bytes can be kept.
    fn take(&self, count: usize) -> usize {
        let wanted = take(&self.own, count);
        let had = take(&self.of_all, wanted);
        if had < wanted {
            self.own.fetch_add(wanted - had, Ordering::Relaxed);
            self.is_exceeded.store(true, Ordering::Relaxed);
        }
        had
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let taken = OUTPUT_LIMIT - self.own.load(Ordering::Relaxed);
        self.of_all.fetch_add(taken, Ordering::Relaxed);
    }
}

fn take(room: &AtomicUsize, count: usize) -> usize {
    let less = |room: usize| Some(room - room.min(count));
    // Never refused: there is always a new value.
    room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).unwrap_or(0).min(count)
}

/// Reads a stream while the command runs.
struct Collector(JoinHandle<Vec<u8>>, watch::Sender<Option<Instant>>);

impl Collector {
    fn new(stream: impl AsyncRead + Unpin + Send + 'static, room: &Arc<Room>) -> Self {
        let (sender, deadline) = watch::channel(None);
        Self(tokio::spawn(collect(stream, deadline, Arc::clone(room))), sender)
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
    room: Arc<Room>,
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

    fn room(of_all: usize) -> Arc<Room> {
        Arc::new(Room::new(&Arc::new(AtomicUsize::new(of_all))))
    }

    #[test]
    fn one_command_has_what_others_leave_and_gives_it_back() {
        let of_all = Arc::new(AtomicUsize::new(OUTPUT_LIMIT + 100));
        let (one, other) = (Room::new(&of_all), Room::new(&of_all));
        assert_eq!(one.take(usize::MAX), OUTPUT_LIMIT);
        assert!(!one.is_exceeded.load(Ordering::Relaxed), "it met its own bound");
        assert_eq!((other.take(60), other.take(60)), (60, 40));
        assert!(other.is_exceeded.load(Ordering::Relaxed));
        drop((one, other));
        assert_eq!(of_all.load(Ordering::Relaxed), OUTPUT_LIMIT + 100);
    }

    #[tokio::test]
    async fn a_writer_that_never_stops_is_not_read_for_ever() {
        let collector = Collector::new(tokio::io::repeat(b'y'), &room(usize::MAX / 2));
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
