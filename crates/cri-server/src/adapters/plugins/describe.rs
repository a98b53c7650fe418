//! Pods and containers as plugins are told of them: what their specifications say is told by `nri`, the rest is here.

use nri::api::{self, security_profile::ProfileType};
use sandbox::oci::LinuxResources;
use sandbox::{ContainerPhase, ContainerStatus, PodStatus, Profile, Resources};

/// A pod.
pub(super) fn pod(status: &PodStatus) -> api::PodSandbox {
    let config = &status.config;
    let namespace = |path: &std::path::PathBuf| api::LinuxNamespace {
        r#type: "network".to_owned(),
        path: path.display().to_string(),
    };
    api::PodSandbox {
        id: status.id.to_string(),
        name: config.metadata.name.clone(),
        uid: config.metadata.uid.clone(),
        namespace: config.metadata.namespace.clone(),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        runtime_handler: config.runtime_handler.clone(),
        linux: Some(api::LinuxPodSandbox {
            pod_overhead: status.limits.overhead.as_ref().and_then(resources),
            pod_resources: status.limits.resources.as_ref().and_then(resources),
            cgroup_parent: config.cgroup_parent.clone(),
            cgroups_path: status.cgroup.clone(),
            namespaces: status.netns.iter().map(namespace).collect(),
            resources: None,
        }),
        pid: status.supervisor.unwrap_or(0),
        ips: status.ips.iter().map(ToString::to_string).collect(),
    }
}

/// Limits; `None` for those that can't be said.
pub(super) fn resources(given: &Resources) -> Option<api::LinuxResources> {
    let limits: LinuxResources = given.described().ok()?;
    Some(nri::spec::described(&limits))
}

/// A container, with what its specification says where there is one.
pub(super) fn container(status: &ContainerStatus, spec: Option<&sandbox::oci::Spec>) -> api::Container {
    let config = &status.config;
    let mut told = api::Container {
        id: status.id.to_string(),
        pod_sandbox_id: status.pod.to_string(),
        name: config.metadata.name.clone(),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        created_at: status.created_at,
        cdi_devices: config.cdi_devices.iter().map(|name| api::CdiDevice { name: name.clone() }).collect(),
        image: Some(api::Image {
            name: config.image.user_specified.clone(),
            digest: status.image_ref.clone(),
            config_digest: status.image_id.clone(),
        }),
        linux: Some(api::LinuxContainer {
            seccomp_profile: seccomp(config.security.seccomp.as_ref()),
            ..Default::default()
        }),
        ..api::Container::default()
    };
    if let Some(spec) = spec {
        nri::spec::container(spec, &mut told);
        // Its own go before those that the specification has besides.
        told.annotations.extend(config.annotations.clone());
    }
    phase(&status.phase, &mut told);
    told
}

fn seccomp(profile: Option<&Profile>) -> Option<api::SecurityProfile> {
    let (kind, path) = match profile? {
        Profile::RuntimeDefault => (ProfileType::RuntimeDefault, String::new()),
        Profile::Unconfined => (ProfileType::Unconfined, String::new()),
        Profile::Localhost(path) => (ProfileType::Localhost, path.clone()),
    };
    Some(api::SecurityProfile { profile_type: kind as i32, localhost_ref: path })
}

fn phase(phase: &ContainerPhase, told: &mut api::Container) {
    match phase {
        ContainerPhase::Created => told.set_state(api::ContainerState::ContainerCreated),
        ContainerPhase::Running { pid, started_at } => {
            told.set_state(api::ContainerState::ContainerRunning);
            (told.pid, told.started_at) = (*pid, *started_at);
        }
        ContainerPhase::Exited(exited) => {
            told.set_state(api::ContainerState::ContainerStopped);
            (told.started_at, told.finished_at) = (exited.started_at, exited.finished_at);
            told.exit_code = exited.exit_code;
            told.status_reason = exited.reason.as_str().to_owned();
            told.status_message = exited.message.clone();
        }
    }
}
