//! Pods and containers as answers show them.

use proto::runtime::v1 as cri;
use sandbox::{
    ContainerPhase, ContainerStatus, ImageReference, MountAccess, MountSource, PhaseName, PodMetadata,
    PodPhase, PodStatus, Propagation,
};

use super::{resources, security, signal, unsorted};

/// A pod in a list.
pub(crate) fn pod_item(pod: &PodStatus) -> cri::PodSandbox {
    cri::PodSandbox {
        id: pod.id.to_string(),
        metadata: Some(pod_metadata(&pod.config.metadata)),
        state: pod_state(pod.phase),
        created_at: pod.created_at,
        labels: unsorted(&pod.config.labels),
        annotations: unsorted(&pod.config.annotations),
        runtime_handler: pod.config.runtime_handler.clone(),
    }
}

/// A pod's status.
pub(crate) fn pod(pod: &PodStatus) -> cri::PodSandboxStatus {
    let mut ips = pod.ips.iter().map(ToString::to_string);
    let network = cri::PodSandboxNetworkStatus {
        ip: ips.next().unwrap_or_default(),
        additional_ips: ips.map(|ip| cri::PodIp { ip }).collect(),
    };
    let options = Some(security::shown(&pod.config.namespaces));
    cri::PodSandboxStatus {
        id: pod.id.to_string(),
        metadata: Some(pod_metadata(&pod.config.metadata)),
        state: pod_state(pod.phase),
        created_at: pod.created_at,
        network: Some(network),
        linux: Some(cri::LinuxPodSandboxStatus { namespaces: Some(cri::Namespace { options }) }),
        labels: unsorted(&pod.config.labels),
        annotations: unsorted(&pod.config.annotations),
        runtime_handler: pod.config.runtime_handler.clone(),
    }
}

fn pod_state(phase: PodPhase) -> i32 {
    match phase {
        PodPhase::Ready => cri::PodSandboxState::SandboxReady as i32,
        PodPhase::NotReady => cri::PodSandboxState::SandboxNotready as i32,
    }
}

/// Who a pod is.
pub(crate) fn pod_metadata(metadata: &PodMetadata) -> cri::PodSandboxMetadata {
    let PodMetadata { name, uid, namespace, attempt } = metadata.clone();
    cri::PodSandboxMetadata { name, uid, namespace, attempt }
}

/// A container in a list.
pub(crate) fn container_item(container: &ContainerStatus) -> cri::Container {
    cri::Container {
        id: container.id.to_string(),
        pod_sandbox_id: container.pod.to_string(),
        metadata: Some(container_metadata(container)),
        image: Some(image(&container.config.image)),
        image_ref: container.image_ref.clone(),
        state: container_state(&container.phase),
        created_at: container.created_at,
        labels: unsorted(&container.config.labels),
        annotations: unsorted(&container.config.annotations),
        image_id: container.image_id.clone(),
    }
}

/// A container's status.
pub(crate) fn container(container: &ContainerStatus) -> cri::ContainerStatus {
    let mut status = cri::ContainerStatus {
        id: container.id.to_string(),
        metadata: Some(container_metadata(container)),
        state: container_state(&container.phase),
        created_at: container.created_at,
        image: Some(image(&container.config.image)),
        image_ref: container.image_ref.clone(),
        image_id: container.image_id.clone(),
        labels: unsorted(&container.config.labels),
        annotations: unsorted(&container.config.annotations),
        mounts: mounts(container),
        log_path: container.log_path.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        resources: Some(cri::ContainerResources {
            linux: Some(resources::shown(&container.resources)),
            windows: None,
        }),
        user: Some(user(container)),
        stop_signal: signal::shown(container.stop_signal),
        ..Default::default()
    };
    match &container.phase {
        ContainerPhase::Created => {}
        ContainerPhase::Running { started_at, .. } => status.started_at = *started_at,
        ContainerPhase::Exited(exited) => {
            status.started_at = exited.started_at;
            status.finished_at = exited.finished_at;
            status.exit_code = exited.exit_code;
            status.reason = exited.reason.as_str().to_owned();
            status.message.clone_from(&exited.message);
        }
    }
    status
}

fn container_state(phase: &ContainerPhase) -> i32 {
    match phase.name() {
        PhaseName::Created => cri::ContainerState::ContainerCreated as i32,
        PhaseName::Running => cri::ContainerState::ContainerRunning as i32,
        PhaseName::Exited => cri::ContainerState::ContainerExited as i32,
        PhaseName::Unknown => cri::ContainerState::ContainerUnknown as i32,
    }
}

/// Who a container is within its pod.
pub(crate) fn container_metadata(container: &ContainerStatus) -> cri::ContainerMetadata {
    let metadata = &container.config.metadata;
    cri::ContainerMetadata { name: metadata.name.clone(), attempt: metadata.attempt }
}

fn image(image: &ImageReference) -> cri::ImageSpec {
    cri::ImageSpec {
        image: image.reference.clone(),
        user_specified_image: image.user_specified.clone(),
        annotations: unsorted(&image.annotations),
        ..Default::default()
    }
}

fn user(container: &ContainerStatus) -> cri::ContainerUser {
    let user = &container.user;
    cri::ContainerUser {
        linux: Some(cri::LinuxContainerUser {
            uid: user.uid.into(),
            gid: user.gid.into(),
            supplemental_groups: user.supplemental_groups.iter().map(|group| i64::from(*group)).collect(),
        }),
    }
}

/// Each image volume with the image that it is of, whatever its name means by now.
fn mounts(container: &ContainerStatus) -> Vec<cri::Mount> {
    let mut shown: Vec<cri::Mount> = container.config.mounts.iter().map(mount).collect();
    for (at, id) in &container.image_volumes {
        if let Some(image) = shown.get_mut(*at).and_then(|mount| mount.image.as_mut()) {
            image.image_ref.clone_from(id);
        }
    }
    shown
}

fn mount(mount: &sandbox::Mount) -> cri::Mount {
    let (host_path, image, image_sub_path) = match &mount.source {
        MountSource::Host(path) => (path.display().to_string(), None, String::new()),
        MountSource::Image { image: reference, sub_path } => {
            (String::new(), Some(image(reference)), sub_path.clone())
        }
    };
    let ids = mount.id_mapping.clone().unwrap_or_default();
    cri::Mount {
        uid_mappings: security::shown_mappings(&ids.uids),
        gid_mappings: security::shown_mappings(&ids.gids),
        container_path: mount.container_path.display().to_string(),
        host_path,
        image,
        image_sub_path,
        readonly: mount.access != MountAccess::ReadWrite,
        recursive_read_only: mount.access == MountAccess::RecursiveReadOnly,
        selinux_relabel: mount.selinux_relabel,
        propagation: match mount.propagation {
            Propagation::Private => cri::MountPropagation::PropagationPrivate as i32,
            Propagation::HostToContainer => cri::MountPropagation::PropagationHostToContainer as i32,
            Propagation::Bidirectional => cri::MountPropagation::PropagationBidirectional as i32,
        },
        mount_options: mount.options.clone(),
    }
}
