//! What pods and containers use, read from their cgroups when asked for.
//!
//! Not here: rates over time (the server keeps samples), the writable layer (see `rootfs`).

use std::sync::Arc;

use runtime::cgroup::Cgroup;

use crate::clock;
use crate::container::status::ContainerStatus;
use crate::error::Error;
use crate::pod::status::PodStatus;
use crate::registry::PodEntry;
use crate::rootfs::LayerUsage;
use crate::shared::{Shared, blocking};

/// What a pod or container uses; `None` where the host doesn't count it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// When it was read, in nanoseconds since the epoch.
    pub at: i64,
    /// CPU time since the start, in nanoseconds.
    pub cpu_ns: Option<u64>,
    /// Memory in bytes, page cache included.
    pub memory_usage: Option<u64>,
    /// Memory that can't be reclaimed easily, in bytes: usage less inactive file pages, as kubelet defines it.
    pub memory_working_set: Option<u64>,
    /// Anonymous memory in bytes.
    pub memory_rss: Option<u64>,
    /// The limit less the working set, in bytes.
    pub memory_available: Option<u64>,
    /// Page faults since the start.
    pub page_faults: Option<u64>,
    /// Those of them that needed the disk.
    pub major_page_faults: Option<u64>,
    /// Swap in bytes.
    pub swap_usage: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// A container's usage with that of its writable layer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerUsage {
    /// From the cgroup.
    pub usage: Usage,
    /// From the filesystem; `None` when it could not be read.
    pub layer: Option<LayerUsage>,
}

/// What a container uses. One that doesn't run uses its layer alone.
pub(crate) async fn container(
    shared: &Arc<Shared>,
    status: &ContainerStatus,
    pod: &PodEntry,
) -> Result<ContainerUsage, Error> {
    let layer = shared.rootfs.usage(&status.id).await.ok();
    let usage = match &pod.status {
        Some(pod) => read(shared, format!("{}/{}", pod.cgroup, status.id)).await?,
        None => Usage { at: clock::now(), ..Usage::default() },
    };
    Ok(ContainerUsage { usage, layer })
}

/// What a pod uses with all in it.
pub(crate) async fn pod(shared: &Arc<Shared>, status: &PodStatus) -> Result<Usage, Error> {
    read(shared, status.cgroup.clone()).await
}

async fn read(shared: &Arc<Shared>, path: String) -> Result<Usage, Error> {
    let after = shared.config.deadlines.cgroup;
    let host = shared.host.clone();
    let subject = path.clone();
    let stats = blocking(("reading the usage", &subject, after), move || {
        let read = Cgroup::at(&host, &path).and_then(|cgroup| cgroup.stats());
        read.map_err(|cause| Error::step("reading the usage", path, cause))
    })
    .await?;
    let memory = stats.memory;
    Ok(Usage {
        at: clock::now(),
        cpu_ns: stats.cpu.map(|cpu| cpu.usage_ns),
        memory_usage: memory.map(|memory| memory.usage),
        memory_working_set: memory.map(|memory| memory.working_set),
        memory_rss: memory.map(|memory| memory.rss),
        memory_available: memory.and_then(|m| m.limit.map(|limit| limit.saturating_sub(m.working_set))),
        page_faults: memory.map(|memory| memory.page_faults),
        major_page_faults: memory.map(|memory| memory.major_page_faults),
        swap_usage: memory.and_then(|memory| memory.swap),
        pids: stats.pids,
    })
}
