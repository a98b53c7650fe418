//! A failure on the way to a running process, as data: it crosses from the child to the supervisor and from
//! there to the daemon.
//!
//! The text that an operator reads is made from it by whoever shows it; `Display` is the default wording.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What went wrong when a process was being made: which step, on which thing, and what the kernel said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// What sort of thing it is, for a caller that must act on it.
    pub kind: FailureKind,
    /// The step that failed.
    pub step: FailedStep,
    /// The kernel's error number, when a system call failed.
    pub errno: Option<i32>,
    /// The thing that the step was done to: a path, a command, a sysctl. May be empty. Of a hook what became
    /// of it as well, and the last it said: `createRuntime[0] "/bin/hook" ended with exit code 1: "no device"`.
    /// Of a process that was killed for want of memory its limit, if it has one: `65536 bytes`.
    pub subject: String,
}

/// What a caller may act upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The command, or what the step needs, is not there.
    NotFound,
    /// The command is there and cannot be executed: no permission, a directory, or no program at all.
    NotExecutable,
    /// The file that the command names as its interpreter is not there.
    NoInterpreter,
    /// The root filesystem or the request would have led outside the container.
    Unsafe,
    /// The kernel refused by permission.
    NotPermitted,
    /// This kernel cannot do it.
    Unsupported,
    /// Memory, processes or descriptors are used up.
    Exhausted,
    /// The process or container that was to be joined is gone.
    Gone,
    /// The child ended before it executed anything, without a word.
    Died,
    /// Any other answer of the kernel.
    System,
    /// It would have covered a part of procfs, which is the kernel's.
    OverProcfs,
    /// The child was killed for want of memory before it executed anything.
    OutOfMemory,
    /// What is there is no regular file.
    NotRegular,
}

/// The steps, in the order in which they are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the steps; `what` describes each")]
pub enum FailedStep {
    Prepare,
    Clone,
    JoinCgroup,
    JoinNamespace,
    IsolateMounts,
    AttachRoot,
    PivotRoot,
    Hostname,
    Mount,
    BindMount,
    CgroupMount,
    Device,
    Symlink,
    Terminal,
    Sysctl,
    WorkingDirectory,
    MaskPath,
    ReadonlyPath,
    ReadonlyRoot,
    Stdio,
    ResourceLimit,
    OomScore,
    SecurityLabel,
    User,
    Capabilities,
    Seccomp,
    Descriptors,
    Exec,
    Handshake,
    Network,
    MapIds,
    ExternalRuntime,
    Hook,
    RootPropagation,
    Schedule,
    Deadline,
    Log,
    Receive,
}

impl FailedStep {
    /// What was attempted, as a verb phrase that a quoted subject can follow.
    pub fn what(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Clone => "clone a process",
            Self::JoinCgroup => "join cgroup",
            Self::JoinNamespace => "join namespace",
            Self::IsolateMounts => "isolate the mount namespace",
            Self::AttachRoot => "attach the root filesystem",
            Self::PivotRoot => "change to the root filesystem",
            Self::Hostname => "set host name",
            Self::Mount => "mount",
            Self::BindMount => "bind mount on",
            Self::CgroupMount => "mount cgroups on",
            Self::Device => "create device",
            Self::Symlink => "create symbolic link",
            Self::Terminal => "open terminal",
            Self::Sysctl => "set sysctl",
            Self::WorkingDirectory => "change to working directory",
            Self::MaskPath => "mask path",
            Self::ReadonlyPath => "make read-only path",
            Self::ReadonlyRoot => "make the root filesystem read-only",
            Self::Stdio => "set up standard stream",
            Self::ResourceLimit => "set resource limit",
            Self::OomScore => "set OOM score adjustment",
            Self::SecurityLabel => "set security label",
            Self::User => "change to user",
            Self::Capabilities => "set capabilities",
            Self::Seccomp => "install seccomp filter",
            Self::Descriptors => "close descriptors",
            Self::Exec => "execute",
            Self::Handshake => "report to the supervisor",
            Self::Network => "configure network",
            Self::MapIds => "map ids of",
            Self::ExternalRuntime => "have it done by the OCI runtime:",
            Self::Hook => "run hook",
            Self::RootPropagation => "set the propagation of the root filesystem",
            Self::Schedule => "set scheduling",
            Self::Deadline => "start in time",
            Self::Log => "open log",
            Self::Receive => "take the descriptors of the request",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What a program has said in its own words.
        if self.step == FailedStep::ExternalRuntime {
            return write!(f, "the OCI runtime could not {}", self.subject);
        }
        if self.step == FailedStep::Hook {
            return write!(f, "hook {}", self.subject);
        }
        if self.step == FailedStep::Deadline {
            return write!(f, "the start of {:?} took too long", self.subject);
        }
        if self.kind == FailureKind::OutOfMemory {
            write!(f, "the process was killed for want of memory before it executed anything")?;
            return if self.subject.is_empty() {
                Ok(())
            } else {
                write!(f, ": its limit is {}", self.subject)
            };
        }
        write!(f, "cannot {}", self.step.what())?;
        if !self.subject.is_empty() {
            write!(f, " {:?}", self.subject)?;
        }
        match (self.kind, self.errno) {
            (FailureKind::Died, _) => write!(f, ": the process ended before it executed anything"),
            (FailureKind::NotRegular, _) => write!(f, ": it is not a regular file"),
            (FailureKind::NoInterpreter, _) => write!(f, ": its interpreter does not exist"),
            (FailureKind::NotFound, _) if self.step == FailedStep::Exec => {
                write!(f, ": no such file or directory")
            }
            (FailureKind::Unsafe, None) => write!(f, ": it leads outside of the container"),
            (FailureKind::OverProcfs, _) => write!(f, ": it would cover procfs, which nothing else may"),
            (_, Some(errno)) => write!(f, ": {}", std::io::Error::from_raw_os_error(errno)),
            (_, None) => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

impl Failure {
    /// A failure of `step` on `subject` with the kernel's answer; the kind follows from the answer.
    pub(crate) fn system(step: FailedStep, errno: rustix::io::Errno, subject: impl Into<String>) -> Self {
        Self { kind: kind_of(step, errno), step, errno: Some(errno.raw_os_error()), subject: subject.into() }
    }
}

fn kind_of(step: FailedStep, errno: rustix::io::Errno) -> FailureKind {
    use rustix::io::Errno;
    match errno {
        Errno::NOENT | Errno::NOTDIR => FailureKind::NotFound,
        Errno::ACCESS | Errno::NOEXEC | Errno::ISDIR if step == FailedStep::Exec => {
            FailureKind::NotExecutable
        }
        Errno::PERM | Errno::ACCESS => FailureKind::NotPermitted,
        Errno::LOOP | Errno::XDEV => FailureKind::Unsafe,
        Errno::NOSYS | Errno::OPNOTSUPP | Errno::NODEV => FailureKind::Unsupported,
        Errno::NOMEM | Errno::AGAIN | Errno::MFILE | Errno::NFILE | Errno::NOSPC => FailureKind::Exhausted,
        Errno::SRCH => FailureKind::Gone,
        _ => FailureKind::System,
    }
}
