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
    /// Something finite is used up: requests waiting for a pod, disk, processes (ResourceExhausted).
    #[error("{what} of \"{subject}\" is exhausted")]
    Exhausted {
        /// What is used up.
        what: &'static str,
        /// Whose it is.
        subject: String,
    },
    /// The pod's supervisor lives but doesn't answer at the moment; it is being sought (Unavailable).
    #[error("the supervisor of pod \"{pod}\" is out of touch")]
    OutOfTouch {
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

    /// A failed step with its cause.
    pub fn step(
        step: &'static str,
        subject: impl Into<String>,
        cause: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::Step { step, subject: subject.into(), cause: Arc::new(cause) }
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
