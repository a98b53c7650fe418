//! One container and how far it is. What exists in a state is in its variant and nowhere else.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::attachments::Copies;
use super::clock;
use super::hooks::Hooking;
use super::log::LogNews;
use super::process::{Ended, Process};
use super::streams::{self, Buffer, ChildEnds, Input, Output};
use crate::cgroup::Cgroup;
use crate::container::{Begun, Birth, LaunchRequest, Launched, Until, launch};
use crate::external::External;
use crate::handshake::Handshake;
use crate::namespaces::PodNamespaces;
use crate::plan::Hooks;
use crate::thread::SingleThread;
use crate::wire::{AttachedInput, ContainerState, Exit, StartContainer};
use crate::{FailedStep, Failure, FailureKind};
use rustix::io::Errno;

/// How long output may still flow when a container has ended. Everything in its cgroup is dead by then; only
/// a process elsewhere that was handed the pipe can hold it open, and nobody waits for that one.
const DRAIN: Duration = Duration::from_secs(1);

/// A container.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) cgroup: Cgroup,
    /// What else is run for it, if anything.
    pub(super) hooks: Option<Box<Hooks>>,
    /// How far it goes by itself.
    pub(super) until: Until,
    pub(super) state: State,
    /// Who makes it, when it is not this program.
    pub(super) external: Option<Box<External>>,
}

/// How far it is.
#[derive(Debug)]
pub(super) enum State {
    /// Its first process is about to be born.
    Expected { output: Output, input: Option<Input>, waiting: Vec<u64>, deadline: Instant },
    /// Cloned, and on its way to execve(2).
    Starting {
        process: Process,
        handshake: Handshake,
        stage: Stage,
        /// The master side of its terminal, when that is for whoever asked for the container.
        terminal: Option<OwnedFd>,
        output: Output,
        /// Kept open for a container that wants input.
        input: Option<Input>,
        /// Requests that wait for the outcome.
        waiting: Vec<u64>,
        deadline: Instant,
    },
    /// An external runtime makes it.
    Making {
        /// Its first process, when there is one.
        process: Option<Process>,
        output: Output,
        input: Option<Input>,
        waiting: Vec<u64>,
        /// Until when it has to run.
        until: Instant,
    },
    /// Its command runs.
    Running { process: Process, output: Output, input: Option<Input>, started_at: i64 },
    /// Its first process has ended, and its output is still coming.
    Draining { exit: Exit, output: Output, until: Instant },
    /// The external runtime that made it clears up after it.
    Clearing { exit: Exit },
    /// It is over.
    Exited(Exit),
}

/// What a start waits for.
#[derive(Debug)]
pub(super) enum Stage {
    /// The first process, which is on its way.
    Child,
    /// Hooks on the host; the first process waits.
    Hooks(Hooking),
    /// The word to go on; the first process waits.
    Held,
    /// Hooks on the host; the command runs.
    Executed(Hooking),
}

/// What a start needs besides the request.
pub(super) struct Surroundings<'a> {
    pub(super) proof: &'a SingleThread,
    pub(super) pod: &'a PodNamespaces,
    /// The first process of the container whose pid namespace is shared.
    pub(super) pid_target: Option<BorrowedFd<'a>>,
}

impl Container {
    /// Clones the container's first process, or its starter, whose birth is then to be minded. `descriptors`: its root, its
    /// volumes, its streams.
    pub(super) fn start(
        around: &Surroundings<'_>,
        mut start: StartContainer,
        mut descriptors: Vec<OwnedFd>,
        sequence: u64,
    ) -> Result<(Self, Option<Birth>), Failure> {
        let deadline = Instant::now() + Duration::from_millis(start.deadline_ms);
        if descriptors.is_empty() {
            return Err(no_root());
        }
        let root = descriptors.remove(0);
        let given = descriptors.split_off(descriptors.len().saturating_sub(start.streams.len()));
        let (output, child, input) = match start.streams.as_slice() {
            [] => streams::make(&mut start)?,
            _ => (Output::none(), ChildEnds::default(), None),
        };
        let streams = match start.streams.as_slice() {
            [] => child.streams(),
            names => super::exec::streams(names, &given)?,
        };
        let begun = launch(
            around.proof,
            &LaunchRequest {
                plan: &start.plan,
                root: root.as_fd(),
                sources: &descriptors,
                pod: around.pod,
                pid_target: around.pid_target,
                cgroup: &start.cgroup,
                streams,
                until: start.until,
            },
        )?;
        let waiting = vec![sequence];
        let (state, birth) = match begun {
            Begun::Launched(launched) => {
                (State::starting(launched, (output, input), (waiting, deadline)), None)
            }
            Begun::Expected(birth) => (State::Expected { output, input, waiting, deadline }, Some(birth)),
        };
        let hooks = start.plan.hooks.take();
        let (id, cgroup) = (start.container, start.cgroup);
        Ok((Self { id, cgroup, hooks, until: start.until, state, external: None }, birth))
    }

    /// Nobody waits for its start any more.
    pub(super) fn forget_waiting(&mut self) {
        match &mut self.state {
            State::Expected { waiting, .. }
            | State::Starting { waiting, .. }
            | State::Making { waiting, .. } => waiting.clear(),
            State::Running { .. } | State::Draining { .. } | State::Clearing { .. } | State::Exited(_) => {}
        }
    }

    /// Its command has been executed. Any other state stays.
    pub(super) fn executed(self) -> Self {
        let state = match self.state {
            State::Starting { process, output, input, .. } => {
                State::Running { process, output, input, started_at: clock::now() }
            }
            State::Making { process: Some(process), output, input, .. } => {
                State::Running { process, output, input, started_at: clock::now() }
            }
            other @ (State::Expected { .. }
            | State::Making { .. }
            | State::Running { .. }
            | State::Draining { .. }
            | State::Clearing { .. }
            | State::Exited(_)) => other,
        };
        Self { state, ..self }
    }

    /// Its first process has ended: what is left in its cgroup is killed. Any state but running stays.
    pub(super) fn ended(self, ended: Ended) -> Self {
        let state = match self.state {
            State::Running { process, output, started_at, .. } => {
                // The processes die whatever the answer: the kernel's refusal is for a cgroup that is gone.
                let _ = self.cgroup.kill();
                let exit = Exit {
                    container: self.id.clone(),
                    pid: process.pid,
                    start_time: process.start_time,
                    exit_code: ended.code,
                    signal: ended.signal,
                    oom_killed: self.cgroup.oom_kills().unwrap_or(0) > 0,
                    started_at,
                    finished_at: clock::now(),
                };
                State::Draining { exit, output, until: Instant::now() + DRAIN }
            }
            other @ (State::Expected { .. }
            | State::Starting { .. }
            | State::Making { .. }
            | State::Draining { .. }
            | State::Clearing { .. }
            | State::Exited(_)) => other,
        };
        Self { state, ..self }
    }

    /// Its output has ended, or has been waited for long enough.
    pub(super) fn drained(self, buffer: &mut Buffer, copies: Copies<'_>) -> (Self, Vec<LogNews>) {
        match self.state {
            State::Draining { exit, mut output, .. } => {
                let news = output.close(buffer, copies);
                let state = match &self.external {
                    Some(_) => State::Clearing { exit },
                    None => State::Exited(exit),
                };
                (Self { state, ..self }, news)
            }
            state @ (State::Expected { .. }
            | State::Starting { .. }
            | State::Making { .. }
            | State::Running { .. }
            | State::Clearing { .. }
            | State::Exited(_)) => (Self { state, ..self }, Vec::new()),
        }
    }

    /// Its first process, as long as there is one.
    pub(super) fn process(&self) -> Option<&Process> {
        match &self.state {
            State::Starting { process, .. } | State::Running { process, .. } => Some(process),
            State::Making { process, .. } => process.as_ref(),
            State::Expected { .. } | State::Draining { .. } | State::Clearing { .. } | State::Exited(_) => {
                None
            }
        }
    }

    /// Its output, as long as some can come.
    pub(super) fn output(&mut self) -> Option<&mut Output> {
        match &mut self.state {
            State::Expected { output, .. }
            | State::Starting { output, .. }
            | State::Making { output, .. }
            | State::Running { output, .. }
            | State::Draining { output, .. } => Some(output),
            State::Clearing { .. } | State::Exited(_) => None,
        }
    }

    /// When something has to be done for its log though there is no output.
    pub(super) fn log_due(&self) -> Option<Instant> {
        match &self.state {
            State::Expected { output, .. }
            | State::Starting { output, .. }
            | State::Making { output, .. }
            | State::Running { output, .. }
            | State::Draining { output, .. } => output.due(),
            State::Clearing { .. } | State::Exited(_) => None,
        }
    }

    /// What somebody is handed who attaches to it: its terminal, or its input if that is wanted. None when it doesn't run.
    pub(super) fn attached_input(
        &self,
        wanted: bool,
    ) -> Option<Result<(AttachedInput, Option<OwnedFd>), Errno>> {
        let State::Running { output, input, .. } = &self.state else { return None };
        let handed = match (output.terminal(), input) {
            (Some(master), _) => (AttachedInput::Terminal, rustix::io::fcntl_dupfd_cloexec(master, 0)),
            (None, Some(input)) if wanted => (AttachedInput::Pipe, input.duplicate()),
            (None, Some(_) | None) => return Some(Ok((AttachedInput::None, None))),
        };
        let (kind, descriptor) = handed;
        Some(descriptor.map(|descriptor| (kind, Some(descriptor))))
    }

    /// Somebody who wrote to its input has gone.
    pub(super) fn input_gone(&mut self) {
        if let State::Running { input, .. } = &mut self.state
            && input.as_ref().is_some_and(Input::is_for_one)
        {
            *input = None;
        }
    }

    /// When something is to be done about it though nothing has happened.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Starting { stage: Stage::Held, .. } => None,
            State::Expected { deadline, .. } | State::Starting { deadline, .. } => Some(*deadline),
            State::Draining { until, .. } => Some(*until),
            // The runtime's work has a deadline of its own.
            State::Making { .. } | State::Running { .. } | State::Clearing { .. } | State::Exited(_) => None,
        }
    }

    /// The hook that its start waits for.
    fn hook(&self) -> Option<&str> {
        let State::Starting { handshake, stage, .. } = &self.state else { return None };
        match stage {
            Stage::Hooks(hooking) | Stage::Executed(hooking) => hooking.current(),
            Stage::Child | Stage::Held => handshake.hook(),
        }
    }

    /// What is told when its start has taken too long.
    pub(super) fn too_late(&self) -> Failure {
        match self.hook() {
            Some(hook) => given_up(hook, "the start took too long"),
            None => too_late(&self.id),
        }
    }

    /// A failure with what the cgroup knows of a process that died without a word. A start that is tried again in the same cgroup may
    /// be told of the first one's end: its limit is the same.
    pub(super) fn explained(&self, failure: Failure) -> Failure {
        if failure.kind != FailureKind::Died || self.cgroup.oom_kills().unwrap_or(0) == 0 {
            return failure;
        }
        let limit = self.cgroup.stats().ok().and_then(|stats| stats.memory?.limit);
        let subject = limit.map(|bytes| format!("{bytes} bytes")).unwrap_or_default();
        Failure { kind: FailureKind::OutOfMemory, subject, ..failure }
    }

    /// Its state for a daemon that asks. One whose output is still coming runs: its exit is told when its log
    /// is complete.
    pub(super) fn snapshot(&self) -> ContainerState {
        match &self.state {
            State::Starting { stage: Stage::Held, process, .. } => {
                ContainerState::Created { pid: process.pid, start_time: process.start_time }
            }
            State::Expected { .. } | State::Starting { .. } | State::Making { .. } => {
                ContainerState::Starting
            }
            State::Running { process, started_at, .. } => ContainerState::Running {
                pid: process.pid,
                start_time: process.start_time,
                started_at: *started_at,
            },
            State::Draining { exit, .. } | State::Clearing { exit } => ContainerState::Running {
                pid: exit.pid,
                start_time: exit.start_time,
                started_at: exit.started_at,
            },
            State::Exited(exit) => ContainerState::Exited(exit.clone()),
        }
    }
}

impl State {
    /// Its first process is there.
    pub(super) fn starting(
        launched: Launched,
        (output, input): (Output, Option<Input>),
        (waiting, deadline): (Vec<u64>, Instant),
    ) -> Self {
        let process = Process { pid: launched.pid, pidfd: launched.pidfd, start_time: launched.start_time };
        let (handshake, stage, terminal) = (launched.handshake, Stage::Child, None);
        Self::Starting { process, handshake, stage, terminal, output, input, waiting, deadline }
    }
}

/// What is told about a start that took too long.
pub(super) fn too_late(subject: &str) -> Failure {
    Failure::system(FailedStep::Deadline, rustix::io::Errno::TIMEDOUT, subject)
}

/// What is told about a hook that ran when the start was given up.
pub(super) fn given_up(hook: &str, why: &str) -> Failure {
    Failure::system(FailedStep::Hook, rustix::io::Errno::TIMEDOUT, format!("{hook} was killed: {why}"))
}

fn no_root() -> Failure {
    Failure {
        kind: FailureKind::System,
        step: FailedStep::AttachRoot,
        errno: None,
        subject: "no descriptor came with the request".to_owned(),
    }
}
