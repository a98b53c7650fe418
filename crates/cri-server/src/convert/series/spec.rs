//! Series about what containers were made with, and those that are always there.

use sandbox::ContainerPhase;

use super::{Container, Containers, Series, gauge, seconds};

/// What a container has that nothing was said of (Documentation/scheduler/sched-bwc.rst, in microseconds; cgroup-v1/cgroups.rst).
const USUAL_PERIOD: u64 = 100_000;
const USUAL_SHARES: u64 = 1024;

pub(super) static ALWAYS: &[Series] = &[gauge(
    "container_last_seen",
    "When it was looked at last, in seconds since the epoch",
    Containers(|container, put| put.some(time(container.used.usage.at))),
)];

pub(super) static SERIES: &[Series] = &[
    gauge(
        "container_creation_time_seconds",
        "When it was made, in seconds since the epoch",
        Containers(|container, put| put.some(time(container.status.created_at))),
    ),
    gauge(
        "container_start_time_seconds",
        "When it was started, in seconds since the epoch",
        Containers(|container, put| put.some(started(container))),
    ),
    gauge(
        "container_spec_cpu_period",
        "Period of the quota, in microseconds",
        Containers(|container, put| {
            put.value(container.status.resources.cpu_period.unwrap_or(USUAL_PERIOD));
        }),
    ),
    gauge(
        "container_spec_cpu_quota",
        "Processor time in a period, in microseconds; missing without a quota",
        Containers(|container, put| {
            let quota = container.status.resources.cpu_quota.filter(|quota| *quota > 0);
            put.some(quota.and_then(|quota| u64::try_from(quota).ok()));
        }),
    ),
    gauge(
        "container_spec_cpu_shares",
        "Share of the processors, on the scale of cgroup v1",
        Containers(|container, put| {
            put.value(container.status.resources.cpu_shares.unwrap_or(USUAL_SHARES));
        }),
    ),
    gauge(
        "container_spec_memory_limit_bytes",
        "Limit of memory, in bytes; 0 for none",
        Containers(|container, put| {
            let memory = container.used.usage.counters.memory;
            put.some(memory.map(|memory| memory.limit.unwrap_or(0)));
        }),
    ),
    gauge(
        "container_spec_memory_swap_limit_bytes",
        "Limit of swap (with cgroup v1: of memory and swap), in bytes; 0 for none",
        Containers(|container, put| {
            let swap = container.used.usage.counters.swap;
            put.some(swap.map(|swap| swap.limit_with_memory.or(swap.limit).unwrap_or(0)));
        }),
    ),
    gauge(
        "container_spec_memory_reservation_limit_bytes",
        "Memory that is left to it under pressure (memory.min), in bytes; 0 for none",
        Containers(|container, put| {
            let least = container.status.resources.unified.get("memory.min");
            put.value(least.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0));
        }),
    ),
];

fn time(nanoseconds: i64) -> Option<u64> {
    u64::try_from(nanoseconds).ok().map(seconds)
}

fn started(container: &Container<'_>) -> Option<u64> {
    match &container.status.phase {
        ContainerPhase::Running { started_at, .. } => time(*started_at),
        ContainerPhase::Created | ContainerPhase::Exited(_) => None,
    }
}
