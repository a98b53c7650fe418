//! What the daemon knows about its own work: how long calls and their stages take, what is under way, and traces of it.
//!
//! Calls are told of by the log of calls (`call_log`); stages by spans of `tracing` that are called `stage`, whichever
//! crate begins them, so that no crate below needs to know of figures. Not here: how figures are shown (`metrics`), log
//! lines (`logging`).

pub(crate) mod calls;
mod fields;
mod methods;
mod plugins;
pub(crate) mod stages;
pub(crate) mod traces;

use calls::Calls;
use stages::Stages;
use traces::Traces;

/// All of it. Cloning gives another handle to the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Telemetry {
    /// Calls that have been answered.
    pub(crate) calls: Calls,
    /// Stages, those under way among them.
    pub(crate) stages: Stages,
    /// Where spans go, if they go anywhere.
    pub(crate) traces: Option<Traces>,
}
