//! What plugins of the node change of a container that is being made: carried over into its specification, and checked as all the rest.
//!
//! ```text
//! specification ─► plugins ─► CDI devices looked up ─► specification changed ─► limits, namespaces, sources, seccomp ─► plan
//! ```
//! What can't be done is refused by its name in the specification, and fails the container: it would be another one than the plugin meant.
//!
//! Not here: asking plugins (see `plugins`), the form in which they say it.

use std::sync::Arc;

use runtime::plan::{PlanInput, Propagation};
use runtime::spec::oci;

use super::make::{Found, Parts, Written, look, plan};
use crate::error::{Error, chain};
use crate::plugins::{self, Adjusted};
use crate::resources::Resources;
use crate::sources::{Looker, on_sources};
use crate::spec;
use crate::spec::capabilities::{self, Choice};

/// Carries out what plugins want.
///
/// # Errors
/// [`Error::Refused`], [`Error::Step`], [`Error::Deadline`] for a mount source that hangs.
pub(super) async fn adjust(
    parts: &Parts<'_>,
    written: Written,
    adjusted: Adjusted,
) -> Result<Written, Error> {
    let making = parts.making;
    let Written { found, spec: before, .. } = with_devices(parts, written, adjusted.cdi_devices).await?;
    let mut spec = before.clone();
    (adjusted.change)(&mut spec).map_err(plugins::refused(making.id.as_str()))?;
    let resources = limits(&making.config.resources, (&before, &spec))?;
    if let Some(resources) = &resources {
        spec::resources::check(&making.shared.host, resources)?;
    }
    let namespaces = spec::namespaces::plan(&making.pod.config, &making.config);
    let namespaces = spec::namespaces::changed(namespaces, (&before, &spec))?;
    let found = look_again(parts, found, (&before, &spec)).await?;
    let seccomp = found.confinement.as_ref().map(|confinement| confinement.filter.clone());
    let plan = plan(making, &PlanInput { spec: &spec, namespaces, seccomp })
        .map_err(|refusal| Error::refused(refusal.field, refusal.why))?;
    super::check::mounts_fit(&making.config, &plan)?;
    Ok(Written { found, spec, plan, resources })
}

/// What was written, with further CDI devices.
async fn with_devices(parts: &Parts<'_>, written: Written, devices: Vec<String>) -> Result<Written, Error> {
    if devices.is_empty() {
        return Ok(written);
    }
    let mut config = (*parts.making.config).clone();
    config.cdi_devices.extend(devices);
    let found = look(parts.making, &Arc::new(config), (parts.prepared, written.found.root)).await?;
    parts.written(found)
}

/// The limits, if they were changed.
fn limits(asked: &Resources, (before, after): (&oci::Spec, &oci::Spec)) -> Result<Option<Resources>, Error> {
    let of = |spec: &oci::Spec| {
        let limits = spec.linux().as_ref().and_then(|linux| linux.resources().clone());
        (limits.unwrap_or_default(), spec.process().as_ref().and_then(|process| process.oom_score_adj()))
    };
    let ((limits_before, score_before), (limits, score)) = (of(before), of(after));
    let score = if score == score_before { asked.oom_score_adj } else { score };
    let resources = spec::resources::kept(&limits, score)?;
    let unchanged = spec::resources::kept(&limits_before, asked.oom_score_adj)?;
    Ok((resources != unchanged).then_some(resources))
}

/// Looks at what came in on the host: sources of mounts, and a seccomp policy, which is compiled.
async fn look_again(
    parts: &Parts<'_>,
    mut found: Found,
    (before, after): (&oci::Spec, &oci::Spec),
) -> Result<Found, Error> {
    let making = parts.making;
    let known = before.mounts().clone().unwrap_or_default();
    let is_new = |mount: &&oci::Mount| !known.contains(mount);
    let added: Vec<oci::Mount> = after.mounts().iter().flatten().filter(is_new).cloned().collect();
    let policy = |spec: &oci::Spec| spec.linux().as_ref().and_then(|linux| linux.seccomp().clone());
    let policy = policy(after).filter(|_| policy(after) != policy(before));
    if added.is_empty() && policy.is_none() {
        return Ok(found);
    }
    let capabilities = capabilities::effective(&making.config.security, &Choice::of(&making.pod.handler))?;
    let attempt = ("looking at what plugins have added", making.id.as_str());
    let confinement = on_sources(&making.shared, attempt, move |looker| {
        added.iter().try_for_each(|mount| source_exists(mount, looker))?;
        policy.map(|policy| spec::seccomp::of_policy(&policy, &capabilities)).transpose()
    })
    .await?;
    found.confinement = confinement.or(found.confinement);
    Ok(found)
}

fn source_exists(mount: &oci::Mount, looker: &Looker) -> Result<(), Error> {
    let options: Vec<&str> = mount.options().iter().flatten().map(String::as_str).collect();
    let is_bind =
        mount.typ().as_deref() == Some("bind") || options.contains(&"bind") || options.contains(&"rbind");
    let Some(source) = mount.source().as_ref().filter(|_| is_bind) else { return Ok(()) };
    let field = |part: &str| format!("mounts[\"{}\"].{part}", mount.destination().display());
    let _look = looker.at(source)?;
    if let Err(error) = std::fs::metadata(source) {
        return Err(Error::refused(field("source"), format!("\"{}\": {error}", source.display())));
    }
    let propagation = options.iter().find_map(|option| match *option {
        "shared" | "rshared" => Some(Propagation::Shared),
        "slave" | "rslave" => Some(Propagation::Slave),
        _ => None,
    });
    match propagation.map(|propagation| runtime::mount::check_propagation(source, propagation)) {
        Some(Err(cause)) => Err(Error::refused(field("options"), chain(&cause))),
        Some(Ok(())) | None => Ok(()),
    }
}
