//! What can go wrong, in the classes that CRI callers tell apart.
//!
//! Each variant belongs to exactly one row of the table of gRPC codes in ARCHITECTURE.md; the choice of the code itself is
//! made by the server, which sees protobuf. Errors are cheap to clone, because every request that joined a piece of work gets
//! its outcome.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A cause that several waiters may share.
pub type Cause = Arc<dyn std::error::Error + Send + Sync>;

/// What an id or name belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A pod sandbox.
    Pod,
    /// A container.
    Container,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pod => "pod sandbox",
            Self::Container => "container",
        })
    }
}

/// The errors of this crate.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Nothing has this id (NotFound).
    #[error("{kind} \"{id}\" does not exist")]
    NotFound {
        /// What was looked for.
        kind: Kind,
        /// The id or prefix that was given.
        id: String,
    },
    /// Several ids begin with what was given (InvalidArgument).
    #[error("\"{prefix}\" is the beginning of more than one {kind} id")]
    Ambiguous {
        /// What was looked for.
        kind: Kind,
        /// The prefix that was given.
        prefix: String,
    },
    /// Another live pod or container has the name (AlreadyExists).
    #[error("the name \"{name}\" is held by {kind} \"{holder}\"")]
    NameTaken {
        /// What holds the name.
        kind: Kind,
        /// The name, with all its parts.
        name: String,
        /// The id of the holder.
        holder: String,
    },
    /// The wish doesn't fit the state (FailedPrecondition).
    #[error("{kind} \"{id}\" is {state}, so it cannot {wish}")]
    WrongState {
        /// Whose state it is.
        kind: Kind,
        /// Its id.
        id: String,
        /// The state that it is in.
        state: &'static str,
        /// What was wanted of it, as a verb with its object: `be started`.
        wish: &'static str,
    },
    /// A container was stopped or removed while it was being started (FailedPrecondition).
    #[error("container \"{container}\" was stopped before it had started")]
    CalledOff {
        /// The container.
        container: String,
    },
    /// A field has a value that is wrong or not supported (InvalidArgument).
    #[error("{field}: {why}")]
    Refused {
        /// Path of the field in CRI's terms, such as `linux.security_context.run_as_group`.
        field: String,
        /// What is wrong with it.
        why: String,
    },
    /// The image is not on this node (NotFound).
    #[error("image \"{image}\" does not exist")]
    NoImage {
        /// The reference that was asked for.
        image: String,
    },
    /// An image can't be mounted as a volume (the code of the cause). kubelet knows it by this word (cri-api,
    /// `pkg/errors`, `ErrImageVolumeMountFailed`).
    #[error("ImageVolumeMountFailed")]
    ImageVolume {
        /// Which, and why.
        #[source]
        cause: Arc<Error>,
    },
    /// A mount can't be made read-only with all below it (InvalidArgument). kubelet knows it by this word (cri-api,
    /// `pkg/errors`, `ErrRROUnsupported`).
    #[error(
        "RROUnsupported: {field}: the kernel or the runtime of the pod's handler cannot make mounts read-only with all below them"
    )]
    RecursiveReadOnly {
        /// Path of the field.
        field: String,
    },
    /// The pod network is not ready to attach pods (Unavailable).
    #[error("the network is not ready: {reason}")]
    NetworkNotReady {
        /// Why, in the words of the network's owner.
        reason: String,
    },
    /// A step took longer than its deadline (DeadlineExceeded).
    #[error("{step} of \"{subject}\" took longer than {after:?}")]
    Deadline {
        /// The step, as a noun phrase.
        step: &'static str,
        /// What it was done to.
        subject: String,
        /// The deadline.
        after: Duration,
    },
    /// A step was given up by whom it was left to, after a deadline of theirs (DeadlineExceeded).
    #[error("{step} of \"{subject}\" took too long")]
    TimedOut {
        /// The step, as a noun phrase.
        step: &'static str,
        /// What it was done to.
        subject: String,
        /// Who gave up, and after what time.
        #[source]
        cause: Cause,
    },
    /// Something finite is used up: requests waiting for a pod, disk, processes, addresses
    /// (ResourceExhausted).
    #[error("{what}{} is exhausted", cause.as_ref().map_or_else(|| format!(" of \"{subject}\""), |_| String::new()))]
    Exhausted {
        /// What is used up.
        what: &'static str,
        /// Whose it is, or what the step that needed it was done to, which that says then.
        subject: String,
        /// The step that needed it; `None` where nothing was begun.
        #[source]
        cause: Option<Cause>,
    },
    /// The pod's supervisor lives but doesn't answer at the moment; it is being sought (Unavailable).
    #[error("the supervisor of pod \"{pod}\" is out of touch")]
    OutOfTouch {
        /// The pod.
        pod: String,
    },
    /// The pod's supervisor is gone, and with it what was being started (Unavailable).
    #[error("the supervisor of pod \"{pod}\" is gone")]
    SupervisorGone {
        /// The pod.
        pod: String,
    },
    /// The daemon is going down (Unavailable).
    #[error("the daemon is shutting down")]
    ShuttingDown,
    /// A container's process could not be started (Internal); the container is now exited with reason `StartError`.
    #[error("container \"{container}\" could not be started")]
    Start {
        /// The container.
        container: String,
        /// The step that failed and why.
        #[source]
        cause: Cause,
    },
    /// A command could not be started in a container (Internal).
    #[error("the command could not be started in container \"{container}\"")]
    Exec {
        /// The container.
        container: String,
        /// The step that failed and why.
        #[source]
        cause: Cause,
    },
    /// A port of a pod can't be reached (Internal).
    #[error("nobody could be reached at port {port}")]
    Unreachable {
        /// The port.
        port: u16,
        /// Why, at each address, or after what time.
        #[source]
        cause: Cause,
    },
    /// A step failed (Internal).
    #[error("{step} of \"{subject}\" failed")]
    Step {
        /// The step, as a noun phrase.
        step: &'static str,
        /// What it was done to.
        subject: String,
        /// Why.
        #[source]
        cause: Cause,
    },
    /// A step needs what another pod has, such as a host port (FailedPrecondition).
    #[error("{step} of \"{subject}\" failed")]
    Taken {
        /// The step, as a noun phrase.
        step: &'static str,
        /// What it was done to.
        subject: String,
        /// What is taken.
        #[source]
        cause: Cause,
    },
    /// Work failed, and what it had done could not all be undone (the code of what failed). What is left stays listed and can be removed.
    #[error("{} left behind after a failure", list(.left))]
    Undone {
        /// What could not be undone, each with its reason.
        left: Vec<String>,
        /// The failure itself.
        #[source]
        cause: Arc<Error>,
    },
}

fn list(left: &[String]) -> String {
    left.join("; ")
}

impl Error {
    /// A refusal of a field.
    pub fn refused(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Refused { field: field.into(), why: why.into() }
    }

    /// A failed step with its cause: [`Error::Exhausted`] where the kernel said that something is used up, [`Error::Step`] otherwise.
    pub fn step(
        step: &'static str,
        subject: impl Into<String>,
        cause: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::failed(step, subject, Arc::new(cause))
    }

    /// The same with a cause that is shared already.
    pub(crate) fn failed(step: &'static str, subject: impl Into<String>, cause: Cause) -> Self {
        let what = exhausted(&*cause);
        let failed = Self::Step { step, subject: subject.into(), cause };
        match what {
            Some(what) => failed.for_want_of(what),
            None => failed,
        }
    }

    /// A start that failed, likewise: [`Error::Exhausted`] or [`Error::Start`].
    pub(crate) fn start(container: String, cause: Cause) -> Self {
        let what = exhausted(&*cause);
        let failed = Self::Start { container, cause };
        match what {
            Some(what) => failed.for_want_of(what),
            None => failed,
        }
    }

    /// A command that could not be started, likewise: [`Error::Exhausted`] or [`Error::Exec`].
    pub(crate) fn exec(container: String, cause: Cause) -> Self {
        let what = exhausted(&*cause);
        let failed = Self::Exec { container, cause };
        match what {
            Some(what) => failed.for_want_of(what),
            None => failed,
        }
    }

    /// The same failure, told as [`Error::Exhausted`].
    pub(crate) fn for_want_of(self, what: &'static str) -> Self {
        let subject = match &self {
            Self::Step { subject, .. }
            | Self::Start { container: subject, .. }
            | Self::Exec { container: subject, .. } => subject.clone(),
            other => other.to_string(),
        };
        Self::Exhausted { what, subject, cause: Some(Arc::new(self)) }
    }

    /// All failures of something that went on to its end, as one; `None` when there are none.
    pub(crate) fn all(failures: Vec<Self>) -> Option<Self> {
        let mut failures = failures.into_iter();
        let first = failures.next()?;
        let left: Vec<_> = failures.map(|error| chain(&error)).collect();
        Some(if left.is_empty() { first } else { Self::Undone { left, cause: Arc::new(first) } })
    }
}

/// What the kernel has no more of, by the error number at the end of a chain (errno(3)); `None` when it is about something else.
///
/// The numbers of clone(2), mkdir(2) in a cgroup hierarchy, write(2), and whatever makes a descriptor.
fn exhausted(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    let mut next = Some(error);
    while let Some(error) = next {
        let failure = match error.downcast_ref::<runtime::Error>() {
            // It shows through, so it is not in the chain itself.
            Some(runtime::Error::Process(failure)) => Some(failure),
            _ => error.downcast_ref::<runtime::Failure>(),
        };
        let number = match (failure, error.downcast_ref::<std::io::Error>()) {
            (Some(failure), _) => failure.errno.filter(|_| failure.kind == runtime::FailureKind::Exhausted),
            (None, Some(error)) => error.raw_os_error(),
            (None, None) => None,
        };
        if let Some(what) = number.and_then(want) {
            return Some(what);
        }
        next = error.source();
    }
    None
}

fn want(number: i32) -> Option<&'static str> {
    use rustix::io::Errno;
    match Errno::from_raw_os_error(number) {
        Errno::AGAIN => Some("the number of processes"),
        Errno::NOMEM => Some("memory"),
        Errno::NOSPC => Some("space"),
        Errno::DQUOT => Some("the disk quota"),
        Errno::MFILE | Errno::NFILE => Some("the number of open files"),
        _ => None,
    }
}

/// The whole chain of an error as one line, outermost first.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use std::io;

    use rustix::io::Errno;

    use super::*;

    #[test]
    fn what_is_used_up_is_told_apart_from_what_failed() {
        let cgroup = |errno: Errno| runtime::Error::Cgroup {
            operation: "create cgroup",
            path: "/sys/fs/cgroup/x".into(),
            source: errno.into(),
        };
        let cases = [
            (Errno::AGAIN, Some("the number of processes")),
            (Errno::NOMEM, Some("memory")),
            (Errno::NOSPC, Some("space")),
            (Errno::MFILE, Some("the number of open files")),
            (Errno::NFILE, Some("the number of open files")),
            (Errno::INVAL, None),
        ];
        for (errno, expected) in cases {
            for error in [
                Error::step("making", "it", io::Error::from(errno)),
                Error::step("making", "it", cgroup(errno)),
                Error::step("making", "it", failure(errno)),
                Error::step("making", "it", runtime::Error::Process(failure(errno))),
                Error::start("it".to_owned(), Arc::new(failure(errno))),
            ] {
                let found = match &error {
                    Error::Exhausted { what, subject, .. } if subject == "it" => Some(*what),
                    _ => None,
                };
                assert_eq!(found, expected, "{error:?}");
                let text = chain(&error);
                assert_eq!(text.matches(&io::Error::from(errno).to_string()).count(), 1, "{text}");
                assert_eq!(text.matches("\"it\"").count(), 1, "{text}");
            }
        }
    }

    fn failure(errno: Errno) -> runtime::Failure {
        let is_exhausted =
            matches!(errno, Errno::AGAIN | Errno::NOMEM | Errno::NOSPC | Errno::MFILE | Errno::NFILE);
        runtime::Failure {
            kind: if is_exhausted { runtime::FailureKind::Exhausted } else { runtime::FailureKind::System },
            step: runtime::FailedStep::Clone,
            errno: Some(errno.raw_os_error()),
            subject: String::new(),
        }
    }

    #[test]
    fn no_failure_of_many_is_lost() {
        assert!(Error::all(vec![]).is_none());
        let failed = |subject: &str| Error::step("removing", subject, io::Error::other("busy"));
        assert!(matches!(Error::all(vec![failed("one")]), Some(Error::Step { .. })));
        let both = chain(&Error::all(vec![failed("one"), failed("two")]).unwrap());
        assert!(both.contains("\"one\"") && both.contains("\"two\""), "{both}");
    }
}
