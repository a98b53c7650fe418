//! What pods and containers use, read from their cgroups when asked for.
//!
//! Not here: rates over time (the server keeps samples), the writable layer (see `rootfs`).

use crate::rootfs::LayerUsage;

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
