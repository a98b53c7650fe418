//! All scenarios.

use e2e::kube::{Space, Standalone};
use futures::future::{BoxFuture, LocalBoxFuture};

use crate::{
    daemons, evented, failures, figures, images, kubectl, pods, resources, services, small, standalone, top,
    tracing, volumes, workloads,
};

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
    /// Whether it is among those that are always run.
    pub(crate) size: Size,
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
    /// None, on a cluster of its kind: with a small disk for kubelet and a logind.
    Small,
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
    ($size:ident, $module:ident :: $function:ident) => {
        Lone {
            name: concat!(stringify!($module), "::", stringify!($function)),
            size: Size::$size,
            run: |rig| Box::pin($module::$function(rig)),
        }
    };
}

/// With a kubelet alone.
pub(crate) const STANDALONE: &[Lone] = &[
    lone!(Short, standalone::static_pod_comes_and_goes),
    lone!(Full, standalone::manifest_changes),
    lone!(Short, standalone::container_that_ends_is_started_again),
    lone!(Short, standalone::probes_of_all_kinds),
    lone!(Short, tracing::pod_start_is_in_kubelets_trace),
    lone!(Full, evented::exit_and_restart_are_seen_by_events),
    lone!(Full, evented::exit_without_a_runtime_is_seen),
    lone!(Short, figures::nothing_that_containerd_has_is_missing),
    lone!(Short, standalone::kubelet_is_killed),
    lone!(Short, standalone::runtime_is_killed),
];

/// On a cluster.
pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(Short, Together, workloads::deployment_forth_and_back),
    scenario!(Full, Together, workloads::job),
    scenario!(Full, Together, workloads::daemon_set_and_cron_job),
    scenario!(Short, Together, pods::init_and_sidecar),
    scenario!(Short, Together, pods::hooks),
    scenario!(Short, Together, pods::hook_that_fails),
    scenario!(Short, Together, pods::shared_process_namespace),
    scenario!(Full, Together, pods::namespaces_of_the_node),
    scenario!(Full, Together, pods::namespaces_of_its_own),
    scenario!(Short, Together, pods::user_namespace),
    scenario!(Short, Together, pods::ephemeral_container),
    scenario!(Full, Together, failures::crash_loop),
    scenario!(Full, Together, failures::last_words),
    scenario!(Short, Together, failures::out_of_memory),
    scenario!(Short, Together, failures::no_such_program),
    scenario!(Full, Together, failures::readiness_comes_and_goes),
    scenario!(Full, Together, failures::liveness_fails),
    scenario!(Full, Together, failures::eviction_by_its_own_files),
    scenario!(Short, Together, volumes::projected),
    scenario!(Short, Together, volumes::config_map_changes),
    scenario!(Full, Together, volumes::empty_dir_in_memory),
    scenario!(Full, Together, volumes::empty_dir_is_the_pods),
    scenario!(Short, Together, volumes::image_volume),
    scenario!(Full, Together, volumes::files_of_a_group),
    scenario!(Full, Together, images::comes_later),
    scenario!(Full, Together, images::never_pulled),
    scenario!(Short, Together, images::private_registry),
    scenario!(Short, Together, kubectl::logs),
    scenario!(Short, Together, kubectl::exec),
    scenario!(Full, Together, kubectl::attach),
    scenario!(Full, Together, kubectl::run_and_remove),
    scenario!(Full, Together, kubectl::copy),
    scenario!(Short, Together, kubectl::port_forward),
    scenario!(Full, Together, kubectl::debug_of_the_node),
    scenario!(Short, Together, services::reached_from_everywhere),
    scenario!(Full, Together, services::host_port),
    scenario!(Full, Together, services::names),
    scenario!(Short, Together, resources::resized_in_place),
    scenario!(Short, Together, resources::seccomp_by_default),
    scenario!(Full, Together, resources::classes_of_pods),
    scenario!(Short, Together, resources::summary),
    scenario!(Full, Alone, top::of_pods_and_nodes),
    scenario!(Full, Alone, daemons::kubelet_killed),
    scenario!(Full, Alone, daemons::runtime_killed),
    scenario!(Short, Alone, daemons::both_killed),
    scenario!(Full, Alone, daemons::machine_boots),
    scenario!(Full, Alone, daemons::sixty_at_once),
    scenario!(Full, Small, small::disk_is_full),
    scenario!(Full, Small, small::machine_goes_down),
];
