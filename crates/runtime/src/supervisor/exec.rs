//! A process that was run in a container: from its clone to its end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::births::{Asked, Expected};
use super::event_loop::Key;
use super::process::Process;
use crate::cgroup::Cgroup;
use crate::container::{ExecRequest, Launched, Streams, exec};
use crate::handshake::Handshake;
use crate::namespaces::PodUser;
use crate::thread::SingleThread;
use crate::wire::{StartExec, Stream};
use crate::{FailedStep, Failure, FailureKind};

/// An exec.
#[derive(Debug)]
pub(super) struct Exec {
    /// The daemon's name for it.
    pub(super) name: String,
    pub(super) container: Key,
    pub(super) process: Process,
    pub(super) state: State,
}

/// A running container.
pub(super) struct Joined<'a> {
    pub(super) key: Key,
    /// Its first process.
    pub(super) process: BorrowedFd<'a>,
    pub(super) cgroup: &'a Cgroup,
    pub(super) user: Option<&'a PodUser>,
}

/// How far it is.
#[derive(Debug)]
pub(super) enum State {
    /// Cloned, and on its way to execve(2).
    Starting {
        handshake: Handshake,
        sequence: u64,
        /// The master side of its terminal, which goes to the daemon with the answer.
        terminal: Option<OwnedFd>,
        deadline: Instant,
    },
    /// Its command runs.
    Running,
}

impl Exec {
    /// Has the process be born in a container. `descriptors`: the streams that the request names, in their
    /// order.
    pub(super) fn start(
        proof: &SingleThread,
        start: StartExec,
        container: Joined<'_>,
        (descriptors, sequence): (&[OwnedFd], u64),
    ) -> Result<Expected, Failure> {
        let deadline = Instant::now() + Duration::from_millis(start.deadline_ms);
        let streams = streams(&start.streams, descriptors)?;
        let request = ExecRequest {
            process: &start.process,
            container: container.process,
            user: container.user,
            cgroup: container.cgroup,
            streams,
        };
        let birth = exec(proof, &request)?;
        let asked = Asked { name: start.exec, container: container.key, sequence, deadline };
        Ok(Expected::exec(birth, asked))
    }

    /// The process is there, and on its way to execve(2).
    pub(super) fn born(asked: Asked, launched: Launched) -> Self {
        let Asked { name, container, sequence, deadline } = asked;
        let process = Process { pid: launched.pid, pidfd: launched.pidfd, start_time: launched.start_time };
        let state = State::Starting { handshake: launched.handshake, sequence, terminal: None, deadline };
        Self { name, container, process, state }
    }

    /// Kills it with its process group: one that has executed nothing yet, or whose container is gone.
    pub(super) fn kill(&self) {
        let _ = self.process.signal_group(KILL);
        self.process.kill();
    }

    /// When a start counts as failed.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Starting { deadline, .. } => Some(*deadline),
            State::Running => None,
        }
    }
}

/// SIGKILL.
pub(super) const KILL: i32 = 9;

/// Which descriptor is which stream.
pub(super) fn streams<'a>(names: &[Stream], descriptors: &'a [OwnedFd]) -> Result<Streams<'a>, Failure> {
    if names.len() != descriptors.len() {
        return Err(Failure {
            kind: FailureKind::System,
            step: FailedStep::Stdio,
            errno: None,
            subject: format!("{} descriptors for {} streams", descriptors.len(), names.len()),
        });
    }
    let mut streams = Streams::default();
    for (name, descriptor) in names.iter().zip(descriptors) {
        let slot = match name {
            Stream::Stdin => &mut streams.stdin,
            Stream::Stdout => &mut streams.stdout,
            Stream::Stderr => &mut streams.stderr,
        };
        *slot = Some(descriptor.as_fd());
    }
    Ok(streams)
}
