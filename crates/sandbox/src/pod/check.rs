//! What this runtime refuses about a pod, before anything is done for it.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use crate::config::CgroupDriver;
use crate::container::config::Profile;
use crate::error::Error;
use crate::handler::{Handler, Handlers};
use crate::pod::config::{NamespaceMode, PodConfig};
use crate::scopes;
use crate::shared::Shared;
use crate::sources::on_sources;
use crate::spec::{files, namespaces, seccomp};
use crate::users;

/// The longest name that the kernel takes for a host (HOST_NAME_MAX).
const LONGEST_HOSTNAME: usize = 64;

/// The runtime handler that a pod asks for.
///
/// # Errors
/// [`Error::Refused`] when there is none of the name.
pub(crate) fn handler<'a>(handlers: &'a Handlers, pod: &PodConfig) -> Result<&'a Handler, Error> {
    let name = &pod.runtime_handler;
    handlers.get(name).ok_or_else(|| Error::refused("runtime_handler", handlers.unknown(name)))
}

/// Checks the handler that an image is asked for: it must be there, and makes no difference, since images are the same for all
/// handlers.
///
/// # Errors
/// [`Error::Refused`] with the field when there is none of the name.
pub(crate) fn image_handler(handlers: &Handlers, (field, name): (&str, &str)) -> Result<(), Error> {
    let known = handlers.get(name).map(drop);
    known.ok_or_else(|| Error::refused(format!("{field}.runtime_handler"), handlers.unknown(name)))
}

/// Checks all that can be checked without doing anything.
///
/// # Errors
/// [`Error::Refused`] with the first field that is wrong or not supported.
pub(crate) fn check((driver, handler): (&CgroupDriver, &Handler), pod: &PodConfig) -> Result<(), Error> {
    for (field, value) in [("name", &pod.metadata.name), ("namespace", &pod.metadata.namespace)] {
        if value.is_empty() {
            return Err(Error::refused(format!("metadata.{field}"), "is empty"));
        }
    }
    if pod.hostname.len() > LONGEST_HOSTNAME || pod.hostname.contains(['\0', '\n', '/']) {
        return Err(Error::refused(
            "hostname",
            format!("\"{}\" is not a host name of at most {LONGEST_HOSTNAME} bytes", pod.hostname),
        ));
    }
    if !pod.log_directory.as_os_str().is_empty() && !pod.log_directory.is_absolute() {
        return Err(Error::refused(
            "log_directory",
            format!("\"{}\" is not an absolute path", pod.log_directory.display()),
        ));
    }
    scopes::check_parent(driver, &pod.cgroup_parent)?;
    modes(pod)?;
    if handler.external.is_some() && pod.namespaces.user.is_some() {
        let field = "linux.security_context.namespace_options.userns_options";
        return Err(Error::refused(field, "is not supported with the external runtime of its handler"));
    }
    security(pod)?;
    files::resolv_conf(pod.dns.as_ref())?;
    runtime::plan::check_pod(&namespaces::pod_plan(pod, handler, None)).map_err(|refusal| {
        Error::refused(refusal.field.replace("linux.sysctl", "linux.sysctls"), refusal.why)
    })
}

/// Checks that a seccomp profile of the node can be had. It confines nothing here, but those of the pod's containers will be made from the same
/// wish. Safe to cancel.
///
/// # Errors
/// [`Error::Refused`] when it can't, [`Error::Deadline`] when it hangs.
pub(crate) async fn profile_exists(shared: &Arc<Shared>, pod: &PodConfig) -> Result<(), Error> {
    let Some(path) = seccomp_profile(pod).map(str::to_owned) else { return Ok(()) };
    on_sources(shared, ("looking at the seccomp profile", &pod.metadata.name), move |looker| {
        let _look = looker.at(Path::new(&path))?;
        seccomp::load(&path, &HashSet::new()).map(drop)
    })
    .await
}

/// The path of the sandbox's profile, where it counts.
fn seccomp_profile(pod: &PodConfig) -> Option<&str> {
    match (&pod.security.seccomp, pod.security.privileged) {
        (Some(Profile::Localhost(path)), false) => Some(path),
        _ => None,
    }
}

fn modes(pod: &PodConfig) -> Result<(), Error> {
    let refuse = |field: &str, why: &str| {
        Err(Error::refused(format!("linux.security_context.namespace_options.{field}"), why))
    };
    let namespaces = &pod.namespaces;
    for (field, mode) in [("network", &namespaces.network), ("ipc", &namespaces.ipc)] {
        match mode {
            NamespaceMode::Pod | NamespaceMode::Node => {}
            NamespaceMode::Container | NamespaceMode::Target(_) => {
                return refuse(field, "can only be POD or NODE");
            }
        }
    }
    if let NamespaceMode::Target(_) = namespaces.pid {
        return refuse("pid", "TARGET is for containers");
    }
    users::check_pod(pod)
}

fn security(pod: &PodConfig) -> Result<(), Error> {
    if let Some(path) = seccomp_profile(pod) {
        seccomp::check(path)?;
    }
    Ok(())
}
