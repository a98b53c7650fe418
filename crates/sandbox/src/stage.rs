//! The stages of what is done to pods and containers, as spans of `tracing` called `stage`.
//!
//! A span that begins within the one of a request is its child, so whoever listens to spans knows how long each stage
//! takes, which one hangs, and on whose behalf. Each is a step of the matrix of faults by being named here. Not here: listening to them (the daemon's figures and traces do), deadlines
//! (see `shared`).

use tracing::field::Empty;
use tracing::{Instrument, Span};

use crate::error::Error;
use crate::step;

/// A stage. Its name is a label of figures and the name of a span: it may be added to, not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Writing down what is going to be made.
    Record,
    /// Making a pod's cgroup.
    Cgroup,
    /// Having systemd start a scope.
    Scope,
    /// Calling a pod's supervisor, which was started before, until it answers.
    Supervisor,
    /// Having the supervisor make the namespaces.
    Namespaces,
    /// Attaching the network.
    Network,
    /// Preparing and mounting a root filesystem.
    Rootfs,
    /// Volumes of images, and volumes that images declare.
    Volumes,
    /// Looking at mount sources, user, devices and profiles.
    Look,
    /// Building specification and plan.
    Spec,
    /// Asking the node's plugins.
    Plugins,
    /// Making a container's cgroup and opening what is mounted.
    Prepare,
    /// Having the supervisor start the process.
    Start,
    /// Waiting for the end of processes that were killed.
    Kill,
    /// Detaching the network.
    DetachNetwork,
    /// Ending a supervisor.
    EndSupervisor,
    /// Removing a cgroup.
    RemoveCgroup,
    /// Throwing a root filesystem away.
    ReleaseRootfs,
}

impl Stage {
    /// Its name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Cgroup => "cgroup",
            Self::Scope => "scope",
            Self::Supervisor => "supervisor",
            Self::Namespaces => "namespaces",
            Self::Network => "network",
            Self::Rootfs => "rootfs",
            Self::Volumes => "volumes",
            Self::Look => "look",
            Self::Spec => "spec",
            Self::Plugins => "nri",
            Self::Prepare => "prepare",
            Self::Start => "start",
            Self::Kill => "kill",
            Self::DetachNetwork => "detach_network",
            Self::EndSupervisor => "end_supervisor",
            Self::RemoveCgroup => "remove_cgroup",
            Self::ReleaseRootfs => "release_rootfs",
        }
    }

    /// Does work that is this stage. As safe to cancel as the work is.
    ///
    /// # Errors
    /// Those of the work.
    pub(crate) async fn of<T>(self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let span = self.span();
        let outcome = step::before(self.name(), work).instrument(span.clone()).await;
        noted(&span, outcome)
    }

    /// The same for work that leaves something to be done behind it: what it does is not in this stage but beside it, or the stage would not
    /// be over before that is. As safe to cancel as the work is.
    ///
    /// # Errors
    /// Those of the work.
    pub(crate) async fn beside<T>(self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let span = self.span();
        let outcome = step::before(self.name(), work).await;
        noted(&span, outcome)
    }

    /// The same for what doesn't wait.
    ///
    /// # Errors
    /// Those of the work.
    pub(crate) fn at_once<T>(self, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let span = self.span();
        let outcome = span.in_scope(|| step::at_once(self.name()).and_then(|()| work()));
        noted(&span, outcome)
    }

    /// Of the highest level, so that it is there whatever is logged.
    fn span(self) -> Span {
        tracing::error_span!("stage", stage = self.name(), failed = Empty)
    }
}

fn noted<T>(span: &Span, outcome: Result<T, Error>) -> Result<T, Error> {
    if outcome.is_err() {
        span.record("failed", true);
    }
    outcome
}
