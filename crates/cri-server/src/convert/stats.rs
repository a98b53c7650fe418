//! What pods and containers use, as answers show it.
//!
//! Not here: the series that Prometheus sees (see `series`).

use proto::runtime::v1 as cri;
use sandbox::stats::{Interface, Pressure, Stall};
use sandbox::{ContainerStatus, ContainerUsage, PodUsage, Usage};

use super::{status, unsorted};

/// A container's stats. `mountpoint` is where writable layers lie.
pub(crate) fn container(
    container: &ContainerStatus,
    used: &ContainerUsage,
    mountpoint: &str,
) -> cri::ContainerStats {
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
        swap: swap(&used.usage),
        io: io(&used.usage),
    }
}

/// A pod's stats, with those of its containers that run.
pub(crate) fn pod(used: &PodUsage, mountpoint: &str) -> cri::PodSandboxStats {
    let (pod, at) = (&used.pod, used.usage.at);
    let containers = used.containers.iter().map(|(status, usage)| container(status, usage, mountpoint));
    let processes = used.containers.iter().filter_map(|(_, usage)| usage.processes);
    // A sum without some of them would be a wrong one.
    let process_count = (used.missing == 0).then(|| processes.map(|processes| processes.count).sum());
    cri::PodSandboxStats {
        attributes: Some(cri::PodSandboxAttributes {
            id: pod.id.to_string(),
            metadata: Some(status::pod_metadata(&pod.config.metadata)),
            labels: unsorted(&pod.config.labels),
            annotations: unsorted(&pod.config.annotations),
        }),
        linux: Some(cri::LinuxPodSandboxStats {
            cpu: Some(cpu(&used.usage)),
            memory: Some(memory(&used.usage)),
            network: used.interfaces.as_deref().and_then(|interfaces| network(at, interfaces)),
            process: Some(cri::ProcessUsage { timestamp: at, process_count: number(process_count) }),
            containers: containers.collect(),
            io: io(&used.usage),
        }),
        windows: None,
    }
}

fn cpu(usage: &Usage) -> cri::CpuUsage {
    cri::CpuUsage {
        timestamp: usage.at,
        usage_core_nano_seconds: number(usage.counters.cpu.map(|cpu| cpu.usage_ns)),
        usage_nano_cores: number(usage.nano_cores),
        psi: usage.counters.pressure.cpu.map(psi),
    }
}

fn memory(usage: &Usage) -> cri::MemoryUsage {
    let memory = usage.counters.memory;
    let available = memory.and_then(|m| m.limit.map(|limit| limit.saturating_sub(m.working_set)));
    cri::MemoryUsage {
        timestamp: usage.at,
        working_set_bytes: number(memory.map(|memory| memory.working_set)),
        available_bytes: number(available),
        usage_bytes: number(memory.map(|memory| memory.usage)),
        rss_bytes: number(memory.map(|memory| memory.rss)),
        page_faults: number(memory.map(|memory| memory.page_faults)),
        major_page_faults: number(memory.map(|memory| memory.major_page_faults)),
        psi: usage.counters.pressure.memory.map(psi),
    }
}

/// None where swap isn't accounted.
fn swap(usage: &Usage) -> Option<cri::SwapUsage> {
    let swap = usage.counters.swap?;
    Some(cri::SwapUsage {
        timestamp: usage.at,
        swap_available_bytes: number(swap.limit.map(|limit| limit.saturating_sub(swap.usage))),
        swap_usage_bytes: number(Some(swap.usage)),
    })
}

/// None where pressure isn't accounted: there is nothing else in it.
fn io(usage: &Usage) -> Option<cri::IoUsage> {
    Some(cri::IoUsage { timestamp: usage.at, psi: Some(psi(usage.counters.pressure.io?)) })
}

/// The first interface is the default one. None without any: kubelet falls over a network that has no default interface.
fn network(at: i64, interfaces: &[Interface]) -> Option<cri::NetworkUsage> {
    let interface = |of: &Interface| cri::NetworkInterfaceUsage {
        name: of.name.clone(),
        rx_bytes: number(Some(of.received.bytes)),
        rx_errors: number(Some(of.received.errors)),
        tx_bytes: number(Some(of.sent.bytes)),
        tx_errors: number(Some(of.sent.errors)),
    };
    Some(cri::NetworkUsage {
        timestamp: at,
        default_interface: Some(interface(interfaces.first()?)),
        interfaces: interfaces.iter().map(interface).collect(),
    })
}

fn psi(pressure: Pressure) -> cri::PsiStats {
    cri::PsiStats { full: pressure.full.map(stall), some: Some(stall(pressure.some)) }
}

/// Nanoseconds and percent, as the contract has them; the kernel counts microseconds, and hundredths of a percent.
fn stall(Stall { total_us, averages }: Stall) -> cri::PsiData {
    let [avg10, avg60, avg300] = averages.map(|hundredths| f64::from(hundredths) / 100.0);
    cri::PsiData { total: total_us.saturating_mul(1000), avg10, avg60, avg300 }
}

fn number(value: Option<u64>) -> Option<cri::UInt64Value> {
    value.map(|value| cri::UInt64Value { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_in_nanoseconds_and_percent() {
        let some = Stall { total_us: 2_486_788, averages: [885, 346, 10_000] };
        let told = psi(Pressure { some, full: None });
        let some = cri::PsiData { total: 2_486_788_000, avg10: 8.85, avg60: 3.46, avg300: 100.0 };
        assert_eq!(told, cri::PsiStats { full: None, some: Some(some) });
    }

    #[test]
    fn a_network_has_a_default_interface_or_is_none() {
        assert_eq!(network(1, &[]), None);
        let names = ["eth0", "net1"].map(|name| Interface { name: name.to_owned(), ..Interface::default() });
        let told = network(1, &names).unwrap();
        assert_eq!(told.default_interface.as_ref(), told.interfaces.first());
        assert_eq!(told.interfaces.len(), 2);
    }

    #[test]
    fn what_is_not_accounted_is_absent_and_not_zero() {
        let nothing = Usage { at: 7, ..Usage::default() };
        assert_eq!(cpu(&nothing), cri::CpuUsage { timestamp: 7, ..Default::default() });
        assert_eq!(memory(&nothing), cri::MemoryUsage { timestamp: 7, ..Default::default() });
        assert_eq!((swap(&nothing), io(&nothing)), (None, None));
    }
}
