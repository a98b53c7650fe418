//! The messages. Plain data. An unknown field of a request is refused: it could be a limit. One of a reply or
//! an event is passed over: an older daemon that came back must still hear how a container ended.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::cgroup::Cgroup;
use crate::container::Until;
use crate::external::External;
use crate::plan::{Plan, PodPlan, ProcessPlan};

/// One of the three kinds.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// From the daemon.
    Request(Request),
    /// The answer to a request.
    Reply(Reply),
    /// From the supervisor, unasked.
    Event(Event),
}

/// What a daemon can ask for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Who is there? Answered by [`Reply::Welcome`].
    Hello {
        /// The daemon's [`VERSION`](super::VERSION).
        version: u16,
    },
    /// Make the pod's namespaces. A descriptor, if there is one: a network namespace that is ready, for a pod without a user namespace
    /// of its own. Answered by [`Reply::PodCreated`], the same one when asked again.
    CreatePod(PodPlan),
    /// What is there? Answered by [`Reply::Snapshot`].
    Snapshot,
    /// Start a container. Descriptors: its root filesystem, then its volumes in the order of the plan's
    /// sources, then its streams in the order of [`StartContainer::streams`]. Answered by [`Reply::Started`],
    /// [`Reply::Created`] when that is all that was asked for, [`Reply::Exited`] when it has run already, or
    /// [`Reply::Failed`].
    Start(Box<StartContainer>),
    /// Let a container go on that was only to be created. Answered as [`Request::Start`];
    /// [`Reply::Gone`] when there is none.
    Execute {
        /// The container.
        container: String,
        /// After so many milliseconds without an execve(2) it is killed, and the start has failed.
        deadline_ms: u64,
    },
    /// Send a signal. Answered by [`Reply::Done`]; [`Reply::Gone`] when it has ended.
    Signal {
        /// To whom.
        target: Target,
        /// Its number.
        signal: i32,
        /// How far it reaches.
        scope: Scope,
    },
    /// Run a process in a container. Descriptors: its streams in the order of [`StartExec::streams`].
    /// Answered by [`Reply::ExecStarted`] or [`Reply::Failed`]; its end is an [`Event::ExecExited`]. It is
    /// killed when the connection ends.
    Exec(Box<StartExec>),
    /// Have a running container's output copied from now on, and hand over its input. Descriptors: writing ends of pipes for the
    /// output streams among `streams`, in their order. Answered by [`Reply::Attached`], [`Reply::Gone`] when the container
    /// doesn't run, [`Reply::Failed`]; its end is an [`Event::Detached`], unless it was asked for. It ends with the connection.
    Attach {
        /// The container.
        container: String,
        /// A name for it, of the daemon's choice.
        attachment: String,
        /// What is wanted. Of a terminal all output is [`Stream::Stdout`].
        streams: Vec<Stream>,
    },
    /// End an attachment, or a part of it. When the first one has gone that had the input of a container with
    /// [`Stdin::Once`], that input ends. Answered by [`Reply::Done`], also when it is not known.
    Detach {
        /// The attachment.
        attachment: String,
        /// Which of its streams; empty for all of it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        streams: Vec<Stream>,
    },
    /// Open a container's log anew by its path. Answered by [`Reply::Done`].
    ReopenLog {
        /// The container.
        container: String,
    },
    /// Forget an exited container. Answered by [`Reply::Done`], also when it is not known.
    Forget {
        /// The container.
        container: String,
    },
    /// Kill what is left and end. Answered by [`Reply::Done`] before the end.
    Shutdown,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Hello`].
    Welcome {
        /// The supervisor's [`VERSION`](super::VERSION).
        version: u16,
        /// The pod it minds.
        pod: String,
        /// Its process id.
        pid: i32,
    },
    /// To [`Request::CreatePod`].
    PodCreated(PodCreated),
    /// To [`Request::Snapshot`].
    Snapshot(Snapshot),
    /// To [`Request::Start`]: the command has been executed.
    Started {
        /// The container's first process, as the supervisor sees it.
        pid: i32,
        /// When it started, in clock ticks since boot.
        start_time: u64,
        /// When it started, in nanoseconds since the epoch.
        started_at: i64,
    },
    /// To [`Request::Start`] of a container that is to be created only: all is done but the command.
    /// Descriptor: the master side of its terminal, if it has one.
    Created {
        /// The container's first process, as the supervisor sees it.
        pid: i32,
        /// When it started, in clock ticks since boot.
        start_time: u64,
    },
    /// To [`Request::Start`] of a container that has run.
    Exited(Exit),
    /// To [`Request::Exec`]: the command has been executed. Descriptor: the master side of its terminal, if
    /// it has one.
    ExecStarted {
        /// The process, as the supervisor sees it.
        pid: i32,
    },
    /// To [`Request::Attach`]. Descriptor: what `input` says.
    Attached {
        /// Where the container reads from.
        input: AttachedInput,
    },
    /// It is done.
    Done,
    /// There is no such container, exec or process any more.
    Gone,
    /// It failed.
    Failed(Failure),
    /// The request could not be understood.
    Unknown {
        /// What was not understood.
        why: String,
    },
}

/// What a supervisor tells unasked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A container's first process has ended, its output is in the log, its exit record is written.
    ContainerExited(Exit),
    /// An exec has ended.
    ExecExited(ExecExit),
    /// An attachment has ended by itself.
    Detached {
        /// The attachment.
        attachment: String,
        /// Why.
        why: DetachReason,
    },
    /// A container's log can't be written, or journald not be reached for its copy. Told once until [`Event::LogLost`]; the container
    /// goes on.
    LogWriteFailed {
        /// The container.
        container: String,
        /// Its log.
        path: PathBuf,
        /// The kernel's error number.
        errno: i32,
    },
    /// A log that could not be written can be again, or its container has ended without that.
    LogLost {
        /// The container.
        container: String,
        /// Its log.
        path: PathBuf,
        /// Lines that are missing in it.
        lines: u64,
        /// Their length, in bytes as the container wrote them.
        bytes: u64,
    },
}

/// What comes with [`Reply::Attached`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttachedInput {
    /// No descriptor: no input was asked for, or the container has none (any more).
    None,
    /// The writing end of the pipe that the container reads from; it doesn't block.
    Pipe,
    /// The master side of the container's terminal, also when no input was asked for: it has the size. Not to be read from;
    /// it doesn't block.
    Terminal,
}

/// Why an attachment ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DetachReason {
    /// The container has ended, and all of its output is in the pipes.
    Ended,
    /// The pipes were not read fast enough: what would not have fitted is lost to them.
    TooSlow,
}

/// A container to start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartContainer {
    /// Its id.
    pub container: String,
    /// How to make it.
    pub plan: Plan,
    /// Where its processes go; it exists.
    pub cgroup: Cgroup,
    /// Its log, an absolute path; none to throw the output away.
    pub log: Option<PathBuf>,
    /// Limits of that log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_limits: Option<LogLimits>,
    /// What becomes of the output besides, when there is a log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_copy: Option<JournalCopy>,
    /// What it finds on standard input, when it has no terminal.
    pub stdin: Stdin,
    /// After so many milliseconds without an execve(2) it is killed, and the start has failed.
    pub deadline_ms: u64,
    /// The OCI runtime that makes it in place of the supervisor, which then needs no descriptors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<External>,
    /// How far it goes without being told.
    #[serde(default, skip_serializing_if = "Until::is_executed")]
    pub until: Until,
    /// Which streams the last descriptors are, in their order, instead of a log; the others are /dev/null.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<Stream>,
}

/// How much of a container's output its log takes. What is more is dropped in whole lines, and the log says how much it was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogLimits {
    /// Bytes of the log a second; as many may come at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// Bytes of the file; beyond that nothing is written until it is opened anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// A copy of a container's output for journald, by its native protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JournalCopy {
    /// journald's socket, an absolute path.
    pub socket: PathBuf,
    /// The fields of each entry, besides its message and its priority.
    pub fields: BTreeMap<String, String>,
}

/// What a container finds on standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stdin {
    /// /dev/null.
    Null,
    /// Kept open for as long as the container runs.
    Open,
    /// Closed after the first client that attached has gone.
    Once,
}

/// A process to run in a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartExec {
    /// A name for it, of the daemon's choice.
    pub exec: String,
    /// The container.
    pub container: String,
    /// The process.
    pub process: ProcessPlan,
    /// Which streams the descriptors are, in their order; the others are /dev/null.
    pub streams: Vec<Stream>,
    /// After so many milliseconds without an execve(2) it is killed, and the exec has failed.
    pub deadline_ms: u64,
}

/// A standard stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Descriptor 0.
    Stdin,
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

/// Whom a signal is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A container, by id.
    Container(String),
    /// An exec, by the name it was given.
    Exec(String),
}

/// How far a signal reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The first process alone.
    Init,
    /// A container: everything in its cgroup, by SIGKILL whatever the signal. An exec: its process group; by SIGKILL also its
    /// session, and every process that descends from it at that moment.
    All,
    /// A container: as `All`. An exec: its process group and its session by SIGKILL, whatever the signal; what it has started in
    /// sessions of their own, to outlive it, is left.
    Session,
}

/// A pod's namespaces, made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodCreated {
    /// Where its network namespace can be opened while the supervisor lives; none on the host network.
    pub network: Option<PathBuf>,
    /// The first process of its shared pid namespace, as the supervisor sees it.
    pub init: Option<i32>,
    /// Where its user namespace can be opened while the supervisor lives; none on the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<PathBuf>,
    /// Where its IPC namespace can be opened while the supervisor lives; none on the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipc: Option<PathBuf>,
    /// Where its UTS namespace can be opened while the supervisor lives; none on the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uts: Option<PathBuf>,
    /// Where its shared pid namespace can be opened while the supervisor lives; none without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<PathBuf>,
}

/// What a supervisor minds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The pod's namespaces, when they are made.
    pub pod: Option<PodCreated>,
    /// Every container that was started and not forgotten.
    pub containers: Vec<ContainerSnapshot>,
}

/// One container of a [`Snapshot`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSnapshot {
    /// Its id.
    pub container: String,
    /// How far it is.
    pub state: ContainerState,
}

/// How far a container is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerState {
    /// Its command has not been executed yet.
    Starting,
    /// It waits for [`Request::Execute`].
    Created {
        /// Its first process.
        pid: i32,
        /// When it started, in clock ticks since boot.
        start_time: u64,
    },
    /// It runs.
    Running {
        /// Its first process.
        pid: i32,
        /// When it started, in clock ticks since boot.
        start_time: u64,
        /// When it started, in nanoseconds since the epoch.
        started_at: i64,
    },
    /// It has ended.
    Exited(Exit),
}

/// The end of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The container.
    pub container: String,
    /// Its first process.
    pub pid: i32,
    /// When that started, in clock ticks since boot.
    pub start_time: u64,
    /// Its exit status, or 128 and the number of the signal that ended it.
    pub exit_code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the kernel killed a process of the container's for want of memory.
    pub oom_killed: bool,
    /// When it started, in nanoseconds since the epoch.
    pub started_at: i64,
    /// When it ended, in nanoseconds since the epoch.
    pub finished_at: i64,
}

/// The end of an exec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecExit {
    /// The exec.
    pub exec: String,
    /// Its exit status, or 128 and the number of the signal that ended it.
    pub exit_code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
}
