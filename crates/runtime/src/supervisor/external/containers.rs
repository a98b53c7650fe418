//! A container's life with an external runtime: `create`, its process adopted, `start`; `kill`; `delete`.

use std::ffi::OsString;
use std::fs::{read_link, remove_file};
use std::time::{Duration, Instant};

use super::call::{self, Call, Order, Scratch, failure};
use super::console::Console;
use super::{Purpose, Supervisor};
use crate::container::Until;
use crate::external::{External, KNOWN};
use crate::plan::NamespaceSource;
use crate::regular;
use crate::supervisor::container::{Container, State};
use crate::supervisor::ends::complain;
use crate::supervisor::event_loop::Key;
use crate::supervisor::lines::Source;
use crate::supervisor::process::Process;
use crate::supervisor::starts::Leaving;
use crate::supervisor::streams;
use crate::wire::StartContainer;
use crate::{FailedStep, Failure};

/// How long a runtime may take to forget a container.
const DELETE: Duration = Duration::from_secs(10);
/// How long it may take to send a signal, before that is done without it.
const KILL: Duration = Duration::from_secs(1);

impl Supervisor {
    /// Has a container made.
    ///
    /// # Errors
    /// What failed before the runtime was at work; nothing is left then.
    pub(in crate::supervisor) fn start_external(
        &mut self,
        mut start: StartContainer,
        external: External,
        sequence: u64,
    ) -> Result<(), Failure> {
        self.adopt_orphans()?;
        let (output, child, input) = streams::make(&mut start)?;
        let console = match start.plan.process.terminal {
            Some(_) => Some(listen(&external, "init")?),
            None => None,
        };
        let streams = match console {
            Some(_) => None,
            None => Some(child.into_streams()?),
        };
        let pid_file = Scratch(external.bundle.join("init.pid"));
        let _earlier = remove_file(&pid_file.0);
        let mut arguments: Vec<OsString> = vec!["--bundle".into(), external.bundle.clone().into()];
        arguments.extend(["--pid-file".into(), pid_file.0.clone().into()]);
        if let Some(console) = &console {
            arguments.extend(["--console-socket".into(), console.path().into()]);
        }
        arguments.push(start.container.clone().into());
        let until = Instant::now() + Duration::from_millis(start.deadline_ms);
        let failed = |error: std::io::Error| failure("create", error.to_string(), error.raw_os_error());
        regular::write(&external.bundle.join(KNOWN), &[]).map_err(failed)?;
        let order = Order { external: &external, verb: "create", arguments, streams, name: "init", until };
        let call = Call::begin(order).inspect_err(|_| {
            let _unknown = remove_file(external.bundle.join(KNOWN));
        })?;
        let pid_target = match start.plan.namespaces.pid {
            NamespaceSource::Container(id) => Some(id),
            NamespaceSource::Host | NamespaceSource::Pod | NamespaceSource::Own => None,
        };
        let state = State::Making { process: None, output, input, waiting: vec![sequence], until };
        let (id, cgroup, external) = (start.container, start.cgroup, Some(Box::new(external)));
        let key = self.key();
        // Its hooks are in its specification, and so the runtime's.
        let container = Container { id, cgroup, hooks: None, until: Until::Executed, state, external };
        self.containers.push((key, container));
        self.begin(call, Purpose::Create { container: key, console, pid_file, pid_target });
        Ok(())
    }

    /// The runtime has made the container's process, which waits for `start`.
    pub(super) fn adopt_first(
        &mut self,
        key: Key,
        pid_file: &Scratch,
        (console, pid_target): (Option<Console>, Option<String>),
    ) -> Result<(), Failure> {
        let failed = |why: String| failure("create", why, None);
        let process = call::adopt(&pid_file.0).map_err(failed)?;
        if self.minds(process.pid) {
            return Err(failed(format!("process {} of its pid file is another's", process.pid)));
        }
        let target =
            pid_target.as_ref().map(|id| self.find(id).and_then(|at| self.containers[at].1.process()));
        let joined = target.is_none_or(|target| target.is_some_and(|target| share_pids(target, &process)));
        let terminal = console.map(|console| console.terminal()).transpose();
        let Some((_, container)) = self.containers.iter_mut().find(|(other, _)| *other == key) else {
            return Ok(());
        };
        // From here on it is killed with the container.
        let pid = process.pid;
        let State::Making { process: first, output, .. } = &mut container.state else { return Ok(()) };
        *first = Some(process);
        let terminal =
            terminal.map_err(|errno| Failure::system(FailedStep::Terminal, errno, "console socket"))?;
        if let Some(master) = terminal {
            output
                .add(Source::Stdout, master)
                .map_err(|errno| Failure::system(FailedStep::Terminal, errno, "terminal"))?;
        }
        if !joined {
            return Err(failed("the container whose processes it was to see has ended".to_owned()));
        }
        self.place(key, pid).map_err(failed)
    }

    /// Puts a process into its container's cgroup, unless its runtime has: one may leave out a hierarchy that it makes no use of, or
    /// be told to leave all of them alone.
    pub(super) fn place(&self, key: Key, pid: i32) -> Result<(), String> {
        let Some((_, container)) = self.containers.iter().find(|(other, _)| *other == key) else {
            return Err("the container has ended".to_owned());
        };
        if container.cgroup.procs().is_ok_and(|inside| inside.contains(&pid)) {
            return Ok(());
        }
        container.cgroup.join(pid).map_err(|error| format!("{error} for process {pid}"))
    }

    pub(super) fn call_start(&mut self, key: Key) -> Result<(), Failure> {
        let Some((_, container)) = self.containers.iter().find(|(other, _)| *other == key) else {
            return Ok(());
        };
        let (State::Making { until, .. }, Some(external)) = (&container.state, &container.external) else {
            return Ok(());
        };
        let call = plain(external, ("start", &[], &container.id), *until)?;
        self.begin(call, Purpose::Start { container: key });
        Ok(())
    }

    /// A start has failed: what is there of the container goes, then those who wait are told.
    pub(super) fn undo(&mut self, key: Key, failure: Failure) {
        let Some((_, container)) = self.containers.iter().find(|(other, _)| *other == key) else { return };
        if let Some(process) = container.process() {
            process.kill();
        }
        // What a runtime that was killed has put there.
        let _none = container.cgroup.kill();
        let Some(external) = &container.external else { return };
        match plain(external, ("delete", &["--force"], &container.id), Instant::now() + DELETE) {
            Ok(call) => self.begin(call, Purpose::Undo { container: key, failure }),
            Err(error) => self.undone(key, failure, Err(error)),
        }
    }

    pub(super) fn undone(&mut self, key: Key, failure: Failure, outcome: Result<(), Failure>) {
        let Some(container) = self.take(key) else { return };
        self.forgotten(&container, outcome);
        if let State::Making { process, waiting, mut output, .. } = container.state {
            let news = output.close(&mut self.buffer, self.attachments.of(key));
            self.report(&container.id, news);
            self.tell_failure(waiting, Some(failure));
            self.leaving.extend(process.map(|process| (key, Leaving::unasked(process))));
        }
    }

    /// Has the runtime forget a container that has ended; its end is told when it has.
    pub(in crate::supervisor) fn clear(&mut self, key: Key) {
        let Some((_, container)) = self.containers.iter().find(|(other, _)| *other == key) else { return };
        let Some(external) = &container.external else { return };
        match plain(external, ("delete", &["--force"], &container.id), Instant::now() + DELETE) {
            Ok(call) => self.begin(call, Purpose::Clear { container: key }),
            Err(error) => self.cleared(key, Err(error)),
        }
    }

    pub(super) fn cleared(&mut self, key: Key, outcome: Result<(), Failure>) {
        let Some(container) = self.take(key) else { return };
        self.forgotten(&container, outcome);
        let state = match container.state {
            State::Clearing { exit } => State::Exited(exit),
            other => other,
        };
        self.containers.push((key, Container { state, ..container }));
        self.tell_end(key);
    }

    /// What the runtime could not be made to forget the daemon has it forget again.
    fn forgotten(&self, container: &Container, outcome: Result<(), Failure>) {
        let Some(external) = &container.external else { return };
        match outcome {
            Ok(()) => {
                let _known = remove_file(external.bundle.join(KNOWN));
            }
            Err(failure) => complain(&format!("container \"{}\": {failure}", container.id)),
        }
    }

    /// Has the runtime send a signal: what the container's process is to the host may be a stand-in for it.
    ///
    /// # Errors
    /// When the runtime can't be called.
    pub(in crate::supervisor) fn call_kill(
        &mut self,
        key: Key,
        signal: i32,
        sequence: u64,
    ) -> Result<(), Failure> {
        let Some((_, container)) = self.containers.iter().find(|(other, _)| *other == key) else {
            return Ok(());
        };
        let Some(external) = &container.external else { return Ok(()) };
        let number = signal.to_string();
        let until = Instant::now() + KILL;
        let arguments: Vec<OsString> = vec![container.id.clone().into(), number.into()];
        let name = format!("{}-{sequence}", signal);
        let call =
            Call::begin(Order { external, verb: "kill", arguments, streams: None, name: &name, until })?;
        self.begin(call, Purpose::Kill { container: key, signal, sequence });
        Ok(())
    }

    pub(super) fn killed(&mut self, key: Key, (signal, sequence): (i32, u64), outcome: Result<(), Failure>) {
        let found = self.containers.iter().find(|(other, _)| *other == key);
        let sent = match (outcome, found.and_then(|(_, container)| container.process())) {
            (Ok(()), _) => Ok(()),
            (Err(_), None) => Err(rustix::io::Errno::SRCH),
            (Err(_), Some(process)) => process.signal(signal),
        };
        let reply = super::super::requests::signalled(sent, signal);
        self.reply(sequence, reply);
    }
}

/// A call whose streams are nobody's.
fn plain(
    external: &External,
    (verb, options, id): (&'static str, &[&str], &str),
    until: Instant,
) -> Result<Call, Failure> {
    let mut arguments: Vec<OsString> = options.iter().map(OsString::from).collect();
    arguments.push(id.into());
    Call::begin(Order { external, verb, arguments, streams: None, name: "init", until })
}

pub(super) fn listen(external: &External, name: &str) -> Result<Console, Failure> {
    Console::listen(&external.bundle, name).map_err(|error| {
        let errno = rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO);
        Failure::system(FailedStep::Terminal, errno, "console socket")
    })
}

/// Whether two processes see the same ones. The path by which the runtime found the namespace could have come to mean another: its
/// process may have ended, and its number been given away. A process that is minded here keeps its own.
fn share_pids(target: &Process, process: &Process) -> bool {
    let namespace = |process: &Process| read_link(format!("/proc/{}/ns/pid", process.pid)).ok();
    namespace(target).is_some_and(|of_target| namespace(process) == Some(of_target))
}
