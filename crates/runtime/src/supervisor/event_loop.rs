//! The loop: what is waited for, and what happens when it comes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::Place;
use super::attachments::Attachments;
use super::births::Expected;
use super::container::{Container, Stage, State};
use super::ends::Ending;
use super::exec::{self, Exec};
use super::external::{Orphans, Work};
use super::hooks::Hooking;
use super::kin::Reach;
use super::lines::Source;
use super::session::{Incoming, Lost, Session};
use super::starts::Leaving;
use super::streams::Buffer;
use crate::namespaces::PodNamespaces;
use crate::sys;
use crate::thread::SingleThread;
use crate::wire::{Event, Listener, Reply};
use crate::{FailedStep, Failure};

/// Requests that are taken in one turn, so that a busy daemon doesn't keep a container's output waiting.
const TURN: usize = 16;

/// How long nothing has to happen before memory is given back: the steps of a pod's start follow each other
/// more closely, and would only fetch it again.
const QUIET: Duration = Duration::from_millis(50);
/// How long memory may stay with a supervisor that is never quiet.
const UNREST: Duration = Duration::from_secs(1);

/// Names a container or exec while descriptors are polled; never used twice.
pub(super) type Key = u32;

/// A pod's supervisor.
pub(super) struct Supervisor {
    pub(super) place: Place,
    pub(super) proof: SingleThread,
    pub(super) pod: Option<PodNamespaces>,
    pub(super) containers: Vec<(Key, Container)>,
    pub(super) execs: Vec<(Key, Exec)>,
    /// Containers and execs whose process is not there yet.
    pub(super) births: Vec<(Key, Expected)>,
    /// Whether a starter may have borne a process without a word of it.
    pub(super) may_have_unseen: bool,
    pub(super) attachments: Attachments,
    listener: Listener,
    pub(super) session: Option<Session>,
    /// What external runtimes do.
    pub(super) work: Vec<(Key, Work)>,
    /// Told of ends of children, when it adopts orphans.
    pub(super) orphans: Option<Orphans>,
    /// Hooks of containers that are over.
    pub(super) poststops: Vec<(Key, Hooking)>,
    /// Killed, and to be waited for.
    pub(super) leaving: Vec<(Key, Leaving)>,
    /// Once it was asked to end.
    pub(super) ending: Option<Ending>,
    pub(super) next_key: Key,
    pub(super) buffer: Buffer,
    /// Since when there is memory that can go back when there is time: something large was handled.
    spare_since: Option<Instant>,
}

/// What a descriptor belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Listener,
    Session,
    PodInit,
    Handshake(Key),
    Hooks(Key),
    Exit(Key),
    Output(Key, Source),
    Journal(Key),
    Attachment(Key),
    ExecHandshake(Key),
    ExecExit(Key),
    Birth(Key),
    Leaving(Key),
    Work(Key),
    Orphans,
}

/// A descriptor, what it is waited for, and what it belongs to.
type Waited<'a> = (Token, BorrowedFd<'a>, PollFlags);

impl Supervisor {
    pub(super) fn new(place: Place, listener: Listener, proof: SingleThread) -> Self {
        Self {
            place,
            proof,
            pod: None,
            containers: Vec::new(),
            execs: Vec::new(),
            births: Vec::new(),
            may_have_unseen: false,
            attachments: Attachments::default(),
            listener,
            session: None,
            work: Vec::new(),
            orphans: None,
            poststops: Vec::new(),
            leaving: Vec::new(),
            ending: None,
            next_key: 0,
            buffer: Buffer::default(),
            spare_since: None,
        }
    }

    /// Minds the pod until it is shut down.
    pub(super) fn run(mut self) -> io::Result<()> {
        loop {
            for token in self.wait()? {
                self.handle(token);
            }
            let now = Instant::now();
            self.expire(now);
            self.catch_up_logs(now);
            self.end_attachments();
            self.reap_orphans();
            self.find_unseen();
            if let Some(waiting) = self.over(now) {
                waiting.into_iter().for_each(|sequence| self.reply(sequence, Reply::Done));
                return Ok(());
            }
        }
    }

    /// Waits until something is there or a deadline has passed.
    fn wait(&mut self) -> io::Result<Vec<Token>> {
        let deadlines = self.containers.iter().filter_map(|(_, container)| container.deadline());
        let logs = self.containers.iter().filter_map(|(_, container)| container.log_due());
        let execs = self.execs.iter().filter_map(|(_, exec)| exec.deadline());
        let births = self.births.iter().filter_map(|(_, expected)| expected.deadline());
        let leaving = self.leaving.iter().filter_map(|(_, left)| left.deadline());
        let work = self.work.iter().map(|(_, work)| work.call.until);
        let poststops = self.poststops.iter().filter_map(|(_, hooking)| hooking.deadline());
        let next = deadlines
            .chain(logs)
            .chain(execs)
            .chain(births)
            .chain(leaving)
            .chain(work)
            .chain(poststops)
            .chain(self.ending.as_ref().and_then(|ending| ending.until))
            .min();
        let next = next.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if self.buffer.is_large() {
            self.has_spare_memory();
        }
        let Some(since) = self.spare_since else { return self.poll(next) };
        let ready = self.poll(Some(next.map_or(QUIET, |next| next.min(QUIET))))?;
        if ready.is_empty() || since.elapsed() > UNREST {
            self.give_back_memory();
        }
        Ok(ready)
    }

    pub(super) fn has_spare_memory(&mut self) {
        self.spare_since.get_or_insert_with(Instant::now);
    }

    fn give_back_memory(&mut self) {
        self.spare_since = None;
        self.buffer.release();
        sys::give_back_memory();
        sys::give_back_stack();
        sys::give_back_program();
    }

    fn poll(&self, timeout: Option<Duration>) -> io::Result<Vec<Token>> {
        let waited = self.descriptors();
        let mut polled: Vec<PollFd<'_>> = waited
            .iter()
            .map(|(_, descriptor, flags)| PollFd::from_borrowed_fd(*descriptor, *flags))
            .collect();
        // Rounded up: a deadline that is woken up for too early would be polled for again and again.
        let timespec = timeout.map(|timeout| match timeout {
            Duration::ZERO => Timespec::default(),
            later => Timespec::try_from(later + Duration::from_millis(1)).unwrap_or_default(),
        });
        match poll(&mut polled, timespec.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready = polled.iter().zip(&waited).filter(|(poll, _)| !poll.revents().is_empty());
        Ok(ready.map(|(_, (token, _, _))| *token).collect())
    }

    fn descriptors(&self) -> Vec<Waited<'_>> {
        let mut waited = vec![(Token::Listener, self.listener.as_fd(), PollFlags::IN)];
        if let Some(session) = &self.session {
            let out = if session.is_behind() { PollFlags::OUT } else { PollFlags::empty() };
            waited.push((Token::Session, session.as_fd(), PollFlags::IN | out));
        }
        let init = self.pod.as_ref().and_then(|pod| pod.pid.as_ref());
        waited.extend(init.map(|pid| (Token::PodInit, pid.init_pidfd.as_fd(), PollFlags::IN)));
        for (key, container) in &self.containers {
            of_container(*key, container, &mut waited);
        }
        for (key, exec) in &self.execs {
            waited.push(match &exec.state {
                exec::State::Starting { handshake, .. } => {
                    (Token::ExecHandshake(*key), handshake.as_fd(), PollFlags::IN)
                }
                exec::State::Running => (Token::ExecExit(*key), exec.process.as_fd(), PollFlags::IN),
            });
        }
        for (key, expected) in &self.births {
            let descriptors = expected.birth.descriptors();
            waited.extend(descriptors.map(|descriptor| (Token::Birth(*key), descriptor, PollFlags::IN)));
        }
        let attachments = self.attachments.descriptors();
        waited.extend(attachments.map(|(key, pipe, flags)| (Token::Attachment(key), pipe, flags)));
        let poststops = self.poststops.iter();
        waited.extend(poststops.map(|(key, hooking)| (Token::Hooks(*key), hooking.as_fd(), PollFlags::IN)));
        waited.extend(
            self.leaving
                .iter()
                .map(|(key, left)| (Token::Leaving(*key), left.process.as_fd(), PollFlags::IN)),
        );
        let work = self.work.iter();
        waited.extend(work.map(|(key, work)| (Token::Work(*key), work.call.process.as_fd(), PollFlags::IN)));
        waited.extend(self.orphans.iter().map(|orphans| (Token::Orphans, orphans.as_fd(), PollFlags::IN)));
        waited
    }

    fn handle(&mut self, token: Token) {
        match token {
            Token::Listener => self.accept(),
            Token::Session => self.serve(),
            Token::PodInit => self.reap_pod_init(),
            Token::Handshake(key) => self.progress(key),
            Token::Hooks(key) => self.hooked(key),
            Token::Exit(key) => self.exited(key),
            Token::Output(key, source) => self.output(key, source),
            Token::Journal(key) => self.flush_journal(key),
            Token::Attachment(key) => {
                if self.attachments.ready(key) {
                    self.has_spare_memory();
                }
            }
            Token::ExecHandshake(key) => self.exec_progress(key),
            Token::ExecExit(key) => self.exec_exited(key),
            Token::Birth(key) => self.delivered(key),
            Token::Leaving(key) => self.left(key),
            Token::Work(key) => self.worked(key),
            Token::Orphans => self.heard_of_an_end(),
        }
    }

    /// The newest daemon is the one that counts: an older connection is one whose daemon has not noticed its
    /// end yet. It is given up, too, when there is no descriptor left for the new one.
    fn accept(&mut self) {
        match self.listener.accept() {
            Ok(Some(socket)) => {
                self.lose_session();
                self.session = Some(Session::new(socket));
            }
            Ok(None) => {}
            Err(_) => self.lose_session(),
        }
    }

    fn serve(&mut self) {
        for _ in 0..TURN {
            let Some(session) = &mut self.session else { return };
            let incoming = session.flush().and_then(|()| session.receive());
            match incoming {
                Ok(Some(Incoming::Request(sequence, request, descriptors))) => {
                    self.has_spare_memory();
                    if let Some(reply) = self.answer(sequence, request, descriptors) {
                        self.reply(sequence, reply);
                    }
                }
                Ok(Some(Incoming::Unknown(sequence, why))) => self.reply(sequence, Reply::Unknown { why }),
                Ok(Some(Incoming::Incomplete(sequence))) => {
                    let failure = Failure::system(FailedStep::Receive, Errno::MFILE, "");
                    self.reply(sequence, Reply::Failed(failure));
                }
                Ok(None) => return,
                Err(Lost) => return self.lose_session(),
            }
        }
    }

    /// Execs are the daemon's: nobody else could read what they print, and so are attachments. What waits for an answer is forgotten,
    /// since another daemon counts its requests from the beginning.
    fn lose_session(&mut self) {
        if self.session.take().is_none() {
            return;
        }
        for (key, exec) in std::mem::take(&mut self.execs) {
            self.kill_exec(&exec, Reach::Session);
            self.leaving.push((key, Leaving::unasked(exec.process)));
        }
        for container in self.attachments.detach_all() {
            self.input_gone(container);
        }
        self.abandon_execs(None);
        self.disown_births();
        self.containers.iter_mut().for_each(|(_, container)| container.forget_waiting());
        self.leaving.iter_mut().for_each(|(_, left)| left.waiting.clear());
        self.ending.iter_mut().for_each(|ending| ending.waiting.clear());
    }

    pub(super) fn reply(&mut self, sequence: u64, reply: Reply) {
        self.reply_with(sequence, reply, Vec::new());
    }

    pub(super) fn reply_with(&mut self, sequence: u64, reply: Reply, descriptors: Vec<OwnedFd>) {
        let Some(session) = &mut self.session else { return };
        if session.reply(sequence, reply, descriptors) == Err(Lost) {
            self.lose_session();
        }
    }

    pub(super) fn tell(&mut self, event: Event) {
        if self.session.as_mut().is_some_and(|session| session.tell(event) == Err(Lost)) {
            self.lose_session();
        }
    }

    pub(super) fn find(&self, id: &str) -> Option<usize> {
        self.containers.iter().position(|(_, container)| container.id == id)
    }

    pub(super) fn take(&mut self, key: Key) -> Option<Container> {
        let at = self.containers.iter().position(|(other, _)| *other == key)?;
        Some(self.containers.swap_remove(at).1)
    }
}

/// What is waited for on account of a container.
fn of_container<'a>(key: Key, container: &'a Container, waited: &mut Vec<Waited<'a>>) {
    let output = match &container.state {
        State::Starting { handshake, output, stage, .. } => {
            if !matches!(stage, Stage::Executed(_)) {
                waited.push((Token::Handshake(key), handshake.as_fd(), PollFlags::IN));
            }
            if let Stage::Hooks(hooking) | Stage::Executed(hooking) = stage {
                waited.push((Token::Hooks(key), hooking.as_fd(), PollFlags::IN));
            }
            output
        }
        State::Running { process, output, .. } => {
            waited.push((Token::Exit(key), process.as_fd(), PollFlags::IN));
            output
        }
        State::Expected { output, .. } | State::Making { output, .. } | State::Draining { output, .. } => {
            output
        }
        State::Clearing { .. } | State::Exited(_) => return,
    };
    let streams = output.descriptors();
    waited.extend(streams.map(|(source, stream)| (Token::Output(key, source), stream, PollFlags::IN)));
    waited.extend(output.journal().map(|socket| (Token::Journal(key), socket, PollFlags::OUT)));
}
