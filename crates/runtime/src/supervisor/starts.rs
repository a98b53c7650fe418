//! Starts of containers and execs: from the clone to the word that the command runs, or that it does not.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::births::Expected;
use super::container::{self, Container, Stage, State};
use super::event_loop::{Key, Supervisor};
use super::exec::{self, Exec};
use super::lines::Source;
use super::process::Process;
use crate::Failure;
use crate::container::{Birth, Until};
use crate::handshake::{Halt, Handshake, Progress};
use crate::hooks::Moment;
use crate::wire::Reply;

/// How long the answer to a start that failed may wait for the end of its process, so that its cgroup is
/// empty when the daemon hears of it. A process that hangs in the kernel doesn't end even when it is killed.
pub(super) const LEAVE: Duration = Duration::from_secs(1);

/// A process that was killed on its way, and who is told when it has ended.
pub(super) struct Leaving {
    pub(super) process: Process,
    pub(super) waiting: Vec<u64>,
    pub(super) failure: Option<Failure>,
    pub(super) until: Instant,
}

impl Supervisor {
    pub(super) fn key(&mut self) -> Key {
        self.next_key = self.next_key.wrapping_add(1);
        self.next_key
    }

    pub(super) fn add(&mut self, container: Container, birth: Option<Birth>) {
        let key = self.key();
        self.containers.push((key, container));
        match birth {
            Some(birth) => self.births.push((key, Expected::container(birth))),
            // A start is over within a millisecond: it is often there by now.
            None => self.progress(key),
        }
    }

    pub(super) fn add_exec(&mut self, exec: Exec) {
        let key = self.key();
        self.execs.push((key, exec));
    }

    /// A start has reported something.
    pub(super) fn progress(&mut self, key: Key) {
        let Some((_, container)) = self.containers.iter_mut().find(|(other, _)| *other == key) else {
            return;
        };
        let State::Starting { handshake, output, stage, terminal, .. } = &mut container.state else { return };
        let is_held = matches!(stage, Stage::Held);
        let received = receive(handshake, |master| match container.until {
            Until::Executed => output.add(Source::Stdout, master),
            Until::Created => {
                *terminal = Some(master);
                Ok(())
            }
        });
        match received {
            Progress::Pending | Progress::Terminal(_) => {}
            Progress::Waiting(Halt::Built) => self.run_hooks(key, &[Moment::Prestart, Moment::CreateRuntime]),
            Progress::Waiting(Halt::Created) => self.hold(key),
            Progress::Ready if container.hooks.as_ref().is_some_and(|hooks| !hooks.poststart.is_empty()) => {
                self.run_hooks(key, &[Moment::Poststart]);
            }
            Progress::Ready => self.started(key),
            // It was created, and is over like one that ran.
            Progress::Failed(_) if is_held => {
                self.started(key);
                self.exited(key);
            }
            Progress::Failed(failure) => self.start_failed(key, failure),
        }
    }

    /// The first process waits for the word to go on.
    fn hold(&mut self, key: Key) {
        let Some((_, container)) = self.containers.iter_mut().find(|(other, _)| *other == key) else {
            return;
        };
        let State::Starting { process, stage, terminal, waiting, .. } = &mut container.state else { return };
        *stage = Stage::Held;
        let (pid, start_time, mut terminal) = (process.pid, process.start_time, terminal.take());
        for sequence in std::mem::take(waiting) {
            self.reply_with(
                sequence,
                Reply::Created { pid, start_time },
                terminal.take().into_iter().collect(),
            );
        }
    }

    /// Lets a container go on that waits; none when the answer comes later.
    pub(super) fn execute(&mut self, id: &str, (sequence, deadline_ms): (u64, u64)) -> Option<Reply> {
        let Some(at) = self.find(id) else { return Some(Reply::Gone) };
        let (_, container) = &mut self.containers[at];
        match &mut container.state {
            State::Starting { stage: stage @ Stage::Held, handshake, deadline, waiting, .. } => {
                if let Err(failure) = handshake.go() {
                    return Some(Reply::Failed(failure));
                }
                *stage = Stage::Child;
                *deadline = Instant::now() + Duration::from_millis(deadline_ms);
                waiting.push(sequence);
                None
            }
            State::Expected { .. }
            | State::Starting { .. }
            | State::Making { .. }
            | State::Running { .. }
            | State::Draining { .. }
            | State::Clearing { .. }
            | State::Exited(_) => super::requests::again(container, sequence),
        }
    }

    pub(super) fn started(&mut self, key: Key) {
        let Some(container) = self.take(key) else { return };
        let waiting = match &container.state {
            State::Starting { waiting, .. } | State::Making { waiting, .. } => waiting.clone(),
            State::Expected { .. }
            | State::Running { .. }
            | State::Draining { .. }
            | State::Clearing { .. }
            | State::Exited(_) => Vec::new(),
        };
        let container = container.executed();
        if let State::Running { process, started_at, .. } = &container.state {
            let (pid, start_time, started_at) = (process.pid, process.start_time, *started_at);
            for sequence in waiting {
                self.reply(sequence, Reply::Started { pid, start_time, started_at });
            }
        }
        self.containers.push((key, container));
    }

    /// A container that never ran is not kept: the daemon knows why.
    ///
    /// Its one process is killed by its descriptor, not by the cgroup: the kernel (6.14 and later) kills
    /// whatever is cloned into a cgroup that cgroup.kill was written to more often than to the cloner's, so
    /// the retry would die.
    pub(super) fn start_failed(&mut self, key: Key, failure: Failure) {
        let Some(container) = self.take(key) else { return };
        let failure = container.explained(failure);
        if let State::Expected { waiting, .. } = container.state {
            self.give_up(key, (waiting, failure));
        } else if let State::Starting { process, waiting, stage, .. } = container.state {
            process.kill();
            let until = Instant::now() + LEAVE;
            self.leaving.push((key, Leaving { process, waiting, failure: Some(failure), until }));
            self.left(key);
            if let Stage::Hooks(hooking) | Stage::Executed(hooking) = stage {
                let key = self.key();
                self.leave(key, hooking);
            }
            self.run_poststop(container.hooks.as_deref());
        }
    }

    /// A process that was killed may have ended.
    pub(super) fn left(&mut self, key: Key) {
        let Some(at) = self.leaving.iter().position(|(other, _)| *other == key) else { return };
        if self.leaving[at].1.process.reap().is_some() {
            let (_, left) = self.leaving.swap_remove(at);
            self.tell_failure(left.waiting, left.failure);
        }
    }

    pub(super) fn tell_failure(&mut self, waiting: Vec<u64>, failure: Option<Failure>) {
        let Some(failure) = failure else { return };
        for sequence in waiting {
            self.reply(sequence, Reply::Failed(failure.clone()));
        }
    }

    pub(super) fn exec_progress(&mut self, key: Key) {
        let Some((_, exec)) = self.execs.iter_mut().find(|(other, _)| *other == key) else { return };
        let exec::State::Starting { handshake, sequence, terminal, .. } = &mut exec.state else { return };
        let sequence = *sequence;
        let received = receive(handshake, |master| {
            *terminal = Some(master);
            Ok(())
        });
        match received {
            // An exec has nothing to wait for.
            Progress::Pending | Progress::Terminal(_) | Progress::Waiting(_) => {}
            Progress::Ready => {
                let pid = exec.process.pid;
                let terminal = terminal.take();
                exec.state = exec::State::Running;
                self.reply_with(sequence, Reply::ExecStarted { pid }, terminal.into_iter().collect());
            }
            Progress::Failed(failure) => self.exec_failed(key, sequence, failure),
        }
    }

    pub(super) fn exec_failed(&mut self, key: Key, sequence: u64, failure: Failure) {
        let Some(at) = self.execs.iter().position(|(other, _)| *other == key) else { return };
        let (_, exec) = self.execs.swap_remove(at);
        exec.kill();
        self.leaving.push((key, Leaving::unasked(exec.process)));
        self.reply(sequence, Reply::Failed(failure));
    }

    /// Starts that take too long, and output that somebody else holds open.
    pub(super) fn expire(&mut self, now: Instant) {
        self.expire_work(now);
        self.expire_hooks(now);
        self.expire_births(now);
        let late =
            self.containers.iter().filter(|(_, c)| c.deadline().is_some_and(|deadline| deadline <= now));
        for key in late.map(|(key, _)| *key).collect::<Vec<_>>() {
            let starting = |(other, c): &(Key, Container)| {
                *other == key && matches!(c.state, State::Expected { .. } | State::Starting { .. })
            };
            match self.containers.iter().find(|entry| starting(entry)) {
                Some((_, container)) => {
                    let failure = container.too_late();
                    self.start_failed(key, failure);
                }
                None => self.finish(key),
            }
        }
        let late =
            self.execs.iter().filter(|(_, exec)| exec.deadline().is_some_and(|deadline| deadline <= now));
        for key in late.map(|(key, _)| *key).collect::<Vec<_>>() {
            let Some((_, exec)) = self.execs.iter().find(|(other, _)| *other == key) else { continue };
            if let exec::State::Starting { sequence, .. } = &exec.state {
                let (sequence, failure) = (*sequence, container::too_late(&exec.name));
                self.exec_failed(key, sequence, failure);
            }
        }
        for at in 0..self.leaving.len() {
            let left = &mut self.leaving[at].1;
            if left.deadline().is_some_and(|deadline| deadline <= now) {
                let (waiting, failure) = (std::mem::take(&mut left.waiting), left.failure.take());
                self.tell_failure(waiting, failure);
            }
        }
    }
}

impl Leaving {
    /// One that nobody asks about.
    pub(super) fn unasked(process: Process) -> Self {
        Self { process, waiting: Vec::new(), failure: None, until: Instant::now() }
    }

    /// When those who wait are told though it has not ended.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.failure.as_ref().map(|_| self.until)
    }
}

/// Reads a handshake until it has nothing more to say now; terminals go to `terminal`.
fn receive(handshake: &mut Handshake, mut terminal: impl FnMut(OwnedFd) -> Result<(), Errno>) -> Progress {
    loop {
        match handshake.receive() {
            Progress::Terminal(master) => {
                if let Err(errno) = terminal(master) {
                    return Progress::Failed(Failure::system(crate::FailedStep::Terminal, errno, ""));
                }
            }
            other => return other,
        }
    }
}
