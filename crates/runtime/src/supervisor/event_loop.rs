//! The loop: what is waited for, and what happens when it comes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::Place;
use super::container::{self, Container, State};
use super::exec::{self, Exec};
use super::lines::Source;
use super::process::{self, Process};
use super::session::{Incoming, Lost, Session};
use super::streams::{Buffer, LogFailure};
use crate::Failure;
use crate::handshake::{Handshake, Progress};
use crate::namespaces::PodNamespaces;
use crate::thread::SingleThread;
use crate::wire::{Event, ExecExit, Listener, Reply};
use crate::{record, sys};

/// Requests that are taken in one turn, so that a busy daemon doesn't keep a container's output waiting.
const TURN: usize = 16;

/// How long nothing has to happen before memory is given back: the steps of a pod's start follow each other more closely, and
/// would only fetch it again.
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
    listener: Listener,
    session: Option<Session>,
    /// Killed, and to be waited for.
    leaving: Vec<(Key, Leaving)>,
    /// Once it was asked to end: the requests that wait for that.
    ending: Option<Vec<u64>>,
    next_key: Key,
    buffer: Buffer,
    /// Since when there is memory that can go back when there is time: something large was handled.
    spare_since: Option<Instant>,
}

/// How long the answer to a start that failed may wait for the end of its process, so that its cgroup is empty when the daemon hears of
/// it. A process that hangs in the kernel doesn't end even when it is killed.
const LEAVE: Duration = Duration::from_secs(1);

/// A process that was killed on its way, and who is told when it has ended.
struct Leaving {
    process: Process,
    waiting: Vec<u64>,
    failure: Option<Failure>,
    until: Instant,
}

/// What a descriptor belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Listener,
    Session,
    PodInit,
    Handshake(Key),
    Exit(Key),
    Output(Key, Source),
    ExecHandshake(Key),
    ExecExit(Key),
    Leaving(Key),
}

impl Supervisor {
    pub(super) fn new(place: Place, listener: Listener, proof: SingleThread) -> Self {
        Self {
            place,
            proof,
            pod: None,
            containers: Vec::new(),
            execs: Vec::new(),
            listener,
            session: None,
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
            self.expire(Instant::now());
            if self.is_empty()
                && let Some(waiting) = self.ending.take()
            {
                waiting.into_iter().for_each(|sequence| self.reply(sequence, Reply::Done));
                return Ok(());
            }
        }
    }

    /// Waits until something is there or a deadline has passed.
    fn wait(&mut self) -> io::Result<Vec<Token>> {
        let deadlines = self.containers.iter().filter_map(|(_, container)| container.deadline());
        let execs = self.execs.iter().filter_map(|(_, exec)| exec.deadline());
        let leaving = self.leaving.iter().filter_map(|(_, left)| left.deadline());
        let next = deadlines.chain(execs).chain(leaving).min();
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

    fn has_spare_memory(&mut self) {
        self.spare_since.get_or_insert_with(Instant::now);
    }

    fn give_back_memory(&mut self) {
        self.spare_since = None;
        self.buffer.release();
        sys::give_back_memory();
        sys::give_back_stack();
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

    fn descriptors(&self) -> Vec<(Token, BorrowedFd<'_>, PollFlags)> {
        let mut waited = vec![(Token::Listener, self.listener.as_fd(), PollFlags::IN)];
        if let Some(session) = &self.session {
            let out = if session.is_behind() { PollFlags::OUT } else { PollFlags::empty() };
            waited.push((Token::Session, session.as_fd(), PollFlags::IN | out));
        }
        let init = self.pod.as_ref().and_then(|pod| pod.pid.as_ref());
        waited.extend(init.map(|pid| (Token::PodInit, pid.init_pidfd.as_fd(), PollFlags::IN)));
        for (key, container) in &self.containers {
            let output = match &container.state {
                State::Starting { handshake, output, .. } => {
                    waited.push((Token::Handshake(*key), handshake.as_fd(), PollFlags::IN));
                    output
                }
                State::Running { process, output, .. } => {
                    waited.push((Token::Exit(*key), process.as_fd(), PollFlags::IN));
                    output
                }
                State::Draining { output, .. } => output,
                State::Exited(_) => continue,
            };
            let streams = output.descriptors();
            waited
                .extend(streams.map(|(source, stream)| (Token::Output(*key, source), stream, PollFlags::IN)));
        }
        for (key, exec) in &self.execs {
            waited.push(match &exec.state {
                exec::State::Starting { handshake, .. } => {
                    (Token::ExecHandshake(*key), handshake.as_fd(), PollFlags::IN)
                }
                exec::State::Running => (Token::ExecExit(*key), exec.process.as_fd(), PollFlags::IN),
            });
        }
        waited.extend(
            self.leaving
                .iter()
                .map(|(key, left)| (Token::Leaving(*key), left.process.as_fd(), PollFlags::IN)),
        );
        waited
    }

    fn handle(&mut self, token: Token) {
        match token {
            Token::Listener => self.accept(),
            Token::Session => self.serve(),
            Token::PodInit => self.reap_pod_init(),
            Token::Handshake(key) => self.progress(key),
            Token::Exit(key) => self.exited(key),
            Token::Output(key, source) => self.output(key, source),
            Token::ExecHandshake(key) => self.exec_progress(key),
            Token::ExecExit(key) => self.exec_exited(key),
            Token::Leaving(key) => self.left(key),
        }
    }

    /// The newest daemon is the one that counts: an older connection is one whose daemon has not noticed its end yet.
    fn accept(&mut self) {
        if let Ok(Some(socket)) = self.listener.accept() {
            self.lose_session();
            self.session = Some(Session::new(socket));
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
                Ok(None) => return,
                Err(Lost) => return self.lose_session(),
            }
        }
    }

    /// Execs are the daemon's: nobody else could read what they print. What waits for an answer is forgotten, since another daemon
    /// counts its requests from the beginning.
    fn lose_session(&mut self) {
        if self.session.take().is_none() {
            return;
        }
        for (key, exec) in std::mem::take(&mut self.execs) {
            exec.kill();
            self.leaving.push((key, Leaving::unasked(exec.process)));
        }
        self.containers.iter_mut().for_each(|(_, container)| container.forget_waiting());
        self.leaving.iter_mut().for_each(|(_, left)| left.waiting.clear());
        self.ending.iter_mut().for_each(Vec::clear);
    }

    pub(super) fn reply(&mut self, sequence: u64, reply: Reply) {
        self.reply_with(sequence, reply, Vec::new());
    }

    fn reply_with(&mut self, sequence: u64, reply: Reply, descriptors: Vec<OwnedFd>) {
        let Some(session) = &mut self.session else { return };
        if session.reply(sequence, reply, descriptors) == Err(Lost) {
            self.lose_session();
        }
    }

    fn tell(&mut self, event: Event) {
        if self.session.as_mut().is_some_and(|session| session.tell(event) == Err(Lost)) {
            self.lose_session();
        }
    }

    pub(super) fn find(&self, id: &str) -> Option<usize> {
        self.containers.iter().position(|(_, container)| container.id == id)
    }

    fn key(&mut self) -> Key {
        self.next_key = self.next_key.wrapping_add(1);
        self.next_key
    }

    pub(super) fn add(&mut self, container: Container) {
        let key = self.key();
        self.containers.push((key, container));
        // A start is over within a millisecond: it is often there by now.
        self.progress(key);
    }

    pub(super) fn add_exec(&mut self, exec: Exec) {
        let key = self.key();
        self.execs.push((key, exec));
    }

    fn take(&mut self, key: Key) -> Option<Container> {
        let at = self.containers.iter().position(|(other, _)| *other == key)?;
        Some(self.containers.swap_remove(at).1)
    }

    /// A start has reported something.
    fn progress(&mut self, key: Key) {
        let Some((_, container)) = self.containers.iter_mut().find(|(other, _)| *other == key) else {
            return;
        };
        let State::Starting { handshake, output, .. } = &mut container.state else { return };
        match receive(handshake, |master| output.add(Source::Stdout, master)) {
            Progress::Pending | Progress::Terminal(_) => {}
            Progress::Ready => self.started(key),
            Progress::Failed(failure) => self.start_failed(key, failure),
        }
    }

    fn started(&mut self, key: Key) {
        let Some(container) = self.take(key) else { return };
        let waiting = match &container.state {
            State::Starting { waiting, .. } => waiting.clone(),
            State::Running { .. } | State::Draining { .. } | State::Exited(_) => Vec::new(),
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
    /// Its one process is killed by its descriptor, not by the cgroup: the kernel (6.14 and later) kills whatever is cloned into a cgroup
    /// that cgroup.kill was written to more often than to the cloner's, so the retry would die.
    fn start_failed(&mut self, key: Key, failure: Failure) {
        let Some(container) = self.take(key) else { return };
        if let State::Starting { process, waiting, .. } = container.state {
            process.kill();
            let until = Instant::now() + LEAVE;
            self.leaving.push((key, Leaving { process, waiting, failure: Some(failure), until }));
            self.left(key);
        }
    }

    /// A process that was killed may have ended.
    fn left(&mut self, key: Key) {
        let Some(at) = self.leaving.iter().position(|(other, _)| *other == key) else { return };
        if self.leaving[at].1.process.reap().is_some() {
            let (_, left) = self.leaving.swap_remove(at);
            self.tell_failure(left.waiting, left.failure);
        }
    }

    fn tell_failure(&mut self, waiting: Vec<u64>, failure: Option<Failure>) {
        let Some(failure) = failure else { return };
        for sequence in waiting {
            self.reply(sequence, Reply::Failed(failure.clone()));
        }
    }

    fn exited(&mut self, key: Key) {
        let Some((_, container)) = self.containers.iter().find(|(other, _)| *other == key) else { return };
        let Some(ended) = container.process().and_then(Process::reap) else { return };
        if let Some(container) = self.take(key) {
            self.containers.push((key, container.ended(ended)));
            self.finish_if_drained(key);
        }
    }

    fn output(&mut self, key: Key, source: Source) {
        let Some((_, container)) = self.containers.iter_mut().find(|(other, _)| *other == key) else {
            return;
        };
        let id = container.id.clone();
        let failure = container.output().and_then(|output| output.collect(source, &mut self.buffer));
        self.report(id, failure);
        self.finish_if_drained(key);
    }

    fn report(&mut self, container: String, failure: Option<LogFailure>) {
        if let Some(LogFailure { path, errno }) = failure {
            self.tell(Event::LogWriteFailed { container, path, errno: errno.raw_os_error() });
        }
    }

    fn finish_if_drained(&mut self, key: Key) {
        let Some((_, container)) = self.containers.iter().find(|(other, _)| *other == key) else { return };
        if matches!(&container.state, State::Draining { output, .. } if output.ended()) {
            self.finish(key);
        }
    }

    /// The log is complete: the exit is recorded, then told.
    fn finish(&mut self, key: Key) {
        let Some(container) = self.take(key) else { return };
        let id = container.id.clone();
        let (container, failure) = container.drained(&mut self.buffer);
        self.report(id, failure);
        if let State::Exited(exit) = &container.state {
            let directory = self.place.container(&exit.container);
            if let Err(error) = record::write_exit(&directory, exit) {
                complain(&format!("writing the exit record of container \"{}\": {error}", exit.container));
            }
            self.tell(Event::ContainerExited(exit.clone()));
        }
        self.containers.push((key, container));
        self.has_spare_memory();
    }

    fn exec_progress(&mut self, key: Key) {
        let Some((_, exec)) = self.execs.iter_mut().find(|(other, _)| *other == key) else { return };
        let exec::State::Starting { handshake, sequence, terminal, .. } = &mut exec.state else { return };
        let sequence = *sequence;
        let received = receive(handshake, |master| {
            *terminal = Some(master);
            Ok(())
        });
        match received {
            Progress::Pending | Progress::Terminal(_) => {}
            Progress::Ready => {
                let pid = exec.process.pid;
                let terminal = terminal.take();
                exec.state = exec::State::Running;
                self.reply_with(sequence, Reply::ExecStarted { pid }, terminal.into_iter().collect());
            }
            Progress::Failed(failure) => self.exec_failed(key, sequence, failure),
        }
    }

    fn exec_failed(&mut self, key: Key, sequence: u64, failure: Failure) {
        let Some(at) = self.execs.iter().position(|(other, _)| *other == key) else { return };
        let (_, exec) = self.execs.swap_remove(at);
        exec.kill();
        self.leaving.push((key, Leaving::unasked(exec.process)));
        self.reply(sequence, Reply::Failed(failure));
    }

    fn exec_exited(&mut self, key: Key) {
        let Some(at) = self.execs.iter().position(|(other, _)| *other == key) else { return };
        if let Some(ended) = self.execs[at].1.process.reap() {
            let (_, exec) = self.execs.swap_remove(at);
            self.tell(Event::ExecExited(ExecExit {
                exec: exec.name,
                exit_code: ended.code,
                signal: ended.signal,
            }));
        }
    }

    /// The pod's first process only ends when it is killed; the kernel has ended everything else in the namespace then.
    fn reap_pod_init(&mut self) {
        if let Some(pod) = &mut self.pod
            && pod.pid.as_ref().is_some_and(|pid| process::reap(pid.init_pidfd.as_fd()).is_some())
        {
            pod.pid = None;
        }
    }

    /// Starts that take too long, and output that somebody else holds open.
    fn expire(&mut self, now: Instant) {
        let late =
            self.containers.iter().filter(|(_, c)| c.deadline().is_some_and(|deadline| deadline <= now));
        for key in late.map(|(key, _)| *key).collect::<Vec<_>>() {
            let starting =
                |(other, c): &(Key, Container)| *other == key && matches!(c.state, State::Starting { .. });
            match self.containers.iter().find(|entry| starting(entry)) {
                Some((_, container)) => {
                    let failure = container::too_late(&container.id);
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

    /// Kills everything; the loop ends when all of it has been waited for.
    pub(super) fn shut_down(&mut self, sequence: u64) {
        self.ending.get_or_insert_default().push(sequence);
        for (_, container) in &self.containers {
            if let Some(process) = container.process() {
                let _ = container.cgroup.kill();
                process.kill();
            }
        }
        self.execs.iter().for_each(|(_, exec)| exec.kill());
        if let Some(pid) = self.pod.as_ref().and_then(|pod| pod.pid.as_ref()) {
            let _ = rustix::process::pidfd_send_signal(&pid.init_pidfd, rustix::process::Signal::KILL);
        }
    }

    /// Whether it was asked to end.
    pub(super) fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// Whether no process of the pod's is left to wait for.
    fn is_empty(&self) -> bool {
        let over = |container: &Container| matches!(container.state, State::Exited(_));
        self.containers.iter().all(|(_, container)| over(container))
            && self.execs.is_empty()
            && self.leaving.is_empty()
            && self.pod.as_ref().is_none_or(|pod| pod.pid.is_none())
    }
}

impl Leaving {
    /// One that nobody asks about.
    fn unasked(process: Process) -> Self {
        Self { process, waiting: Vec::new(), failure: None, until: Instant::now() }
    }

    /// When those who wait are told though it has not ended.
    fn deadline(&self) -> Option<Instant> {
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

/// Standard error is the pod's supervisor.log.
fn complain(what: &str) {
    use std::io::Write;
    let _ = writeln!(io::stderr(), "{what}");
}
