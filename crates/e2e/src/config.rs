//! Pod and container configurations as kubelet would send them, with as little said as a test can do with.

use k8s_cri::v1::*;

use crate::client::image_spec;

/// A pod with a network of its own, a pid namespace per container, and its logs in `logs`.
pub fn pod(name: &str, cgroup_parent: &str, logs: &std::path::Path) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name.into(),
            uid: format!("uid-{name}"),
            namespace: "e2e".into(),
            attempt: 0,
        }),
        hostname: name.into(),
        log_directory: logs.to_string_lossy().into_owned(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: cgroup_parent.into(),
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(NamespaceMode::Pod, NamespaceMode::Container)),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The same pod on the host's network.
pub fn on_host_network(mut config: PodSandboxConfig) -> PodSandboxConfig {
    if let Some(context) = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()) {
        context.namespace_options = Some(namespaces(NamespaceMode::Node, NamespaceMode::Container));
    }
    config
}

/// Namespace options with an ipc namespace of the pod's.
pub fn namespaces(network: NamespaceMode, pid: NamespaceMode) -> NamespaceOption {
    NamespaceOption {
        network: network as i32,
        pid: pid as i32,
        ipc: NamespaceMode::Pod as i32,
        ..Default::default()
    }
}

/// A container of `image` that runs `command`, with its log in `<name>/0.log` below the pod's directory.
pub fn container(name: &str, image: &str, command: &[&str]) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(image_spec(image)),
        command: command.iter().map(ToString::to_string).collect(),
        log_path: format!("{name}.log"),
        linux: Some(LinuxContainerConfig {
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(namespaces(NamespaceMode::Pod, NamespaceMode::Container)),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The container's security context, to change in place.
///
/// # Panics
/// When the configuration is not one of [`container`]'s.
pub fn security(config: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).expect("made by container()")
}
