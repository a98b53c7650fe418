//! What containers use.

use proto::runtime::v1 as cri;
use tonic::Status;

use super::Runtime;
use crate::convert::{filter, stats};
use crate::status::of_sandbox;

pub(super) async fn container(runtime: &Runtime, id: &str) -> Result<cri::ContainerStatsResponse, Status> {
    let container = runtime.pods.container(id).map_err(|error| of_sandbox(&error))?;
    let usage =
        runtime.pods.container_stats(container.id.as_str()).await.map_err(|error| of_sandbox(&error))?;
    let mountpoint = runtime.layers.display().to_string();
    Ok(cri::ContainerStatsResponse { stats: Some(stats::container(&container, &usage, &mountpoint)) })
}

/// A container that ends while the list is made is left out.
pub(super) async fn containers(
    runtime: &Runtime,
    wanted: Option<cri::ContainerStatsFilter>,
) -> Vec<cri::ContainerStats> {
    let mountpoint = runtime.layers.display().to_string();
    let used = runtime.pods.containers_stats(&filter::container_stats(wanted)).await;
    used.iter().map(|(container, usage)| stats::container(container, usage, &mountpoint)).collect()
}
