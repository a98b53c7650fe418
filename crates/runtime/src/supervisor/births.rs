//! Births: processes that a starter is about to bear, from the starter's clone to the word that they are there.
//!
//! ```text
//!            the starter's word
//! Expected ───────────────────────► a container or an exec that is starting; the starter leaves
//!    │ failed, or too late
//!    └────► told to whoever asked; the starter leaves, and what it bore all the same is found when no birth is expected
//! ```
//!
//! Not here: what a starter does (`container`).

use std::time::Instant;

use super::container::{Container, State};
use super::event_loop::{Key, Supervisor};
use super::exec::Exec;
use super::process::Process;
use super::starts::{LEAVE, Leaving};
use crate::container::{Birth, Delivery, Launched, Starter};
use crate::wire::Reply;
use crate::{FailedStep, Failure, FailureKind};

/// A birth that is minded.
#[derive(Debug)]
pub(super) struct Expected {
    pub(super) birth: Birth,
    wanted: Wanted,
}

/// Who wants the process.
#[derive(Debug)]
enum Wanted {
    /// The container with the same key.
    Container,
    Exec(Asked),
    /// Nobody any more: the starter was killed.
    Nobody(Option<Answer>),
}

/// An exec that was asked for.
#[derive(Debug)]
pub(super) struct Asked {
    /// The daemon's name for it.
    pub(super) name: String,
    pub(super) container: Key,
    pub(super) sequence: u64,
    /// When it has to have executed its command.
    pub(super) deadline: Instant,
}

/// What those who wait for a start are told when its process is gone, or has not gone for too long.
#[derive(Debug)]
struct Answer {
    waiting: Vec<u64>,
    failure: Failure,
    until: Instant,
}

impl Expected {
    pub(super) fn container(birth: Birth) -> Self {
        Self { birth, wanted: Wanted::Container }
    }

    pub(super) fn exec(birth: Birth, asked: Asked) -> Self {
        Self { birth, wanted: Wanted::Exec(asked) }
    }

    /// When something is to be done about it though nothing has happened. A container has a deadline of its own.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.wanted {
            Wanted::Container | Wanted::Nobody(None) => None,
            Wanted::Exec(asked) => Some(asked.deadline),
            Wanted::Nobody(Some(answer)) => Some(answer.until),
        }
    }

    fn is_exec(&self, name: Option<&str>) -> bool {
        match &self.wanted {
            Wanted::Exec(asked) => name.is_none_or(|name| asked.name == name),
            Wanted::Container | Wanted::Nobody(_) => false,
        }
    }
}

impl Answer {
    fn new(waiting: Vec<u64>, failure: Failure) -> Self {
        Self { waiting, failure, until: Instant::now() + LEAVE }
    }
}

/// What is told about an exec that was killed before it was born.
fn called_off(name: &str) -> Failure {
    let subject = format!("\"{name}\" was called off");
    Failure { kind: FailureKind::Gone, step: FailedStep::Prepare, errno: None, subject }
}

impl From<Starter> for Process {
    fn from(starter: Starter) -> Self {
        Self { pid: starter.pid, pidfd: starter.pidfd, start_time: starter.start_time }
    }
}

/// For one that is not to execute its command any more.
impl From<Launched> for Process {
    fn from(launched: Launched) -> Self {
        launched.handshake.close();
        Self { pid: launched.pid, pidfd: launched.pidfd, start_time: launched.start_time }
    }
}

impl Supervisor {
    /// Minds the birth of an exec.
    pub(super) fn expect(&mut self, expected: Expected) {
        let key = self.key();
        self.births.push((key, expected));
    }

    /// A starter has said something, or has ended.
    pub(super) fn delivered(&mut self, key: Key) {
        let Some(at) = self.births.iter().position(|(other, _)| *other == key) else { return };
        let (key, Expected { birth, wanted }) = self.births.swap_remove(at);
        match birth.look() {
            Delivery::Pending(birth) => self.births.push((key, Expected { birth, wanted })),
            Delivery::Born(launched, starter) => {
                self.born(key, wanted, launched);
                let key = self.key();
                self.see_off(key, starter.into(), None);
            }
            Delivery::Failed(failure, starter) => {
                let answer = self.not_born(key, wanted, failure);
                self.see_off(key, starter.into(), answer);
            }
            Delivery::Silent(failure) => {
                if let Some(answer) = self.not_born(key, wanted, failure) {
                    self.tell_failure(answer.waiting, Some(answer.failure));
                }
            }
        }
    }

    fn born(&mut self, key: Key, wanted: Wanted, launched: Launched) {
        match wanted {
            Wanted::Container => {
                let Some(container) = self.take(key) else { return };
                let container = container.born(launched);
                if let Some(process) = container.process().filter(|_| self.is_ending()) {
                    process.kill();
                }
                self.containers.push((key, container));
            }
            Wanted::Exec(asked) => {
                let exec = Exec::born(asked, launched);
                if self.is_ending() {
                    exec.kill();
                }
                self.execs.push((key, exec));
            }
            Wanted::Nobody(answer) => self.see_off(key, launched.into(), answer),
        }
    }

    /// Gives what those who wait are still to be told.
    fn not_born(&mut self, key: Key, wanted: Wanted, failure: Failure) -> Option<Answer> {
        // The starter's word may have been lost: it was killed, or could not send it.
        self.may_have_unseen = true;
        match wanted {
            Wanted::Container => {
                let container = self.take(key)?;
                Some(Answer::new(container.waiting().to_vec(), failure))
            }
            Wanted::Exec(asked) => {
                self.reply(asked.sequence, Reply::Failed(failure));
                None
            }
            Wanted::Nobody(answer) => answer,
        }
    }

    /// Kills a process, and has its end minded.
    fn see_off(&mut self, key: Key, process: Process, answer: Option<Answer>) {
        process.kill();
        self.leaving.push((
            key,
            match answer {
                None => Leaving::unasked(process),
                Some(Answer { waiting, failure, until }) => {
                    Leaving { process, waiting, failure: Some(failure), until }
                }
            },
        ));
        self.left(key);
    }

    /// A container's process comes too late; those who wait are told when its starter is gone.
    pub(super) fn give_up(&mut self, key: Key, (waiting, failure): (Vec<u64>, Failure)) {
        let Some((_, expected)) = self.births.iter_mut().find(|(other, _)| *other == key) else { return };
        expected.birth.kill();
        expected.wanted = Wanted::Nobody(Some(Answer::new(waiting, failure)));
    }

    /// Kills the starter of a container: the rest follows from its end.
    pub(super) fn abort_birth(&self, key: Key) {
        let births = self.births.iter().filter(|(other, _)| *other == key);
        births.for_each(|(_, expected)| expected.birth.kill());
    }

    /// Ends the starter of an exec that is not born yet, or of whose birth the word is on its way; what asked for it is told when it
    /// is gone.
    pub(super) fn abandon_birth(&mut self, name: &str) -> bool {
        let mut births = self.births.iter_mut().map(|(_, expected)| expected);
        let Some(expected) = births.find(|expected| expected.is_exec(Some(name))) else { return false };
        expected.birth.kill();
        if let Wanted::Exec(asked) = std::mem::replace(&mut expected.wanted, Wanted::Nobody(None)) {
            expected.wanted =
                Wanted::Nobody(Some(Answer::new(vec![asked.sequence], called_off(&asked.name))));
        }
        true
    }

    /// Nobody waits for what is not born yet.
    pub(super) fn disown_births(&mut self) {
        for (_, expected) in &mut self.births {
            if expected.is_exec(None) {
                expected.birth.kill();
                expected.wanted = Wanted::Nobody(None);
            }
            if let Wanted::Nobody(answer) = &mut expected.wanted {
                *answer = None;
            }
        }
    }

    /// Execs that take too long, and answers that have waited for long enough.
    pub(super) fn expire_births(&mut self, now: Instant) {
        let is_late = |expected: &Expected| expected.deadline().is_some_and(|deadline| deadline <= now);
        while let Some((_, expected)) = self.births.iter_mut().find(|(_, expected)| is_late(expected)) {
            expected.birth.kill();
            match std::mem::replace(&mut expected.wanted, Wanted::Nobody(None)) {
                Wanted::Exec(asked) => {
                    let failure = super::container::too_late(&asked.name);
                    self.reply(asked.sequence, Reply::Failed(failure));
                }
                Wanted::Nobody(Some(answer)) => self.tell_failure(answer.waiting, Some(answer.failure)),
                Wanted::Container | Wanted::Nobody(None) => return,
            }
        }
    }

    /// Finds processes that were born and that nobody was told of, once all starters that live have said theirs.
    pub(super) fn find_unseen(&mut self) {
        if !self.may_have_unseen || !self.births.is_empty() {
            return;
        }
        self.may_have_unseen = false;
        // One that adopts orphans reaps whatever ends.
        if self.orphans.is_some() {
            return;
        }
        for pid in super::process::children(std::process::id().cast_signed()) {
            // A child that has not been waited for keeps its number.
            if !self.minds(pid)
                && let Ok(process) = super::process::identify(pid)
            {
                let key = self.key();
                self.see_off(key, process, None);
            }
        }
    }
}

impl Container {
    /// Its first process is there. Any other state stays.
    fn born(self, launched: Launched) -> Self {
        let state = match self.state {
            State::Expected { output, input, waiting, deadline } => {
                State::starting(launched, (output, input), (waiting, deadline))
            }
            other @ (State::Starting { .. }
            | State::Making { .. }
            | State::Running { .. }
            | State::Draining { .. }
            | State::Clearing { .. }
            | State::Exited(_)) => other,
        };
        Self { state, ..self }
    }

    /// The requests that wait for its start.
    fn waiting(&self) -> &[u64] {
        match &self.state {
            State::Expected { waiting, .. }
            | State::Starting { waiting, .. }
            | State::Making { waiting, .. } => waiting,
            State::Running { .. } | State::Draining { .. } | State::Clearing { .. } | State::Exited(_) => &[],
        }
    }
}
