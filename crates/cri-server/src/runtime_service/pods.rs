//! Pod sandboxes: run, stop, remove, status, list.

use std::cmp::Reverse;
use std::collections::HashMap;

use proto::runtime::v1 as cri;
use sandbox::{ContainerFilter, Error};
use tonic::Status;

use super::{Runtime, pod_info};
use crate::call_log;
use crate::convert::{self, filter, status};
use crate::status::of_sandbox;
use crate::streams_port;

pub(super) async fn run(
    runtime: &Runtime,
    request: cri::RunPodSandboxRequest,
) -> Result<cri::RunPodSandboxResponse, Status> {
    let wanted = request.config.ok_or_else(|| of_sandbox(&Error::refused("config", "is missing")))?;
    let config = convert::pod::config(wanted, request.runtime_handler).map_err(|error| of_sandbox(&error))?;
    streams_port::spare(&config, runtime.streams.address()).map_err(|error| of_sandbox(&error))?;
    call_log::about_new_pod(&config.metadata);
    let id = runtime.pods.run(config).await.map_err(|error| of_sandbox(&error))?;
    call_log::has_pod(id.as_str());
    Ok(cri::RunPodSandboxResponse { pod_sandbox_id: id.to_string() })
}

pub(super) async fn stop(
    runtime: &Runtime,
    request: cri::StopPodSandboxRequest,
) -> Result<cri::StopPodSandboxResponse, Status> {
    call_log::about_pod(&runtime.pods, &request.pod_sandbox_id);
    runtime.pods.stop(&request.pod_sandbox_id).await.map_err(|error| of_sandbox(&error))?;
    Ok(cri::StopPodSandboxResponse {})
}

pub(super) async fn remove(
    runtime: &Runtime,
    request: cri::RemovePodSandboxRequest,
) -> Result<cri::RemovePodSandboxResponse, Status> {
    call_log::about_pod(&runtime.pods, &request.pod_sandbox_id);
    runtime.pods.remove(&request.pod_sandbox_id).await.map_err(|error| of_sandbox(&error))?;
    Ok(cri::RemovePodSandboxResponse {})
}

pub(super) fn status(
    runtime: &Runtime,
    request: &cri::PodSandboxStatusRequest,
) -> Result<cri::PodSandboxStatusResponse, Status> {
    call_log::about_pod(&runtime.pods, &request.pod_sandbox_id);
    // Taken before anything is read: kubelet drops events that are older than a status, so what is read may be newer, never older.
    let timestamp = runtime.pods.time_of_look();
    let pod = runtime.pods.pod(&request.pod_sandbox_id).map_err(|error| of_sandbox(&error))?;
    let inside = ContainerFilter { pod: pod.id.to_string(), ..Default::default() };
    let mut containers = runtime.pods.containers(&inside);
    // The newest first: kubelet takes the first of a name for the one that counts, where it lists with EventedPLEG.
    containers.sort_by_key(|container| Reverse(container.created_at));
    Ok(cri::PodSandboxStatusResponse {
        status: Some(status::pod(&pod)),
        info: if request.verbose { pod_info::of(runtime, &pod) } else { HashMap::new() },
        containers_statuses: containers.iter().map(|container| status::container(container)).collect(),
        timestamp,
    })
}

pub(super) fn list(
    runtime: &Runtime,
    wanted: Option<cri::PodSandboxFilter>,
) -> Result<Vec<cri::PodSandbox>, Status> {
    let filter = filter::pods(wanted).map_err(|error| of_sandbox(&error))?;
    Ok(runtime.pods.pods(&filter).iter().map(|pod| status::pod_item(pod)).collect())
}

pub(super) async fn update(
    runtime: &Runtime,
    request: cri::UpdatePodSandboxResourcesRequest,
) -> Result<cri::UpdatePodSandboxResourcesResponse, Status> {
    let id = request.pod_sandbox_id.clone();
    call_log::about_pod(&runtime.pods, &id);
    let limits = convert::pod::update(request).map_err(|error| of_sandbox(&error))?;
    runtime.pods.update_pod_resources(&id, limits).await.map_err(|error| of_sandbox(&error))?;
    Ok(cri::UpdatePodSandboxResourcesResponse {})
}
