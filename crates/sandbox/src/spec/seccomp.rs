//! Seccomp filters of containers: from the profile that was asked for to a program for the kernel.
//!
//! ```text
//! RuntimeDefault: table ──┐
//!                         ├─► profile ─► resolve (numbers) ─► bpf ─► SeccompFilter
//! Localhost: file, parse ─┘
//! ```
//! The default profile is an allow-list. Calls that a capability guards answer EPERM without it; calls that the list doesn't know (newer than it,
//! or of no use in a container) answer ENOSYS, so that programs fall back to what they did before the call existed. Another instruction
//! set than the machine's own ends the process; a profile of the node may name it.
//!
//! A filter is compiled once for each content and set of capabilities, and shared by all containers that have it.
//!
//! Not here: reading a profile and compiling it (`runtime::seccomp`), installing a filter (the runtime's init).

mod describe;
mod localhost;
mod shared;
mod table;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashSet;

use runtime::plan::SeccompFilter;
use runtime::spec::oci::{self, Capability};

use crate::container::config::{ContainerSecurity, Profile as Wish};
use crate::error::Error;
use crate::handler::UnsetSeccomp;
use runtime::seccomp::profile::{Condition, FLAG_SPEC_ALLOW, Profile, Rule, Verdict};
use table::{ALLOWED, Administrator, CLONE3, CONDITIONAL, GUARDED};

pub(crate) use localhost::{check, load};
pub(crate) use shared::shared;

/// A filter, and a word about it for those who read the specification.
#[derive(Debug, Clone)]
pub(crate) struct Confinement {
    pub(crate) filter: SeccompFilter,
    pub(crate) described: oci::LinuxSeccomp,
}

/// The confinement of a container; `None` for one that is unconfined. Reads the profile when it is one of the node's: for a blocking thread.
///
/// # Errors
/// [`Error::Refused`] with `linux.security_context.seccomp.localhost_ref` for a profile of the node that can't be read, or not be done.
pub(crate) fn confinement(
    security: &ContainerSecurity,
    unset: UnsetSeccomp,
    capabilities: &HashSet<Capability>,
) -> Result<Option<Confinement>, Error> {
    match (&security.seccomp, security.privileged) {
        (_, true) | (Some(Wish::Unconfined), false) => Ok(None),
        (None, false) if unset == UnsetSeccomp::Unconfined => Ok(None),
        (None | Some(Wish::RuntimeDefault), false) => default(capabilities).map(Some),
        (Some(Wish::Localhost(path)), false) => localhost::load(path, capabilities).map(Some),
    }
}

/// The confinement by a policy that is given in the specification's own form. Compiles: for a blocking thread.
///
/// # Errors
/// [`Error::Refused`] with `linux.seccomp` for one that can't be done.
pub(crate) fn of_policy(
    policy: &oci::LinuxSeccomp,
    capabilities: &HashSet<Capability>,
) -> Result<Confinement, Error> {
    let refuse = |why: String| Error::refused("linux.seccomp", why);
    let text = serde_json::to_vec(policy).map_err(|error| refuse(error.to_string()))?;
    localhost::of_text(&text, capabilities).map_err(refuse)
}

/// The confinement of a container in words that other runtimes understand.
pub(crate) fn described_for_others(
    security: &ContainerSecurity,
    unset: UnsetSeccomp,
    (confinement, capabilities): (&Confinement, &HashSet<Capability>),
) -> oci::LinuxSeccomp {
    match (&security.seccomp, unset) {
        (Some(Wish::RuntimeDefault), _) | (None, UnsetSeccomp::RuntimeDefault) => {
            describe::explicit(&default_profile(granted(capabilities)))
        }
        _ => confinement.described.clone(),
    }
}

fn default(capabilities: &HashSet<Capability>) -> Result<Confinement, Error> {
    let granted = granted(capabilities);
    shared::compiled(shared::Key::Default(granted), || Ok(default_profile(granted)))
        .map_err(|why| Error::refused("linux.security_context.seccomp", why))
}

/// Which of the table's guards are met, a bit each.
fn granted(capabilities: &HashSet<Capability>) -> u32 {
    let met = |guards: &[Capability]| guards.iter().any(|guard| capabilities.contains(guard));
    GUARDED.iter().enumerate().filter(|(_, (guards, _))| met(guards)).fold(0, |bits, (at, _)| bits | 1 << at)
}

fn default_profile(granted: u32) -> Profile {
    let administrator = granted >> table::ADMINISTRATOR & 1 == 1;
    let passing = |names: &[&'static str]| rule(names, Vec::new(), Verdict::ALLOW);
    let mut rules = vec![passing(ALLOWED)];
    for (at, (_, calls)) in GUARDED.iter().enumerate() {
        let is_granted = granted >> at & 1 == 1;
        rules.push(if is_granted { passing(calls) } else { rule(calls, Vec::new(), table::REFUSED) });
    }
    if administrator {
        rules.push(passing(&[CLONE3]));
    }
    let mut exceptions = Vec::new();
    for call in CONDITIONAL {
        if administrator && call.administrator == Administrator::Passes {
            rules.push(passing(&[call.name]));
            continue;
        }
        let tests = call.tests.iter().map(|(test, verdict)| (Condition { index: 0, test: *test }, *verdict));
        rules.extend(tests.map(|(condition, verdict)| rule(&[call.name], vec![condition], verdict)));
        exceptions.push((call.name, call.otherwise));
    }
    Profile { default: table::UNKNOWN, architectures: Vec::new(), flags: FLAG_SPEC_ALLOW, rules, exceptions }
}

fn rule(names: &[&'static str], conditions: Vec<Condition>, verdict: Verdict) -> Rule {
    Rule { names: names.iter().copied().map(Cow::Borrowed).collect(), conditions, verdict }
}
