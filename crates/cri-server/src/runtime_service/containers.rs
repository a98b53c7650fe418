//! Containers: create, start, stop, remove, status, list, limits, logs.

use std::collections::HashMap;
use std::time::Duration;

use proto::runtime::v1 as cri;
use sandbox::{ContainerConfig, ContainerPhase, ContainerStatus, Error};
use serde_json::json;
use tonic::Status;

use super::Runtime;
use crate::call_log;
use crate::convert::{self, filter, resources, status};
use crate::status::of_sandbox;

pub(super) async fn create(
    runtime: &Runtime,
    request: cri::CreateContainerRequest,
) -> Result<cri::CreateContainerResponse, Status> {
    call_log::about_pod(&runtime.pods, &request.pod_sandbox_id);
    let wanted = request.config.ok_or_else(|| of_sandbox(&Error::refused("config", "is missing")))?;
    let config = convert::container::config(wanted).map_err(|error| of_sandbox(&error))?;
    call_log::about_new_container(&config.metadata);
    let created = runtime.pods.create_container(&request.pod_sandbox_id, config).await;
    let container_id = created.map_err(|error| of_sandbox(&error))?.to_string();
    call_log::has_container(&container_id);
    Ok(cri::CreateContainerResponse { container_id })
}

pub(super) async fn start(
    runtime: &Runtime,
    request: cri::StartContainerRequest,
) -> Result<cri::StartContainerResponse, Status> {
    call_log::about_container(&runtime.pods, &request.container_id);
    runtime.pods.start_container(&request.container_id).await.map_err(|error| of_sandbox(&error))?;
    Ok(cri::StartContainerResponse {})
}

pub(super) async fn stop(
    runtime: &Runtime,
    request: cri::StopContainerRequest,
) -> Result<cri::StopContainerResponse, Status> {
    call_log::about_container(&runtime.pods, &request.container_id);
    // Seconds; kubelet means "at once" by zero, and a negative number can mean nothing else.
    let grace = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0));
    runtime.pods.stop_container(&request.container_id, grace).await.map_err(|error| of_sandbox(&error))?;
    Ok(cri::StopContainerResponse {})
}

pub(super) async fn remove(
    runtime: &Runtime,
    request: cri::RemoveContainerRequest,
) -> Result<cri::RemoveContainerResponse, Status> {
    call_log::about_container(&runtime.pods, &request.container_id);
    runtime.pods.remove_container(&request.container_id).await.map_err(|error| of_sandbox(&error))?;
    Ok(cri::RemoveContainerResponse {})
}

pub(super) fn list(
    runtime: &Runtime,
    wanted: Option<cri::ContainerFilter>,
) -> Result<Vec<cri::Container>, Status> {
    let filter = filter::containers(wanted).map_err(|error| of_sandbox(&error))?;
    Ok(runtime.pods.containers(&filter).iter().map(|container| status::container_item(container)).collect())
}

pub(super) async fn status(
    runtime: &Runtime,
    request: cri::ContainerStatusRequest,
) -> Result<cri::ContainerStatusResponse, Status> {
    call_log::about_container(&runtime.pods, &request.container_id);
    let container = runtime.pods.container(&request.container_id).map_err(|error| of_sandbox(&error))?;
    let info = if request.verbose { info(runtime, &container).await? } else { HashMap::new() };
    Ok(cri::ContainerStatusResponse { status: Some(status::container(&container)), info })
}

/// One JSON object under the key that crictl prints, with the names that its users know.
async fn info(runtime: &Runtime, container: &ContainerStatus) -> Result<HashMap<String, String>, Status> {
    let spec =
        runtime.pods.container_spec(container.id.as_str()).await.map_err(|error| of_sandbox(&error))?;
    let pid = match &container.phase {
        ContainerPhase::Running { pid, .. } => Some(*pid),
        ContainerPhase::Created | ContainerPhase::Exited(_) => None,
    };
    // As it is by now: updates change it.
    let config = ContainerConfig { resources: container.resources.clone(), ..(*container.config).clone() };
    let pod = runtime.pods.pod(container.pod.as_str()).ok();
    let info = json!({
        "sandboxID": container.pod.as_str(),
        "pid": pid.unwrap_or(0),
        "cgroup": pod.as_ref().map(|pod| format!("{}/{}", pod.cgroup, container.id)),
        "runtimeHandler": pod.as_ref().map(|pod| &pod.config.runtime_handler),
        "privileged": container.config.security.privileged,
        "snapshotKey": container.id.as_str(),
        "writableLayer": runtime.layers.join(container.id.as_str()),
        "config": config,
        "runtimeSpec": spec,
    });
    Ok(HashMap::from([("info".to_owned(), info.to_string())]))
}

pub(super) async fn update(
    runtime: &Runtime,
    request: cri::UpdateContainerResourcesRequest,
) -> Result<cri::UpdateContainerResourcesResponse, Status> {
    call_log::about_container(&runtime.pods, &request.container_id);
    if request.windows.is_some() {
        return Err(of_sandbox(&Error::refused("windows", "this node runs Linux")));
    }
    let limits = resources::read(request.linux.unwrap_or_default(), resources::UPDATE)
        .map_err(|error| of_sandbox(&error))?;
    let updated = runtime.pods.update_resources(&request.container_id, limits).await;
    updated.map_err(|error| of_sandbox(&resources::in_update(error)))?;
    Ok(cri::UpdateContainerResourcesResponse {})
}

pub(super) async fn reopen_log(
    runtime: &Runtime,
    request: cri::ReopenContainerLogRequest,
) -> Result<cri::ReopenContainerLogResponse, Status> {
    call_log::about_container(&runtime.pods, &request.container_id);
    runtime.pods.reopen_log(&request.container_id).await.map_err(|error| of_sandbox(&error))?;
    Ok(cri::ReopenContainerLogResponse {})
}
