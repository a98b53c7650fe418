//! When the kernel parameters of a pod are set: with its namespaces, or where they are about links, which come later with the
//! network, with each start of a container. What is said of all links says nothing to those that come (Documentation/networking/
//! ip-sysctl), and the network may want it otherwise for its own: it is said both times, so that the pod has the last word.

use std::collections::HashMap;

use runtime::plan::{PodPlan, link_of};

use crate::handler::Handler;
use crate::pod::config::PodConfig;
use crate::spec::namespaces;

/// A plan with what can be set before the pod has its network.
pub(crate) fn at_first(mut plan: PodPlan) -> PodPlan {
    plan.sysctls.retain(|name, _| !matches!(about(name), Links::Later));
    plan
}

/// What is set when the network is there, before anything runs.
pub(crate) fn at_last(pod: &PodConfig, handler: &Handler) -> Option<HashMap<String, String>> {
    let sysctls = namespaces::pod_plan(pod, handler, None).sysctls.into_iter();
    let at_last: HashMap<_, _> = sysctls.filter(|(name, _)| !matches!(about(name), Links::None)).collect();
    Some(at_last).filter(|sysctls| !sysctls.is_empty())
}

/// Which links a parameter is about.
enum Links {
    /// None, or what is there from the beginning: `lo`, and what links that come begin with.
    None,
    All,
    /// One that comes with the network.
    Later,
}

fn about(name: &str) -> Links {
    match link_of(name).as_deref() {
        None | Some("lo" | "default") => Links::None,
        Some("all") => Links::All,
        Some(_) => Links::Later,
    }
}
