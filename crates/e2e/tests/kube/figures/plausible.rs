//! What values must be like, whoever tells them: the load is known, so that a wrong unit is seen.

use std::time::{SystemTime, UNIX_EPOCH};

use e2e::kube::figures::{Figures, Page, Page::*, Row};

use super::excuses::Excuse;
use super::load::SENT;

const MI: f64 = (1 << 20) as f64;

/// Of a series or field: labels of its own, subject, and what its value must be.
type Rule = (Page, &'static str, &'static str, &'static str, Due);

#[derive(Debug, Clone, Copy)]
enum Due {
    /// At least and at most.
    Between(f64, f64),
    /// The same, of each second since the container began.
    Share(f64, f64),
    /// Seconds since the epoch, of the last hour.
    Moment,
}

use Due::{Between, Moment, Share};

#[rustfmt::skip]
static RULES: &[Rule] = &[
    // Half of a processor; what is told may be 15 s old.
    (Cadvisor, "container_cpu_usage_seconds_total", "cpu=total", "loaded/busy", Share(0.1, 0.6)),
    (Cadvisor, "container_cpu_usage_seconds_total", "cpu=total", "loaded/busy", Between(2.0, 1000.0)),
    (Cadvisor, "container_cpu_user_seconds_total", "", "loaded/busy", Share(0.03, 0.6)),
    (Cadvisor, "container_cpu_system_seconds_total", "", "loaded/busy", Share(0.0, 0.5)),
    (Cadvisor, "container_cpu_cfs_periods_total", "", "loaded/busy", Share(3.0, 10.5)),
    (Cadvisor, "container_cpu_cfs_throttled_periods_total", "", "loaded/busy", Share(1.0, 10.5)),
    (Cadvisor, "container_cpu_cfs_throttled_seconds_total", "", "loaded/busy", Share(0.02, 2.0)),
    (Cadvisor, "container_memory_usage_bytes", "", "loaded/holder", Between(8.0 * MI, 64.0 * MI)),
    (Cadvisor, "container_memory_working_set_bytes", "", "loaded/holder", Between(8.0 * MI, 64.0 * MI)),
    (Cadvisor, "container_memory_rss", "", "loaded/holder", Between(8.0 * MI, 40.0 * MI)),
    (Cadvisor, "container_memory_max_usage_bytes", "", "loaded/holder", Between(8.0 * MI, 64.0 * MI)),
    (Cadvisor, "container_memory_cache", "", "loaded/holder", Between(2.0 * MI, 64.0 * MI)),
    (Cadvisor, "container_spec_cpu_quota", "", "loaded/busy", Between(50_000.0, 50_000.0)),
    (Cadvisor, "container_spec_cpu_period", "", "loaded/busy", Between(100_000.0, 100_000.0)),
    (Cadvisor, "container_spec_cpu_shares", "", "loaded/busy", Between(102.0, 102.0)),
    (Cadvisor, "container_spec_memory_limit_bytes", "", "loaded/holder", Between(64.0 * MI, 64.0 * MI)),
    (Cadvisor, "container_network_transmit_bytes_total", "interface=eth0", "loaded/(sandbox)", Between(SENT, 1.2 * SENT)),
    (Cadvisor, "container_network_receive_bytes_total", "interface=eth0", "loaded/(sandbox)", Between(0.0001 * SENT, SENT)),
    (Cadvisor, "container_network_transmit_packets_total", "interface=eth0", "loaded/(sandbox)", Between(SENT / 65_536.0, SENT / 1000.0)),
    // What kubelet has set on the pod: the sums of its three containers.
    (Cadvisor, "container_spec_cpu_quota", "", "loaded/(pod)", Between(150_000.0, 150_000.0)),
    (Cadvisor, "container_spec_cpu_shares", "", "loaded/(pod)", Between(307.0, 307.0)),
    (Cadvisor, "container_spec_memory_limit_bytes", "", "loaded/(pod)", Between(192.0 * MI, 192.0 * MI)),
    (Cadvisor, "container_spec_memory_swap_limit_bytes", "", "loaded/(pod)", Between(0.0, 0.0)),
    (Cadvisor, "container_spec_memory_swap_limit_bytes", "", "loaded/holder", Between(64.0 * MI, 64.0 * MI)),
    (Cadvisor, "container_spec_cpu_shares", "", "on-host/(pod)", Between(2.0, 2.0)),
    (Cadvisor, "container_spec_memory_limit_bytes", "", "on-host/main", Between(0.0, 0.0)),
    (Cadvisor, "container_cpu_usage_seconds_total", "cpu=total", "loaded/(pod)", Between(2.0, 1000.0)),
    (Cadvisor, "container_memory_working_set_bytes", "", "loaded/(pod)", Between(8.0 * MI, 192.0 * MI)),
    (Cadvisor, "container_threads", "", "loaded/(pod)", Between(4.0, 30.0)),
    (Cadvisor, "container_start_time_seconds", "", "loaded/(pod)", Moment),
    (Cadvisor, "container_last_seen", "", "loaded/holder", Moment),
    (Cadvisor, "container_start_time_seconds", "", "loaded/holder", Moment),
    (Cadvisor, "container_threads", "", "loaded/holder", Between(2.0, 10.0)),
    (Cadvisor, "container_processes", "", "loaded/holder", Between(2.0, 10.0)),
    (Cadvisor, "container_file_descriptors", "", "loaded/holder", Between(4.0, 100.0)),
    (Resource, "container_cpu_usage_seconds_total", "", "loaded/busy", Share(0.1, 0.6)),
    (Resource, "container_memory_working_set_bytes", "", "loaded/holder", Between(8.0 * MI, 64.0 * MI)),
    (Resource, "container_start_time_seconds", "", "loaded/holder", Moment),
    (Resource, "pod_cpu_usage_seconds_total", "", "loaded/(pod)", Between(2.0, 1000.0)),
    (Resource, "pod_memory_working_set_bytes", "", "loaded/(pod)", Between(8.0 * MI, 192.0 * MI)),
    (Summary, "cpu.usageNanoCores", "", "loaded/busy", Between(1e8, 6e8)),
    (Summary, "cpu.usageCoreNanoSeconds", "", "loaded/busy", Between(2e9, 1e12)),
    (Summary, "cpu.usageNanoCores", "", "loaded/(pod)", Between(1e8, 1.2e9)),
    (Summary, "memory.usageBytes", "", "loaded/holder", Between(8.0 * MI, 64.0 * MI)),
    (Summary, "memory.workingSetBytes", "", "loaded/holder", Between(8.0 * MI, 64.0 * MI)),
    (Summary, "memory.rssBytes", "", "loaded/holder", Between(8.0 * MI, 40.0 * MI)),
    (Summary, "memory.availableBytes", "", "loaded/holder", Between(0.0, 56.0 * MI)),
    (Summary, "memory.pageFaults", "", "loaded/holder", Between(1000.0, 1e7)),
    (Summary, "memory.workingSetBytes", "", "loaded/(pod)", Between(8.0 * MI, 192.0 * MI)),
    (Summary, "rootfs.usedBytes", "", "loaded/holder", Between(10.0 * MI, 11.0 * MI)),
    (Summary, "rootfs.inodesUsed", "", "loaded/holder", Between(3.0, 20.0)),
    (Summary, "logs.usedBytes", "", "loaded/holder", Between(10.0, 10_000.0)),
    (Summary, "volume[files].usedBytes", "", "loaded/(pod)", Between(7.0 * MI, 8.0 * MI)),
    (Summary, "volume[memory].usedBytes", "", "loaded/(pod)", Between(2.0 * MI, 3.0 * MI)),
    (Summary, "network.txBytes", "", "loaded/(pod)", Between(SENT, 1.2 * SENT)),
    (Summary, "network.interfaces[eth0].txBytes", "", "loaded/(pod)", Between(SENT, 1.2 * SENT)),
    (Summary, "process_stats.process_count", "", "loaded/(pod)", Between(4.0, 20.0)),
];

/// Which values aren't as they must be, unless it is excused that they lack.
pub(super) fn wrong(figures: &Figures, excuses: &[Excuse]) -> Vec<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_secs_f64();
    let mut found = Vec::new();
    for (page, name, own, subject, due) in RULES {
        let row = Row { own: (*own).to_owned(), subject: (*subject).to_owned() };
        let Some(value) = figures.value(*page, name, &row) else {
            if !excuses.iter().any(|excuse| excuse.covers((*page, name), &row)) {
                found.push(format!("no value: {} {name} of {subject}", page.path()));
            }
            continue;
        };
        let began = Row { own: String::new(), subject: (*subject).to_owned() };
        let began = figures.value(Resource, "container_start_time_seconds", &began).unwrap_or(now);
        let fits = match *due {
            Between(least, most) => (least..=most).contains(&value),
            Share(least, most) => (least * (now - began)..=most * (now - began) + 1.0).contains(&value),
            Moment => (now - 3600.0..=now + 1.0).contains(&value),
        };
        if !fits {
            found.push(format!(
                "{} {name} of {subject}: {value} is not {due:?} after {:.1} s",
                page.path(),
                now - began
            ));
        }
    }
    found
}
