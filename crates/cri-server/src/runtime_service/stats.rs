//! What pods and containers use.

use proto::runtime::v1 as cri;
use sandbox::Wanted;
use tonic::Status;

use super::Runtime;
use crate::convert::{filter, stats};
use crate::status::of_sandbox;

pub(super) async fn container(runtime: &Runtime, id: &str) -> Result<cri::ContainerStatsResponse, Status> {
    let container = runtime.pods.container(id).map_err(|error| of_sandbox(&error))?;
    let usage =
        runtime.pods.container_stats(container.id.as_str()).await.map_err(|error| of_sandbox(&error))?;
    Ok(cri::ContainerStatsResponse {
        stats: Some(stats::container(&container, &usage, &mountpoint(runtime))),
    })
}

/// A container that ends while the list is made is left out.
pub(super) async fn containers(
    runtime: &Runtime,
    wanted: Option<cri::ContainerStatsFilter>,
) -> Result<Vec<cri::ContainerStats>, Status> {
    let mountpoint = mountpoint(runtime);
    let used = runtime.pods.containers_stats(&filter::container_stats(wanted)).await;
    let used = used.map_err(|error| of_sandbox(&error))?;
    Ok(used.iter().map(|(container, usage)| stats::container(container, usage, &mountpoint)).collect())
}

pub(super) async fn pod(runtime: &Runtime, id: &str) -> Result<cri::PodSandboxStatsResponse, Status> {
    let usage = runtime.pods.pod_stats(id).await.map_err(|error| of_sandbox(&error))?;
    Ok(cri::PodSandboxStatsResponse { stats: Some(stats::pod(&usage, &mountpoint(runtime))) })
}

/// Of pods that are ready: others use nothing.
pub(super) async fn pods(
    runtime: &Runtime,
    wanted: Option<cri::PodSandboxStatsFilter>,
) -> Result<Vec<cri::PodSandboxStats>, Status> {
    let mountpoint = mountpoint(runtime);
    let used = runtime.pods.pods_stats(&filter::pod_stats(wanted), &Wanted::of_pods()).await;
    let used = used.map_err(|error| of_sandbox(&error))?;
    Ok(used.iter().map(|usage| stats::pod(usage, &mountpoint)).collect())
}

fn mountpoint(runtime: &Runtime) -> String {
    runtime.layers.display().to_string()
}
