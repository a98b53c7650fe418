//! ContainerConfig, read.

use std::path::PathBuf;

use proto::runtime::v1 as cri;
use sandbox::{
    ContainerConfig, ContainerMetadata, ContainerNamespaces, ContainerSecurity, Device, Error,
    ImageReference, Mount, MountAccess, MountSource, PodNamespaces, Propagation, RunAs, Stdin, UserNamespace,
};

use super::security::{
    apparmor, group_ids, groups_policy, mappings, namespaces, profile, selinux, wants_nodes_users,
};
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
        metadata: metadata(required(config.metadata, "metadata")?),
        image: image(required(config.image, "image")?),
        command: config.command,
        args: config.args,
        working_dir: config.working_dir,
        envs: config.envs.into_iter().enumerate().map(variable).collect::<Result<_, _>>()?,
        mounts: config.mounts.into_iter().enumerate().map(mount).collect::<Result<_, _>>()?,
        devices: config.devices.into_iter().map(device).collect(),
        cdi_devices: config.cdi_devices.into_iter().map(|device| device.name).collect(),
        labels: sorted(config.labels),
        annotations: sorted(config.annotations),
        log_path: config.log_path,
        stdin: stdin(config.stdin, config.stdin_once)?,
        tty: config.tty,
        resources: resources::read(linux.resources.unwrap_or_default(), resources::CONTAINER)?,
        security: security(linux.security_context.unwrap_or_default())?,
        stop_signal: signal::read(config.stop_signal)?,
    })
}

fn metadata(metadata: cri::ContainerMetadata) -> ContainerMetadata {
    ContainerMetadata { name: metadata.name, attempt: metadata.attempt }
}

fn image(spec: cri::ImageSpec) -> ImageReference {
    ImageReference {
        reference: spec.image,
        user_specified: spec.user_specified_image,
        annotations: sorted(spec.annotations),
        runtime_handler: spec.runtime_handler,
    }
}

fn variable((at, variable): (usize, cri::KeyValue)) -> Result<(String, String), Error> {
    let refused = |field: &str, why: String| Error::refused(format!("envs[{at}].{field}"), why);
    let key = variable.key;
    if key.is_empty() || key.contains(['=', '\0']) {
        return Err(refused("key", format!("\"{key}\" is not the name of a variable")));
    }
    // The contract has bytes here, the OCI specification of a process has text.
    let value = String::from_utf8(variable.value)
        .map_err(|_| refused("value", format!("the value of \"{key}\" is not UTF-8")))?;
    if value.contains('\0') {
        return Err(refused("value", format!("the value of \"{key}\" has a NUL byte")));
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

fn mount((at, mount): (usize, cri::Mount)) -> Result<Mount, Error> {
    let field = Field(at);
    Ok(Mount {
        container_path: field.absolute("container_path", &mount.container_path)?,
        access: access(&field, &mount)?,
        propagation: match known(mount.propagation, &field.path("propagation"))? {
            cri::MountPropagation::PropagationPrivate => Propagation::Private,
            cri::MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
            cri::MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
        },
        selinux_relabel: mount.selinux_relabel,
        id_mapping: id_mapping(&mount),
        source: source(&field, &mount.host_path, mount.image, mount.image_sub_path)?,
        options: mount.mount_options,
    })
}

/// Names the fields of the mount with this number.
struct Field(usize);

impl Field {
    fn path(&self, name: &str) -> String {
        format!("mounts[{}].{name}", self.0)
    }

    fn refused(&self, name: &str, why: impl Into<String>) -> Error {
        Error::refused(self.path(name), why)
    }

    fn absolute(&self, name: &str, text: &str) -> Result<PathBuf, Error> {
        let path = Some(PathBuf::from(text)).filter(|path| path.is_absolute());
        path.ok_or_else(|| self.refused(name, format!("\"{text}\" is not an absolute path")))
    }
}

fn access(field: &Field, mount: &cri::Mount) -> Result<MountAccess, Error> {
    let refused = |why: &str| Err(field.refused("recursive_read_only", why));
    match (mount.readonly, mount.recursive_read_only) {
        (false, false) => Ok(MountAccess::ReadWrite),
        (true, false) => Ok(MountAccess::ReadOnly),
        (true, true) if mount.propagation == cri::MountPropagation::PropagationPrivate as i32 => {
            Ok(MountAccess::RecursiveReadOnly)
        }
        (true, true) => refused("needs private propagation"),
        (false, true) => refused("needs readonly"),
    }
}

fn id_mapping(mount: &cri::Mount) -> Option<UserNamespace> {
    let (uids, gids) = (mappings(&mount.uid_mappings), mappings(&mount.gid_mappings));
    (!uids.is_empty() || !gids.is_empty()).then_some(UserNamespace { uids, gids })
}

fn source(
    field: &Field,
    host_path: &str,
    image: Option<cri::ImageSpec>,
    sub_path: String,
) -> Result<MountSource, Error> {
    if let Some(spec) = image.filter(|spec| !spec.image.is_empty()) {
        if !host_path.is_empty() {
            return Err(field.refused("host_path", "excludes image"));
        }
        return Ok(MountSource::Image { image: self::image(spec), sub_path });
    }
    if !sub_path.is_empty() {
        return Err(field.refused("image_sub_path", "needs image"));
    }
    field.absolute("host_path", host_path).map(MountSource::Host)
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
    let nodes_users = wants_nodes_users(context.namespace_options.as_ref());
    let PodNamespaces { network, pid, ipc, user } =
        namespaces(context.namespace_options.unwrap_or_default())?;
    #[allow(deprecated, reason = "the old form counts where the new one is absent")]
    let apparmor = apparmor(context.apparmor, &context.apparmor_profile)?;
    // Unsaid is the pod's.
    let user = if nodes_users { Some(UserNamespace::default()) } else { user };
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
        supplemental_groups_policy: groups_policy(context.supplemental_groups_policy)?,
        readonly_rootfs: context.readonly_rootfs,
        no_new_privileges: context.no_new_privs,
        masked_paths: Some(context.masked_paths),
        readonly_paths: Some(context.readonly_paths),
        seccomp: profile(context.seccomp, "linux.security_context.seccomp")?,
        apparmor,
        selinux: selinux(context.selinux_options),
    })
}

#[allow(deprecated, reason = "what the contract has deprecated is refused by name")]
fn deprecated(context: &cri::LinuxContainerSecurityContext) -> Result<(), Error> {
    let refused = |field: &str, instead: &str| {
        Error::refused(format!("linux.security_context.{field}"), format!("is deprecated, use {instead}"))
    };
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
    fn what_is_deprecated_or_of_another_system_is_refused_by_path() {
        assert!(refusal(|config| config.windows = Some(Default::default())).starts_with("windows: "));
        type Change = fn(&mut cri::LinuxContainerSecurityContext);
        #[allow(deprecated, reason = "that is what it is about")]
        let old: [(&str, Change, Change); 2] = [
            (
                "seccomp_profile_path",
                |context| context.seccomp_profile_path = "runtime/default".into(),
                |context| context.seccomp = Some(cri::SecurityProfile::default()),
            ),
            (
                "apparmor_profile",
                // A word that it never had; those that it had are honoured.
                |context| context.apparmor_profile = "strict".into(),
                |context| context.apparmor = Some(cri::SecurityProfile::default()),
            ),
        ];
        for (field, old, new) in old {
            let mut context = cri::LinuxContainerSecurityContext::default();
            old(&mut context);
            let asked_with = |context: &cri::LinuxContainerSecurityContext| cri::ContainerConfig {
                linux: Some(cri::LinuxContainerConfig {
                    security_context: Some(context.clone()),
                    ..Default::default()
                }),
                ..asked()
            };
            let refused = config(asked_with(&context)).unwrap_err().to_string();
            assert!(refused.starts_with(&format!("linux.security_context.{field}: ")), "{refused}");
            new(&mut context);
            config(asked_with(&context)).expect("the new field beside the old one, as kubelet sends it");
        }
    }

    #[test]
    fn fields_that_cannot_be_honoured_are_refused_by_path() {
        let good =
            cri::Mount { container_path: "/good".into(), host_path: "/tmp".into(), ..Default::default() };
        let mount =
            |mount: cri::Mount| |config: &mut cri::ContainerConfig| config.mounts = vec![good.clone(), mount];
        let relative =
            cri::Mount { container_path: "data".into(), host_path: "/tmp".into(), ..Default::default() };
        assert!(refusal(mount(relative)).starts_with("mounts[1].container_path: \"data\""));
        let no_source = cri::Mount { container_path: "/data".into(), ..Default::default() };
        assert!(refusal(mount(no_source.clone())).starts_with("mounts[1].host_path"));
        let no_image = cri::Mount { image_sub_path: "etc".into(), host_path: "/tmp".into(), ..no_source };
        assert!(refusal(mount(no_image)).starts_with("mounts[1].image_sub_path: needs image"));
        let image = Some(cri::ImageSpec { image: "i".into(), ..Default::default() });
        let both = cri::Mount { image, ..good.clone() };
        assert!(refusal(mount(both)).starts_with("mounts[1].host_path: excludes image"));
        let variable = cri::KeyValue { key: "A=B".into(), ..Default::default() };
        assert!(refusal(|config| config.envs = vec![variable]).starts_with("envs[0].key: \"A=B\""));
        let target = cri::NamespaceOption { target_id: "other".into(), ..Default::default() };
        let context =
            cri::LinuxContainerSecurityContext { namespace_options: Some(target), ..Default::default() };
        let linux = cri::LinuxContainerConfig { security_context: Some(context), ..Default::default() };
        let refused = refusal(|config| config.linux = Some(linux));
        assert!(refused.starts_with("linux.security_context.namespace_options.target_id: "), "{refused}");
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
