//! ContainerConfig, read.

use std::path::PathBuf;

use proto::runtime::v1 as cri;
use sandbox::{
    ContainerConfig, ContainerMetadata, ContainerNamespaces, ContainerSecurity, Device, Error,
    ImageReference, Mount, MountAccess, MountSource, PodNamespaces, Propagation, RunAs, Stdin,
    SupplementalGroupsPolicy, UserNamespace,
};

use super::security::{group_ids, mappings, namespaces, profile, selinux};
use super::{known, required, resources, signal, sorted};

/// A container as it was asked for.
///
/// # Errors
/// [`Error::Refused`] with the path of the field.
pub(crate) fn config(config: cri::ContainerConfig) -> Result<ContainerConfig, Error> {
    if config.windows.is_some() {
        return Err(Error::refused("windows", "this node runs Linux"));
    }
    let linux = config.linux.unwrap_or_default();
    Ok(ContainerConfig {
        metadata: metadata(required(config.metadata, "metadata")?)?,
        image: image(required(config.image, "image")?)?,
        command: config.command,
        args: config.args,
        working_dir: config.working_dir,
        envs: config.envs.into_iter().map(variable).collect::<Result<_, _>>()?,
        mounts: config.mounts.into_iter().map(mount).collect::<Result<_, _>>()?,
        devices: config.devices.into_iter().map(device).collect(),
        cdi_devices: config.cdi_devices.into_iter().map(|device| device.name).collect(),
        labels: sorted(config.labels),
        annotations: sorted(config.annotations),
        log_path: config.log_path,
        stdin: stdin(config.stdin, config.stdin_once)?,
        tty: config.tty,
        resources: resources::read(linux.resources.unwrap_or_default())?,
        security: security(linux.security_context.unwrap_or_default())?,
        stop_signal: signal::read(config.stop_signal)?,
    })
}

fn metadata(metadata: cri::ContainerMetadata) -> Result<ContainerMetadata, Error> {
    if metadata.name.is_empty() {
        return Err(Error::refused("metadata.name", "is empty"));
    }
    Ok(ContainerMetadata { name: metadata.name, attempt: metadata.attempt })
}

fn image(spec: cri::ImageSpec) -> Result<ImageReference, Error> {
    if spec.image.is_empty() {
        return Err(Error::refused("image.image", "is empty"));
    }
    Ok(ImageReference { reference: spec.image, user_specified: spec.user_specified_image })
}

fn variable(variable: cri::KeyValue) -> Result<(String, String), Error> {
    let key = variable.key;
    if key.is_empty() || key.contains(['=', '\0']) {
        return Err(Error::refused("envs.key", format!("\"{key}\" is not the name of a variable")));
    }
    // The contract has bytes here, the OCI specification of a process has text.
    let value = String::from_utf8(variable.value)
        .map_err(|_| Error::refused("envs.value", format!("the value of \"{key}\" is not UTF-8")))?;
    if value.contains('\0') {
        return Err(Error::refused("envs.value", format!("the value of \"{key}\" has a NUL byte")));
    }
    Ok((key, value))
}

fn stdin(open: bool, once: bool) -> Result<Stdin, Error> {
    match (open, once) {
        (false, false) => Ok(Stdin::Null),
        (true, false) => Ok(Stdin::Open),
        (true, true) => Ok(Stdin::Once),
        (false, true) => Err(Error::refused("stdin_once", "needs stdin")),
    }
}

fn mount(mount: cri::Mount) -> Result<Mount, Error> {
    let container_path = PathBuf::from(&mount.container_path);
    if !container_path.is_absolute() {
        let why = format!("\"{}\" is not an absolute path", mount.container_path);
        return Err(Error::refused("mounts.container_path", why));
    }
    Ok(Mount {
        container_path,
        access: access(&mount)?,
        propagation: match known(mount.propagation, "mounts.propagation")? {
            cri::MountPropagation::PropagationPrivate => Propagation::Private,
            cri::MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
            cri::MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
        },
        selinux_relabel: mount.selinux_relabel,
        id_mapping: id_mapping(&mount),
        source: source(mount.host_path, mount.image, mount.image_sub_path)?,
        options: mount.mount_options,
    })
}

fn access(mount: &cri::Mount) -> Result<MountAccess, Error> {
    match (mount.readonly, mount.recursive_read_only) {
        (false, false) => Ok(MountAccess::ReadWrite),
        (true, false) => Ok(MountAccess::ReadOnly),
        (true, true) if mount.propagation == cri::MountPropagation::PropagationPrivate as i32 => {
            Ok(MountAccess::RecursiveReadOnly)
        }
        (true, true) => Err(Error::refused("mounts.recursive_read_only", "needs private propagation")),
        (false, true) => Err(Error::refused("mounts.recursive_read_only", "needs readonly")),
    }
}

fn id_mapping(mount: &cri::Mount) -> Option<UserNamespace> {
    let (uids, gids) = (mappings(&mount.uid_mappings), mappings(&mount.gid_mappings));
    (!uids.is_empty() || !gids.is_empty()).then_some(UserNamespace { uids, gids })
}

fn source(host_path: String, image: Option<cri::ImageSpec>, sub_path: String) -> Result<MountSource, Error> {
    if let Some(spec) = image.filter(|spec| !spec.image.is_empty()) {
        return Ok(MountSource::Image { image: self::image(spec)?, sub_path });
    }
    let path = PathBuf::from(&host_path);
    if path.is_absolute() {
        return Ok(MountSource::Host(path));
    }
    Err(Error::refused("mounts.host_path", format!("\"{host_path}\" is not an absolute path")))
}

fn device(device: cri::Device) -> Device {
    let host_path = PathBuf::from(device.host_path);
    let container_path = if device.container_path.is_empty() {
        host_path.clone()
    } else {
        PathBuf::from(device.container_path)
    };
    Device { host_path, container_path, permissions: device.permissions }
}

fn security(context: cri::LinuxContainerSecurityContext) -> Result<ContainerSecurity, Error> {
    deprecated(&context)?;
    let capabilities = context.capabilities.unwrap_or_default();
    let value = |number: Option<cri::Int64Value>| number.map(|number| number.value);
    let PodNamespaces { network, pid, ipc, user } =
        namespaces(context.namespace_options.unwrap_or_default())?;
    Ok(ContainerSecurity {
        privileged: context.privileged,
        capabilities_add: capabilities.add_capabilities,
        capabilities_drop: capabilities.drop_capabilities,
        capabilities_ambient: capabilities.add_ambient_capabilities,
        namespaces: ContainerNamespaces { network, pid, ipc, user },
        run_as: RunAs::new(
            value(context.run_as_user),
            &context.run_as_username,
            value(context.run_as_group),
        )?,
        supplemental_groups: group_ids(&context.supplemental_groups)?,
        supplemental_groups_policy: match known(
            context.supplemental_groups_policy,
            "linux.security_context.supplemental_groups_policy",
        )? {
            cri::SupplementalGroupsPolicy::Merge => SupplementalGroupsPolicy::Merge,
            cri::SupplementalGroupsPolicy::Strict => SupplementalGroupsPolicy::Strict,
        },
        readonly_rootfs: context.readonly_rootfs,
        no_new_privileges: context.no_new_privs,
        masked_paths: Some(context.masked_paths),
        readonly_paths: Some(context.readonly_paths),
        seccomp: profile(context.seccomp, "linux.security_context.seccomp")?,
        apparmor: profile(context.apparmor, "linux.security_context.apparmor")?,
        selinux: selinux(context.selinux_options),
    })
}

#[allow(deprecated, reason = "what the contract has deprecated is refused by name")]
fn deprecated(context: &cri::LinuxContainerSecurityContext) -> Result<(), Error> {
    let refused = |field: &str, instead: &str| {
        Error::refused(format!("linux.security_context.{field}"), format!("is deprecated, use {instead}"))
    };
    // kubelet still fills the old AppArmor field beside the new one.
    if !context.apparmor_profile.is_empty() && context.apparmor.is_none() {
        return Err(refused("apparmor_profile", "apparmor"));
    }
    if !context.seccomp_profile_path.is_empty() && context.seccomp.is_none() {
        return Err(refused("seccomp_profile_path", "seccomp"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> cri::ContainerConfig {
        cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: "c".into(), attempt: 1 }),
            image: Some(cri::ImageSpec { image: "busybox".into(), ..Default::default() }),
            ..Default::default()
        }
    }

    fn refusal(change: impl FnOnce(&mut cri::ContainerConfig)) -> String {
        let mut wanted = asked();
        change(&mut wanted);
        config(wanted).expect_err("a refusal").to_string()
    }

    #[test]
    fn the_least_that_can_be_asked_for_is_read() {
        let read = config(asked()).unwrap();
        assert_eq!(read.metadata, ContainerMetadata { name: "c".into(), attempt: 1 });
        assert_eq!((read.stdin, read.stop_signal), (Stdin::Null, None));
    }

    #[test]
    fn fields_that_cannot_be_honoured_are_refused_by_path() {
        let mount = |mount: cri::Mount| move |config: &mut cri::ContainerConfig| config.mounts = vec![mount];
        let relative =
            cri::Mount { container_path: "data".into(), host_path: "/tmp".into(), ..Default::default() };
        assert!(refusal(mount(relative)).starts_with("mounts.container_path: \"data\""));
        let no_source = cri::Mount { container_path: "/data".into(), ..Default::default() };
        assert!(refusal(mount(no_source)).starts_with("mounts.host_path"));
        assert!(refusal(|config| config.stdin_once = true).starts_with("stdin_once"));
        assert!(refusal(|config| config.stop_signal = 99).starts_with("stop_signal"));
        assert!(refusal(|config| config.image = None).starts_with("image"));
        let group_alone = cri::LinuxContainerSecurityContext {
            run_as_group: Some(cri::Int64Value { value: 5 }),
            ..Default::default()
        };
        let linux = cri::LinuxContainerConfig { security_context: Some(group_alone), ..Default::default() };
        assert!(refusal(|config| config.linux = Some(linux)).contains("run_as_group"));
    }
}
