//! Making a container's processes: its first one ([`launch()`]), and those that join it later ([`exec()`]).
//!
//! Called by the supervisor, in a process with one thread. Both return as soon as a child runs: the process itself, or the
//! starter of a [`Birth`]. How far the process got is read from the [`Handshake`]. What the child does is in `init`.

mod birth;
mod exec;
mod ids;
mod launch;
mod pid_namespace;
mod user;

use std::os::fd::{BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;
use crate::handshake::Handshake;
use crate::namespaces::{PodNamespaces, PodUser};
use crate::plan::{Plan, ProcessPlan};
use crate::sys::Child;
use crate::{FailedStep, Failure};

pub use birth::{Birth, Delivery, Starter};
pub use exec::exec;
pub use launch::launch;

/// What a container's first process is made from.
#[derive(Debug)]
pub struct LaunchRequest<'a> {
    /// What to do.
    pub plan: &'a Plan,
    /// The root filesystem: a detached mount that nothing else uses.
    pub root: BorrowedFd<'a>,
    /// Detached mounts, one for each of the plan's sources, in their order.
    pub sources: &'a [OwnedFd],
    /// The pod's namespaces, as [`crate::namespaces::create_pod`] made them.
    pub pod: &'a PodNamespaces,
    /// The process whose pid namespace is joined when the plan says `NamespaceSource::Container`.
    pub pid_target: Option<BorrowedFd<'a>>,
    /// The cgroup that the process starts in; it exists.
    pub cgroup: &'a Cgroup,
    /// Its streams, unless the plan has a terminal.
    pub streams: Streams<'a>,
    /// How far it goes by itself.
    pub until: Until,
}

/// How far a container's first process goes by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Until {
    /// It executes its command.
    #[default]
    Executed,
    /// It waits when all but that is done, until it is told to go on (runtime.md, "Create" and "Start").
    Created,
}

impl Until {
    pub(crate) fn is_executed(&self) -> bool {
        *self == Self::Executed
    }
}

/// A process that joins a running container.
#[derive(Debug)]
pub struct ExecRequest<'a> {
    /// What to execute.
    pub process: &'a ProcessPlan,
    /// The pidfd of the container's first process.
    pub container: BorrowedFd<'a>,
    /// The user namespace that the container is in.
    pub user: Option<&'a PodUser>,
    /// The container's cgroup.
    pub cgroup: &'a Cgroup,
    /// Its streams, unless the plan has a terminal.
    pub streams: Streams<'a>,
}

/// What becomes descriptors 0, 1 and 2; one that is missing is /dev/null.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "the three standard streams")]
pub struct Streams<'a> {
    pub stdin: Option<BorrowedFd<'a>>,
    pub stdout: Option<BorrowedFd<'a>>,
    pub stderr: Option<BorrowedFd<'a>>,
}

/// A process that runs, and has not necessarily executed its command yet. Its parent is the caller, who waits
/// for it by `pidfd`.
#[derive(Debug)]
pub struct Launched {
    /// Its number in the supervisor's pid namespace.
    pub pid: i32,
    /// A descriptor that cannot come to mean another process.
    pub pidfd: OwnedFd,
    /// When it started, in clock ticks since boot (field 22 of proc_pid_stat(5)): with `pid` an identity that
    /// is not reused.
    pub start_time: u64,
    /// Where its progress is read.
    pub handshake: Handshake,
}

/// A container's first process that was begun.
#[derive(Debug)]
#[must_use = "it is to be waited for"]
pub enum Begun {
    /// It runs.
    Launched(Launched),
    /// A starter is about to bear it.
    Expected(Birth),
}

/// Gives a child that runs to the caller. Until its identity is known it is killed when anything fails.
pub(crate) fn finish(child: Child, handshake: Handshake) -> Result<Launched, Failure> {
    let start_time = start_time(child.pid())?;
    let (pid, pidfd) =
        child.hand_over().ok_or_else(|| Failure::system(FailedStep::Clone, rustix::io::Errno::CHILD, ""))?;
    Ok(Launched { pid, pidfd, start_time, handshake })
}

/// When a process started: field 22 of /proc/PID/stat.
pub(crate) fn start_time(pid: i32) -> Result<u64, Failure> {
    stat_field(pid, 22)
}

/// A field of /proc/PID/stat, counted from 1 (proc_pid_stat(5)), after the second: that is a name in parentheses that may hold
/// anything, so counting starts after the last of them.
pub(crate) fn stat_field(pid: i32, number: usize) -> Result<u64, Failure> {
    let failed = |errno| Failure::system(FailedStep::Clone, errno, "process status");
    let text = std::fs::read(format!("/proc/{pid}/stat"))
        .map_err(|error| failed(rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO)))?;
    let after_name = text.iter().rposition(|byte| *byte == b')').map_or(0, |at| at + 1);
    String::from_utf8_lossy(&text[after_name..])
        .split_ascii_whitespace()
        .nth(number.saturating_sub(3))
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| failed(rustix::io::Errno::INVAL))
}
