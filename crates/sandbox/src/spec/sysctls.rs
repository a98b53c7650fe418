//! When the kernel parameters of a pod are set: with its namespaces, or where they are about links, which come later with the
//! network, with each start of a container. What is said of all links says nothing to those that come (Documentation/networking/
//! ip-sysctl), and the network may want it otherwise for its own: it is said both times, so that the pod has the last word.

use std::collections::HashMap;

use runtime::plan::{PodPlan, link_of};
use runtime::{FailedStep, Failure};
use rustix::io::Errno;

use crate::error::Error;
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

/// What a pod's namespaces failed for, as a refusal where the pod asked for it: that there is such a parameter, and what it may be,
/// the kernel alone knows. What the handler or the node wants is theirs to set right.
pub(crate) fn refusal(pod: &PodConfig, error: Error) -> Error {
    let Some((name, errno)) = wrong(&error).filter(|(name, _)| pod.sysctls.contains_key(*name)) else {
        return error;
    };
    Error::refused(
        format!("linux.sysctls[{name:?}]"),
        format!("can't be set: {}", std::io::Error::from(errno)),
    )
}

/// The parameter that the kernel doesn't have, or doesn't take so.
fn wrong(error: &Error) -> Option<(&str, Errno)> {
    let Error::Step { cause, .. } = error else { return None };
    let failure: &Failure = (&**cause as &dyn std::error::Error).downcast_ref()?;
    let errno = Errno::from_raw_os_error(failure.errno.filter(|_| failure.step == FailedStep::Sysctl)?);
    let of_request = [Errno::INVAL, Errno::NOENT, Errno::RANGE, Errno::ACCESS, Errno::PERM].contains(&errno);
    of_request.then_some((failure.subject.as_str(), errno))
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
