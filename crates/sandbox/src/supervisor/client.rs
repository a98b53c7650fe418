//! What the daemon asks of a supervisor, as functions.
//!
//! Processes that join a container, and connections to its streams, are in `streams`. Not here: how requests and replies find each other (see `connection`), who the supervisor is (see `spawn`).

mod streams;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use runtime::cgroup::Cgroup;
use runtime::container::Until;
use runtime::external::External;
use runtime::plan::{Plan, PodPlan};
use runtime::wire::{
    self, ContainerState, Exit, JournalCopy, LogLimits, Reply, Request, Scope, StartContainer, Target,
};

use crate::container::config::Stdin;
use crate::container::state::Process;
use crate::error::Error;
use crate::id::ContainerId;
use crate::pod::state::ProcessId;
use crate::record::ContainerFacts;
use crate::recover::Seen;
use crate::signal::Signal;
use crate::supervisor::connection::{Attempt, Connection};
use crate::users::UserMap;

pub(crate) use streams::{Attach, Attachment, Exec, ExecStart, InputEnd, Joined, Killer};

/// How much longer than the supervisor the daemon waits for the outcome of a start, which has a deadline over there.
const MARGIN: Duration = Duration::from_secs(5);

/// How long an answer may take that needs no work.
const PROMPT: Duration = Duration::from_secs(5);

/// The end of a container, as its supervisor reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExitReport {
    /// Exit status, or 128 and the number of the signal.
    pub(crate) exit_code: i32,
    pub(crate) oom_killed: bool,
    /// Nanoseconds since the epoch.
    pub(crate) started_at: i64,
    /// Nanoseconds since the epoch.
    pub(crate) finished_at: i64,
}

impl From<&Exit> for ExitReport {
    fn from(exit: &Exit) -> Self {
        let Exit { exit_code, oom_killed, started_at, finished_at, .. } = *exit;
        Self { exit_code, oom_killed, started_at, finished_at }
    }
}

impl ExitReport {
    /// What the supervisor wrote into a container's directory; `None` when it wrote nothing that can be read.
    pub(crate) fn read(directory: &Path) -> Option<Self> {
        match runtime::record::read_exit(directory) {
            Ok(exit) => exit.as_ref().map(Self::from),
            Err(error) => {
                tracing::warn!(directory = %directory.display(), %error, "an exit record cannot be read");
                None
            }
        }
    }
}

/// A container to start.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    pub(crate) facts: &'a ContainerFacts,
    pub(crate) plan: Plan,
    pub(crate) cgroup: Cgroup,
    /// The root, then the plan's sources; none for an external runtime.
    pub(crate) descriptors: Vec<OwnedFd>,
    /// Who makes it, when it is not the supervisor.
    pub(crate) external: Option<External>,
    pub(crate) log: LogWish,
}

/// What is wanted of a container's log.
#[derive(Debug)]
pub(crate) struct LogWish {
    pub(crate) limits: Option<LogLimits>,
    pub(crate) copy: Option<JournalCopy>,
}

/// What came of a start.
#[derive(Debug)]
pub(crate) enum Begun {
    /// It runs.
    Runs(Process),
    /// It ran before, and has ended.
    Ended(Process, ExitReport),
}

/// The daemon's end of a connection. Cloning gives another handle.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    connection: Connection,
}

#[derive(Debug, thiserror::Error)]
#[error("it does not understand the request: {0}")]
struct NotUnderstood(String);

#[derive(Debug, thiserror::Error)]
#[error("it answered something else: {0}")]
struct Unexpected(String);

impl Client {
    pub(crate) fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// Whether the supervisor's end of the connection is open, so that it lives. Asks the kernel and not the supervisor.
    pub(crate) fn is_there(&self) -> bool {
        self.connection.is_open()
    }

    /// Introduces the daemon. The supervisor says which pod it minds, and which process it is.
    pub(crate) async fn hello(&self, after: Duration) -> Result<(String, i32), Error> {
        let step = "greeting the supervisor";
        match self.ask(Request::Hello { version: wire::VERSION }, (step, after)).await? {
            Reply::Welcome { pod, pid, .. } => Ok((pod, pid)),
            other => Err(self.failed(step, other)),
        }
    }

    /// Has the pod's namespaces made, around a network namespace that is prepared. The network namespace can be opened at the path
    /// that it answers.
    pub(crate) async fn create_pod(
        &self,
        plan: PodPlan,
        prepared: Option<OwnedFd>,
        after: Duration,
    ) -> Result<Option<PathBuf>, Error> {
        let step = "creating the namespaces";
        let (prepared, of) = (prepared.into_iter().collect(), (step, self.connection.pod(), after));
        match self.connection.ask(Request::CreatePod(plan), prepared, of).await? {
            Reply::PodCreated(created) => Ok(created.network),
            other => Err(self.failed(step, other)),
        }
    }

    /// The user namespace of a pod that has one.
    ///
    /// # Errors
    /// [`Error::Step`], also when there is none.
    pub(crate) async fn user_namespace(&self, after: Duration) -> Result<UserMap, Error> {
        let step = "asking the supervisor for the user namespace";
        match self.ask(Request::Snapshot, (step, after)).await? {
            Reply::Snapshot(wire::Snapshot {
                pod: Some(wire::PodCreated { user: Some(path), .. }), ..
            }) => UserMap::open(&path),
            other => Err(self.failed(step, other)),
        }
    }

    /// Where the pod's namespaces can be opened.
    pub(crate) async fn namespaces(&self, after: Duration) -> Result<wire::PodCreated, Error> {
        let step = "asking the supervisor for the namespaces";
        match self.ask(Request::Snapshot, (step, after)).await? {
            Reply::Snapshot(wire::Snapshot { pod: Some(created), .. }) => Ok(created),
            other => Err(self.failed(step, other)),
        }
    }

    /// Asks what runs, and where the pod's network namespace can be opened, once there is one.
    pub(crate) async fn snapshot(
        &self,
        after: Duration,
    ) -> Result<(BTreeMap<ContainerId, Seen>, Option<PathBuf>), Error> {
        let step = "asking the supervisor what runs";
        let snapshot = match self.ask(Request::Snapshot, (step, after)).await? {
            Reply::Snapshot(snapshot) => snapshot,
            other => return Err(self.failed(step, other)),
        };
        let seen = |container: wire::ContainerSnapshot| {
            let id = ContainerId::try_from(container.container).ok()?;
            let seen = match container.state {
                ContainerState::Starting | ContainerState::Created { .. } => Seen::Begins,
                ContainerState::Running { pid, start_time, started_at } => {
                    Seen::Runs(Process { id: ProcessId { pid, start_time }, started_at })
                }
                ContainerState::Exited(exit) => Seen::Ended(ExitReport::from(&exit)),
            };
            Some((id, seen))
        };
        let netns = snapshot.pod.and_then(|pod| pod.network);
        Ok((snapshot.containers.into_iter().filter_map(seen).collect(), netns))
    }

    /// Has a container started. One that was started before is found as it is.
    ///
    /// # Errors
    /// [`Error::Start`] with the step that failed.
    pub(crate) async fn start(&self, start: Start<'_>, after: Duration) -> Result<Begun, Error> {
        let step = "the start";
        let container = start.facts.id.to_string();
        let request = Request::Start(Box::new(StartContainer {
            container: container.clone(),
            plan: start.plan,
            cgroup: start.cgroup,
            log: start.facts.log_path.clone(),
            log_limits: start.log.limits,
            log_copy: start.log.copy,
            stdin: match start.facts.config.stdin {
                Stdin::Null => wire::Stdin::Null,
                Stdin::Open => wire::Stdin::Open,
                Stdin::Once => wire::Stdin::Once,
            },
            deadline_ms: milliseconds(after),
            external: start.external,
            until: Until::Executed,
            streams: Vec::new(),
        }));
        let attempt = (step, container.as_str(), after + MARGIN);
        match self.connection.ask(request, start.descriptors, attempt).await? {
            Reply::Started { pid, start_time, started_at } => {
                Ok(Begun::Runs(Process { id: ProcessId { pid, start_time }, started_at }))
            }
            Reply::Exited(exit) => {
                let id = ProcessId { pid: exit.pid, start_time: exit.start_time };
                Ok(Begun::Ended(Process { id, started_at: exit.started_at }, ExitReport::from(&exit)))
            }
            Reply::Failed(failure) => Err(Error::Start { container, cause: Arc::new(failure) }),
            other => Err(failed((step, &container), other)),
        }
    }

    /// Sends a signal to a container's first process.
    pub(crate) async fn signal(
        &self,
        facts: &ContainerFacts,
        signal: Signal,
        after: Duration,
    ) -> Result<(), Error> {
        self.send_signal(&facts.id, (signal, Scope::Init), after).await
    }

    /// Kills every process of a container.
    pub(crate) async fn kill(&self, facts: &ContainerFacts, after: Duration) -> Result<(), Error> {
        self.send_signal(&facts.id, (Signal::KILL, Scope::All), after).await
    }

    /// Kills every process of a container that nobody knows, and has it forgotten.
    pub(crate) async fn kill_stray(&self, id: &ContainerId, after: Duration) -> Result<(), Error> {
        self.send_signal(id, (Signal::KILL, Scope::All), after).await
    }

    async fn send_signal(
        &self,
        id: &ContainerId,
        (signal, scope): (Signal, Scope),
        after: Duration,
    ) -> Result<(), Error> {
        let target = Target::Container(id.to_string());
        let request = Request::Signal { target, signal: signal.number(), scope };
        self.done(request, ("signalling the processes", id.as_str(), after)).await
    }

    /// Has a container that has ended forgotten.
    pub(crate) async fn forget(&self, facts: &ContainerFacts, after: Duration) -> Result<(), Error> {
        let request = Request::Forget { container: facts.id.to_string() };
        self.done(request, ("forgetting the end", facts.id.as_str(), after)).await
    }

    /// Has a container's log opened anew.
    pub(crate) async fn reopen_log(&self, id: &ContainerId, after: Duration) -> Result<(), Error> {
        let request = Request::ReopenLog { container: id.to_string() };
        self.done(request, ("reopening the log", id.as_str(), after)).await
    }

    /// Asks the supervisor to end everything and itself.
    pub(crate) async fn shutdown(&self, after: Duration) -> Result<(), Error> {
        self.done(Request::Shutdown, ("ending the supervisor", self.connection.pod(), after)).await
    }

    async fn done(&self, request: Request, (step, subject, after): Attempt<'_>) -> Result<(), Error> {
        match self.connection.ask(request, Vec::new(), (step, subject, after)).await? {
            // What is gone needs no signal and no forgetting.
            Reply::Done | Reply::Gone => Ok(()),
            other => Err(failed((step, subject), other)),
        }
    }

    /// Asks for what is the pod's.
    async fn ask(&self, request: Request, (step, after): (&'static str, Duration)) -> Result<Reply, Error> {
        self.connection.ask(request, Vec::new(), (step, self.connection.pod(), after)).await
    }

    fn failed(&self, step: &'static str, reply: Reply) -> Error {
        failed((step, self.connection.pod()), reply)
    }
}

/// Of an answer that is not what was asked for.
fn failed((step, subject): (&'static str, &str), reply: Reply) -> Error {
    match reply {
        Reply::Failed(failure) => Error::step(step, subject, failure),
        Reply::Unknown { why } => Error::step(step, subject, NotUnderstood(why)),
        other @ (Reply::Welcome { .. }
        | Reply::PodCreated(_)
        | Reply::Snapshot(_)
        | Reply::Started { .. }
        | Reply::Created { .. }
        | Reply::Exited(_)
        | Reply::ExecStarted { .. }
        | Reply::Attached { .. }
        | Reply::Gone
        | Reply::Done) => Error::step(step, subject, Unexpected(format!("{other:?}"))),
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
