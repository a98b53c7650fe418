//! All scenarios.

use e2e::kube::{Space, Standalone};
use futures::future::{BoxFuture, LocalBoxFuture};

use crate::{standalone, tracing, workloads};

/// A scenario on a cluster.
pub(crate) struct Scenario {
    /// Its module and its function.
    pub(crate) name: &'static str,
    /// Whether it is among those that are always run.
    pub(crate) size: Size,
    /// Who may run meanwhile.
    pub(crate) turn: Turn,
    /// What it does.
    pub(crate) run: fn(Space) -> BoxFuture<'static, ()>,
}

/// A scenario on a kubelet without a cluster: one after the other.
pub(crate) struct Lone {
    /// Its module and its function.
    pub(crate) name: &'static str,
    /// What it does.
    pub(crate) run: for<'a> fn(&'a mut Standalone) -> LocalBoxFuture<'a, ()>,
}

/// In which runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Size {
    /// In every one.
    Short,
    /// In full ones.
    Full,
}

/// Beside which others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Any that doesn't want to be alone.
    Together,
    /// None: it ends daemons, or fills the node.
    Alone,
}

macro_rules! scenario {
    ($size:ident, $turn:ident, $module:ident :: $function:ident) => {
        Scenario {
            name: concat!(stringify!($module), "::", stringify!($function)),
            size: Size::$size,
            turn: Turn::$turn,
            run: |space| Box::pin($module::$function(space)),
        }
    };
}

macro_rules! lone {
    ($module:ident :: $function:ident) => {
        Lone {
            name: concat!(stringify!($module), "::", stringify!($function)),
            run: |rig| Box::pin($module::$function(rig)),
        }
    };
}

/// With a kubelet alone; all in every run.
pub(crate) const STANDALONE: &[Lone] = &[
    lone!(standalone::static_pod_comes_and_goes),
    lone!(standalone::manifest_changes),
    lone!(standalone::container_that_ends_is_started_again),
    lone!(standalone::probes_of_all_kinds),
    lone!(tracing::pod_start_is_in_kubelets_trace),
    lone!(standalone::kubelet_is_killed),
    lone!(standalone::runtime_is_killed),
];

/// On a cluster.
pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(Short, Together, workloads::deployment_forth_and_back),
    scenario!(Short, Together, workloads::job),
];
