//! Series about what containers were made with, and pods' cgroups have, and those that are always there.

use sandbox::{ContainerPhase, Resources};

use super::{Both, Container, Containers, Each, Series, gauge, seconds};

/// What a container has that nothing was said of (Documentation/scheduler/sched-bwc.rst, in microseconds; cgroup-v1/cgroups.rst).
const USUAL_PERIOD: u64 = 100_000;
const USUAL_SHARES: u64 = 1024;

pub(super) static ALWAYS: &[Series] = &[gauge(
    "container_last_seen",
    "When it was looked at last, in seconds since the epoch",
    Each(|container, put| put.some(time(container.used.usage.at)), |pod, put| put.some(time(pod.usage.at))),
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
        Each(|container, put| put.some(started(container)), |pod, put| put.some(time(pod.pod.created_at))),
    ),
    gauge(
        "container_spec_cpu_period",
        "Period of the quota, in microseconds",
        Each(
            |container, put| put.value(container.status.resources.cpu_period.unwrap_or(USUAL_PERIOD)),
            |pod, put| put.some(pod.quota.map(|quota| quota.period_us)),
        ),
    ),
    gauge(
        "container_spec_cpu_quota",
        "Processor time in a period, in microseconds; missing without a quota",
        Each(
            |container, put| {
                let quota = container.status.resources.cpu_quota.filter(|quota| *quota > 0);
                put.some(quota.and_then(|quota| u64::try_from(quota).ok()));
            },
            |pod, put| put.some(pod.quota.and_then(|quota| quota.runtime_us)),
        ),
    ),
    gauge(
        "container_spec_cpu_shares",
        "Share of the processors, on the scale of cgroup v1",
        Each(
            |container, put| put.value(container.status.resources.cpu_shares.unwrap_or(USUAL_SHARES)),
            |pod, put| put.value(pod.pod.limits.shares().unwrap_or(USUAL_SHARES)),
        ),
    ),
    gauge(
        "container_spec_memory_limit_bytes",
        "Limit of memory, in bytes; 0 for none",
        Both(|s, put| put.some(s.memory.map(|memory| memory.limit.unwrap_or(0)))),
    ),
    gauge(
        "container_spec_memory_swap_limit_bytes",
        "Limit of swap (with cgroup v1: of memory and swap), in bytes; 0 for none",
        Both(|s, put| {
            put.some(s.swap.map(|swap| swap.limit_with_memory.or(swap.limit).unwrap_or(0)));
        }),
    ),
    gauge(
        "container_spec_memory_reservation_limit_bytes",
        "Memory that is left to it under pressure (memory.min), in bytes; 0 for none",
        Each(
            |container, put| put.value(least(&container.status.resources)),
            |pod, put| put.value(pod.pod.limits.resources.as_ref().map_or(0, least)),
        ),
    ),
];

/// What is left to it.
fn least(resources: &Resources) -> u64 {
    resources.unified.get("memory.min").and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0)
}

fn time(nanoseconds: i64) -> Option<u64> {
    u64::try_from(nanoseconds).ok().map(seconds)
}

fn started(container: &Container<'_>) -> Option<u64> {
    match &container.status.phase {
        ContainerPhase::Running { started_at, .. } => time(*started_at),
        ContainerPhase::Created | ContainerPhase::Exited(_) => None,
    }
}
