//! Calls of plugins, each kind by plugin and by what it was called for: those of the network by command, those of the node (NRI) by method.
//!
//! Each call is a stage, so that it comes here from its span (see `stages`).

use std::fmt::Debug;
use std::hash::Hash;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Registry, Unit};

use super::calls::{Times, TimesBy};

/// The stages that calls of plugins are.
const NETWORK: &str = "cni_plugin";
const NODE: &str = "nri_plugin";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfNetwork {
    plugin: String,
    command: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfNode {
    plugin: String,
    method: String,
}

/// A call of a plugin.
#[derive(Debug)]
pub(super) enum Call {
    Network(OfNetwork),
    Node(OfNode),
}

impl Call {
    /// Of a stage with these fields; `None` when it is another one.
    pub(super) fn of(stage: &str, plugin: String, what: String) -> Option<Self> {
        match stage {
            NETWORK => Some(Self::Network(OfNetwork { plugin, command: what })),
            NODE => Some(Self::Node(OfNode { plugin, method: what })),
            _ => None,
        }
    }
}

/// The figures of all plugins.
#[derive(Debug, Default)]
pub(super) struct Plugins {
    network: Figures<OfNetwork>,
    node: Figures<OfNode>,
}

impl Plugins {
    /// Counts a call that has ended, after so many seconds.
    pub(super) fn ended(&self, call: &Call, after: f64) {
        match call {
            Call::Network(labels) => self.network.times.get_or_create(labels).observe(after),
            Call::Node(labels) => self.node.times.get_or_create(labels).observe(after),
        };
    }

    /// Counts one that has failed besides.
    pub(super) fn failed(&self, call: &Call) {
        match call {
            Call::Network(labels) => self.network.failures.get_or_create(labels).inc(),
            Call::Node(labels) => self.node.failures.get_or_create(labels).inc(),
        };
    }

    /// Has the figures shown.
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Time that calls of network plugins take, executed or served in-process";
        let Figures { times, failures } = self.network.clone();
        registry.register_with_unit("cni_plugin_duration", help, Unit::Seconds, times);
        registry.register("cni_plugin_failures", "Calls of network plugins that have failed", failures);
        let help = "Time that plugins of the node (NRI) take for an answer";
        let Figures { times, failures } = self.node.clone();
        registry.register_with_unit("nri_plugin_duration", help, Unit::Seconds, times);
        let help = "Calls of plugins of the node (NRI) without an answer, or with a refusal";
        registry.register("nri_plugin_failures", help, failures);
    }
}

#[derive(Debug, Clone)]
struct Figures<L: Clone + Eq + Hash> {
    times: TimesBy<L>,
    failures: Family<L, Counter>,
}

impl<L: Clone + Eq + Hash> Default for Figures<L> {
    fn default() -> Self {
        Self { times: Family::new_with_constructor(Times), failures: Family::default() }
    }
}
