//! Running a command in a container and collecting what it prints.
//!
//! The bytes go from the command's pipes to the caller, past the pod's actor. What is bounded: the output that is kept (the rest is read
//! and dropped, so the command is not stopped by a full pipe), the time of the command, and the time that output may still flow when it has ended:
//! a child that it left behind with the pipes open holds nobody up (CVE-2026-53495).

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::task::JoinHandle;

use runtime::plan::ProcessPlan;

use crate::container::config::ContainerConfig;
use crate::container::status::ContainerPhase;
use crate::error::{Error, Kind};
use crate::registry::{ContainerEntry, PodEntry};
use crate::shared::Shared;
use crate::spec;
use crate::supervisor::client::{Client, Exec};

/// The most of each stream that is kept (the limit that CRI clients know from other runtimes).
pub const OUTPUT_LIMIT: usize = 16 << 20;

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
    /// Standard output, at most [`OUTPUT_LIMIT`] bytes of it.
    pub stdout: Vec<u8>,
    /// Standard error, likewise.
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
pub(crate) async fn sync(
    shared: &Shared,
    (container, pod): (&ContainerEntry, &PodEntry),
    request: ExecRequest,
) -> Result<ExecOutput, Error> {
    let client = running(container, pod, "have a command run in it")?;
    let process = process(&container.process, &container.status.config, &request.command)?;
    let (stdout, stdout_end) = pipe()?;
    let (stderr, stderr_end) = pipe()?;
    let start = shared.config.deadlines.start;
    let mut exec = client.exec(&container.status.id, process, (stdout_end, stderr_end), start).await?;
    let stdout = Collector::new(stdout);
    let stderr = Collector::new(stderr);
    let exit_code = match request.timeout {
        None => exec.exited().await?,
        Some(after) => match tokio::time::timeout(after, exec.exited()).await {
            Ok(exited) => exited?,
            Err(_) => return Err(timed_out(&mut exec, &request, after).await),
        },
    };
    let drained = tokio::time::Instant::now() + shared.config.deadlines.exec_drain;
    let (stdout, stderr) = tokio::join!(stdout.finish(drained), stderr.finish(drained));
    Ok(ExecOutput { exit_code, stdout, stderr })
}

async fn timed_out(exec: &mut Exec, request: &ExecRequest, after: Duration) -> Error {
    exec.kill().await;
    Error::Deadline { step: "the command", subject: request.command.join(" "), after }
}

/// The process that joins: like the container's first one, but for the command; it has no terminal.
fn process(first: &ProcessPlan, config: &ContainerConfig, command: &[String]) -> Result<ProcessPlan, Error> {
    match command.first() {
        Some(program) if !program.is_empty() && !command.iter().any(|word| word.contains('\0')) => {}
        _ => return Err(Error::refused("cmd", "names no command, or has a zero byte in it")),
    }
    let capabilities = spec::capabilities::effective(&config.security, &spec::capabilities::available())?;
    Ok(ProcessPlan {
        args: command.to_vec(),
        terminal: None,
        seccomp: spec::seccomp::filter(&config.security, &capabilities),
        ..first.clone()
    })
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    let failed =
        |cause: rustix::io::Errno| Error::step("creating a pipe", "exec", std::io::Error::from(cause));
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
    rustix::io::ioctl_fionbio(&read, true).map_err(failed)?;
    Ok((read, write))
}

/// Reads a stream while the command runs.
struct Collector(JoinHandle<Vec<u8>>, tokio::sync::watch::Sender<Option<tokio::time::Instant>>);

impl Collector {
    fn new(read: OwnedFd) -> Self {
        let (sender, deadline) = tokio::sync::watch::channel(None);
        Self(tokio::spawn(collect(read, deadline)), sender)
    }

    /// What was read when the stream ended, or at that time.
    async fn finish(mut self, by: tokio::time::Instant) -> Vec<u8> {
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
    read: OwnedFd,
    mut deadline: tokio::sync::watch::Receiver<Option<tokio::time::Instant>>,
) -> Vec<u8> {
    let Ok(mut stream) = Receiver::from_owned_fd(read) else { return Vec::new() };
    let mut kept = Vec::new();
    let mut buffer = vec![0_u8; 16 << 10];
    loop {
        tokio::select! {
            biased;
            count = stream.read(&mut buffer) => match count {
                Ok(0) | Err(_) => return kept,
                Ok(count) => {
                    let room = OUTPUT_LIMIT - kept.len();
                    kept.extend_from_slice(&buffer[..count.min(room)]);
                }
            },
            () = passed(&mut deadline) => return kept,
        }
    }
}

/// Waits until there is a deadline, and then for it.
async fn passed(deadline: &mut tokio::sync::watch::Receiver<Option<tokio::time::Instant>>) {
    let by = match deadline.wait_for(Option::is_some).await {
        Ok(by) => *by,
        Err(_) => None,
    };
    if let Some(by) = by {
        tokio::time::sleep_until(by).await;
    }
}
