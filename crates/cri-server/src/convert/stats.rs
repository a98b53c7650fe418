//! What containers use, as answers show it.

use proto::runtime::v1 as cri;
use sandbox::{ContainerStatus, ContainerUsage, Usage};

use super::{status, unsorted};

/// A container's stats. `mountpoint` is where writable layers lie.
pub(crate) fn container(
    container: &ContainerStatus,
    used: &ContainerUsage,
    mountpoint: &str,
) -> cri::ContainerStats {
    let at = used.usage.at;
    cri::ContainerStats {
        attributes: Some(cri::ContainerAttributes {
            id: container.id.to_string(),
            metadata: Some(status::container_metadata(container)),
            labels: unsorted(&container.config.labels),
            annotations: unsorted(&container.config.annotations),
        }),
        cpu: Some(cpu(&used.usage)),
        memory: Some(memory(&used.usage)),
        writable_layer: used.layer.map(|layer| cri::FilesystemUsage {
            timestamp: layer.at,
            fs_id: Some(cri::FilesystemIdentifier { mountpoint: mountpoint.to_owned() }),
            used_bytes: number(Some(layer.bytes)),
            inodes_used: number(Some(layer.inodes)),
        }),
        swap: used.usage.swap_usage.map(|bytes| cri::SwapUsage {
            timestamp: at,
            swap_available_bytes: None,
            swap_usage_bytes: number(Some(bytes)),
        }),
        io: None,
    }
}

fn cpu(usage: &Usage) -> cri::CpuUsage {
    cri::CpuUsage { timestamp: usage.at, usage_core_nano_seconds: number(usage.cpu_ns), ..Default::default() }
}

fn memory(usage: &Usage) -> cri::MemoryUsage {
    cri::MemoryUsage {
        timestamp: usage.at,
        working_set_bytes: number(usage.memory_working_set),
        available_bytes: number(usage.memory_available),
        usage_bytes: number(usage.memory_usage),
        rss_bytes: number(usage.memory_rss),
        page_faults: number(usage.page_faults),
        major_page_faults: number(usage.major_page_faults),
        psi: None,
    }
}

fn number(value: Option<u64>) -> Option<cri::UInt64Value> {
    value.map(|value| cri::UInt64Value { value })
}
