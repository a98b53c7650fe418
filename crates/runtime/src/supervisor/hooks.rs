//! Hooks on the host: run by a copy of the supervisor each time, so that the loop never waits for them.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::container::{Container, Stage, State};
use super::event_loop::{Key, Supervisor};
use super::process::Process;
use super::starts::Leaving;
use crate::Failure;
use crate::handshake::{Handshake, Progress};
use crate::hooks::{Moment, spawn};
use crate::plan::{Hook, Hooks};
use crate::thread::SingleThread;

/// How long a poststop hook may take that says nothing of it: nobody waits for it, and the pod's end is not to.
const POSTSTOP: Duration = Duration::from_secs(30);

/// Hooks that run. Whatever runs is killed when the handshake is closed; the process is to be waited for.
#[derive(Debug)]
pub(super) struct Hooking {
    process: Process,
    handshake: Handshake,
    /// When they are given up.
    until: Option<Instant>,
}

impl AsFd for Hooking {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handshake.as_fd()
    }
}

impl Hooking {
    fn start(
        proof: &SingleThread,
        hooks: &Hooks,
        (moments, pid): (&[Moment], Option<i32>),
    ) -> Result<Self, Failure> {
        let launched = spawn(proof, hooks, (moments, pid))?;
        let process = Process { pid: launched.pid, pidfd: launched.pidfd, start_time: launched.start_time };
        Ok(Self { process, handshake: launched.handshake, until: None })
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.until
    }

    /// The number of the copy that runs them.
    pub(super) fn pid(&self) -> i32 {
        self.process.pid
    }

    /// The one that runs now.
    pub(super) fn current(&self) -> Option<&str> {
        self.handshake.hook()
    }
}

impl Supervisor {
    /// Has hooks run for a container whose first process waits for them, or has executed its command.
    pub(super) fn run_hooks(&mut self, key: Key, moments: &[Moment]) {
        let Some((_, container)) = self.containers.iter_mut().find(|(other, _)| *other == key) else {
            return;
        };
        let (Some(hooks), State::Starting { process, stage, .. }) = (&container.hooks, &mut container.state)
        else {
            return;
        };
        match Hooking::start(&self.proof, hooks, (moments, Some(process.pid))) {
            Ok(hooking) if moments.contains(&Moment::Poststart) => *stage = Stage::Executed(hooking),
            Ok(hooking) => *stage = Stage::Hooks(hooking),
            Err(failure) => self.start_failed(key, failure),
        }
    }

    /// Has hooks run for a container that is over.
    pub(super) fn run_poststop(&mut self, hooks: Option<&Hooks>) {
        let Some(hooks) = hooks.filter(|hooks| !hooks.poststop.is_empty()) else { return };
        let bound = |hook: &Hook| hook.timeout_s.map_or(POSTSTOP, |s| Duration::from_secs(s.into()));
        // A second for making the processes: the hooks' own time comes first.
        let all: Duration = hooks.poststop.iter().map(bound).sum::<Duration>() + Duration::from_secs(1);
        match Hooking::start(&self.proof, hooks, (&[Moment::Poststop], None)) {
            Ok(hooking) => {
                let key = self.key();
                self.poststops.push((key, Hooking { until: Some(Instant::now() + all), ..hooking }));
            }
            Err(failure) => super::ends::complain(&format!("container {:?}: {failure}", hooks.about.id)),
        }
    }

    /// Hooks have reported something.
    pub(super) fn hooked(&mut self, key: Key) {
        if let Some(at) = self.poststops.iter().position(|(other, _)| *other == key) {
            if !matches!(self.poststops[at].1.handshake.receive(), Progress::Pending) {
                let (key, hooking) = self.poststops.swap_remove(at);
                self.leave(key, hooking);
            }
            return;
        }
        let Some((_, container)) = self.containers.iter_mut().find(|(other, _)| *other == key) else {
            return;
        };
        let Some(hooking) = hooking(container) else { return };
        match hooking.handshake.receive() {
            Progress::Ready => self.hooks_done(key),
            Progress::Failed(failure) => self.start_failed(key, failure),
            Progress::Pending | Progress::Terminal(_) | Progress::Waiting(_) => {}
        }
    }

    fn hooks_done(&mut self, key: Key) {
        let Some((_, container)) = self.containers.iter_mut().find(|(other, _)| *other == key) else {
            return;
        };
        let State::Starting { handshake, stage, .. } = &mut container.state else { return };
        match std::mem::replace(stage, Stage::Child) {
            Stage::Hooks(hooking) => {
                let gone = handshake.go().err();
                self.leave(key, hooking);
                match gone {
                    Some(failure) => self.start_failed(key, failure),
                    None => self.progress(key),
                }
            }
            Stage::Executed(hooking) => {
                self.leave(key, hooking);
                self.started(key);
            }
            other @ (Stage::Child | Stage::Held) => *stage = other,
        }
    }

    /// Lets go of hooks: what still runs of them ends.
    pub(super) fn leave(&mut self, key: Key, hooking: Hooking) {
        hooking.handshake.close();
        self.leaving.push((key, Leaving::unasked(hooking.process)));
        self.left(key);
    }

    /// Poststop hooks that take too long.
    pub(super) fn expire_hooks(&mut self, now: Instant) {
        let is_late = |(_, hooking): &mut (Key, Hooking)| hooking.until.is_some_and(|until| until <= now);
        let late: Vec<_> = self.poststops.extract_if(.., is_late).collect();
        for (key, hooking) in late {
            super::ends::complain("poststop hooks were given up: they took too long");
            self.leave(key, hooking);
        }
    }
}

/// The hooks that run for a start.
pub(super) fn hooking(container: &mut Container) -> Option<&mut Hooking> {
    match &mut container.state {
        State::Starting { stage: Stage::Hooks(hooking) | Stage::Executed(hooking), .. } => Some(hooking),
        State::Starting { stage: Stage::Child | Stage::Held, .. }
        | State::Expected { .. }
        | State::Making { .. }
        | State::Running { .. }
        | State::Draining { .. }
        | State::Clearing { .. }
        | State::Exited(_) => None,
    }
}
