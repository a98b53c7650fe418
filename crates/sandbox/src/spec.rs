//! From what was asked for to an OCI specification: pure, but for `devices`, which looks at the host's device nodes.
//!
//! ```text
//! PodConfig + ContainerConfig + ImageConfig + Identity + devices ──► oci::Spec ──► runtime::plan ──► Plan
//! ```
//! Not here: what this runtime refuses to do (see `pod::check`, `container::check`), carrying a specification out.

pub(crate) mod capabilities;
pub(crate) mod devices;
pub(crate) mod files;
pub(crate) mod mounts;
pub(crate) mod namespaces;
pub(crate) mod process;
pub(crate) mod refusals;
pub(crate) mod resources;
pub(crate) mod seccomp;
pub(crate) mod sysctls;

use std::collections::HashMap;
use std::path::Path;

use runtime::identity::Identity;
use runtime::spec::oci;

use crate::cdi::Edits;
use crate::container::config::ContainerConfig;
use crate::container::volumes::Volumes;
use crate::error::Error;
use crate::handler::Handler;
use crate::pod::config::PodConfig;
use crate::rootfs::ImageConfig;
use crate::selinux::Labels;
use devices::HostDevice;

/// The version of the runtime specification that specifications are written in.
const OCI_VERSION: &str = "1.2.0";

/// All that a container's specification is made from.
pub(crate) struct SpecInput<'a> {
    pub(crate) pod: &'a PodConfig,
    /// The pod's runtime handler.
    pub(crate) handler: &'a Handler,
    /// The pod's directory, where its /etc files are.
    pub(crate) pod_dir: &'a Path,
    pub(crate) container: &'a ContainerConfig,
    pub(crate) image: &'a ImageConfig,
    /// Volumes that are not the host's.
    pub(crate) volumes: &'a Volumes,
    /// What CDI devices change.
    pub(crate) cdi: &'a Edits,
    pub(crate) identity: &'a Identity,
    /// Devices of the host that the container gets.
    pub(crate) devices: &'a [HostDevice],
    /// The container's cgroup.
    pub(crate) cgroup: &'a str,
    /// The hostname that the process sees.
    pub(crate) hostname: &'a str,
    /// The AppArmor profile of its processes; `None` for none.
    pub(crate) apparmor: Option<&'a str>,
    /// Its SELinux contexts.
    pub(crate) selinux: Option<&'a Labels>,
    /// What its seccomp filter is about; `None` for none.
    pub(crate) seccomp: Option<&'a oci::LinuxSeccomp>,
}

/// The specification of a container.
///
/// # Errors
/// [`Error::Refused`] with the field that is wrong.
pub(crate) fn build(input: &SpecInput<'_>) -> Result<oci::Spec, Error> {
    let own_hostname = input.pod.namespaces.network != crate::pod::config::NamespaceMode::Node;
    let mut root = oci::Root::default();
    // A root without a path: the runtime gets a detached mount. The name is for those who read the specification.
    root.set_path("rootfs".into()).set_readonly(Some(input.container.security.readonly_rootfs));
    let mut spec = oci::Spec::default();
    spec.set_version(OCI_VERSION.to_owned())
        .set_process(Some(process::process(input)?))
        .set_root(Some(root))
        .set_hostname(own_hostname.then(|| input.hostname.to_owned()))
        .set_mounts(Some(mounts::mounts(input)?))
        .set_linux(Some(linux(input)?))
        .set_annotations(Some(annotations(input)))
        .set_hooks((input.cdi.hooks != oci::Hooks::default()).then(|| input.cdi.hooks.clone()));
    Ok(spec)
}

fn linux(input: &SpecInput<'_>) -> Result<oci::Linux, Error> {
    let security = &input.container.security;
    let paths = |given: &Option<Vec<String>>, default: &[&str]| {
        let default = || default.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>();
        (!security.privileged).then(|| given.clone().unwrap_or_else(default))
    };
    let (uids, gids) = match &input.pod.namespaces.user {
        Some(user) => (Some(mapped(&user.uids)), Some(mapped(&user.gids))),
        None => (None, None),
    };
    let mut linux = oci::Linux::default();
    linux
        .set_uid_mappings(uids)
        .set_gid_mappings(gids)
        .set_namespaces(Some(namespaces::described(&namespaces::plan(input.pod, input.container))))
        .set_sysctl(sysctls::at_last(input.pod, input.handler))
        .set_cgroups_path(Some(input.cgroup.into()))
        .set_resources(Some(resources::limits(
            &input.container.resources,
            input.devices,
            security.privileged && !input.handler.privileged_without_host_devices,
        )?))
        .set_devices(Some(input.devices.iter().map(HostDevice::node).collect()))
        .set_seccomp(input.seccomp.cloned())
        .set_mount_label(input.selinux.map(|labels| labels.mount.clone()))
        .set_masked_paths(paths(&security.masked_paths, runtime::spec::MASKED_PATHS))
        .set_readonly_paths(paths(&security.readonly_paths, runtime::spec::READONLY_PATHS));
    Ok(linux)
}

/// Mappings as the specification writes them.
fn mapped(mappings: &[(u32, u32, u32)]) -> Vec<oci::LinuxIdMapping> {
    let one = |&(inside, outside, length): &(u32, u32, u32)| {
        let mapping = oci::LinuxIdMappingBuilder::default();
        mapping.container_id(inside).host_id(outside).size(length).build().ok()
    };
    mappings.iter().filter_map(one).collect()
}

/// Annotations that tools which read specifications of Kubernetes' containers look for, and those of pod and container that the
/// handler lets through.
fn annotations(input: &SpecInput<'_>) -> HashMap<String, String> {
    let metadata = &input.pod.metadata;
    let known = [
        ("io.kubernetes.cri.container-type", "container"),
        ("io.kubernetes.cri.container-name", &input.container.metadata.name),
        ("io.kubernetes.cri.image-name", &input.container.image.user_specified),
        ("io.kubernetes.cri.sandbox-name", &metadata.name),
        ("io.kubernetes.cri.sandbox-namespace", &metadata.namespace),
        ("io.kubernetes.cri.sandbox-uid", &metadata.uid),
    ];
    let passed = [
        (&input.pod.annotations, &input.handler.pod_annotations),
        (&input.container.annotations, &input.handler.container_annotations),
    ];
    let own = passed.into_iter().flat_map(|(all, names)| all.iter().filter(|(key, _)| names.contains(*key)));
    let own = own.map(|(key, value)| (key.clone(), value.clone()));
    own.chain(known.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned()))).collect()
}
