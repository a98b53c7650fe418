//! Series about processor time, and about waiting for it and for other things.

use sandbox::PodUsage;
use sandbox::stats::{CpuModes, Pressure, Throttling};

use super::{Both, Container, Containers, Each, Put, Series, counter, gauge, seconds};

pub(super) static SERIES: &[Series] = &[
    counter(
        "container_cpu_user_seconds_total",
        "Processor time in user mode, in seconds",
        Both(|stats, put| put.some(stats.cpu_detail.modes.map(|CpuModes { user_ns, .. }| seconds(user_ns)))),
    ),
    counter(
        "container_cpu_system_seconds_total",
        "Processor time in the kernel, in seconds",
        Both(|stats, put| {
            put.some(stats.cpu_detail.modes.map(|CpuModes { system_ns, .. }| seconds(system_ns)))
        }),
    ),
    counter(
        "container_cpu_usage_seconds_total",
        "Processor time, in seconds",
        Both(|stats, put| {
            if let Some(cpu) = stats.cpu {
                put.labelled(&["total"], seconds(cpu.usage_ns));
            }
        }),
    )
    .by(&["cpu"]),
    counter(
        "container_cpu_cfs_periods_total",
        "Periods of the quota that have passed",
        Each(
            |c, put| put.some(held(c).map(|h| h.periods)),
            |p, put| put.some(held_pod(p).map(|h| h.periods)),
        ),
    ),
    counter(
        "container_cpu_cfs_throttled_periods_total",
        "Periods in which the quota was used up",
        Each(
            |c, put| put.some(held(c).map(|h| h.throttled_periods)),
            |p, put| put.some(held_pod(p).map(|h| h.throttled_periods)),
        ),
    ),
    counter(
        "container_cpu_cfs_throttled_seconds_total",
        "Time that was held back by the quota, in seconds",
        Each(
            |c, put| put.some(held(c).map(|h| seconds(h.throttled_ns))),
            |p, put| put.some(held_pod(p).map(|h| seconds(h.throttled_ns))),
        ),
    ),
    counter(
        "container_cpu_cfs_burst_periods_total",
        "Periods in which saved time was used",
        Each(
            |c, put| put.some(held(c).map(|h| h.burst_periods)),
            |p, put| put.some(held_pod(p).map(|h| h.burst_periods)),
        ),
    ),
    counter(
        "container_cpu_cfs_burst_seconds_total",
        "Saved time that was used, in seconds",
        Each(
            |c, put| put.some(held(c).map(|h| seconds(h.burst_ns))),
            |p, put| put.some(held_pod(p).map(|h| seconds(h.burst_ns))),
        ),
    ),
];

/// What a quota has held back, of a container that has one, as cAdvisor has it.
fn held(container: &Container<'_>) -> Option<Throttling> {
    let has_quota = container.status.resources.cpu_quota.is_some_and(|quota| quota > 0);
    container.used.usage.counters.cpu_detail.throttling.filter(|_| has_quota)
}

/// The same of a pod.
fn held_pod(pod: &PodUsage) -> Option<Throttling> {
    let has_quota = pod.quota.is_some_and(|quota| quota.runtime_us.is_some());
    pod.usage.counters.cpu_detail.throttling.filter(|_| has_quota)
}

pub(super) static LOAD: &[Series] = &[
    gauge(
        "container_cpu_load_average_10s",
        "Threads that run or could, of the last ten seconds, in thousandths",
        Containers(|container, put| put.some(load(container).map(|(running, _)| thousandths(running)))),
    ),
    gauge(
        "container_cpu_load_d_average_10s",
        "Threads that wait and can't be woken, of the last ten seconds, in thousandths",
        Containers(|container, put| put.some(load(container).map(|(_, stuck)| thousandths(stuck)))),
    ),
    gauge(
        "container_tasks_state",
        "Threads in each state",
        Containers(|container, put| {
            let Some(states) = container.used.processes.and_then(|processes| processes.states) else {
                return;
            };
            put.labelled(&["sleeping"], states.sleeping);
            put.labelled(&["running"], states.running);
            put.labelled(&["stopped"], states.stopped);
            put.labelled(&["uninterruptible"], states.uninterruptible);
        }),
    )
    .by(&["state"]),
];

fn load(container: &Container<'_>) -> Option<(f64, f64)> {
    container.used.processes?.load
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "averages of numbers of threads")]
fn thousandths(average: f64) -> u64 {
    (average * 1000.0).round() as u64
}

pub(super) static PRESSURE: &[Series] = &[
    counter(
        "container_pressure_cpu_stalled_seconds_total",
        "Time in which all waited for a processor, in seconds",
        Both(|stats, put| stalled(stats.pressure.cpu, put)),
    ),
    counter(
        "container_pressure_cpu_waiting_seconds_total",
        "Time in which some waited for a processor, in seconds",
        Both(|stats, put| waiting(stats.pressure.cpu, put)),
    ),
    counter(
        "container_pressure_memory_stalled_seconds_total",
        "Time in which all waited for memory, in seconds",
        Both(|stats, put| stalled(stats.pressure.memory, put)),
    ),
    counter(
        "container_pressure_memory_waiting_seconds_total",
        "Time in which some waited for memory, in seconds",
        Both(|stats, put| waiting(stats.pressure.memory, put)),
    ),
    counter(
        "container_pressure_io_stalled_seconds_total",
        "Time in which all waited for input or output, in seconds",
        Both(|stats, put| stalled(stats.pressure.io, put)),
    ),
    counter(
        "container_pressure_io_waiting_seconds_total",
        "Time in which some waited for input or output, in seconds",
        Both(|stats, put| waiting(stats.pressure.io, put)),
    ),
];

fn stalled(pressure: Option<Pressure>, put: &mut Put<'_>) {
    put.some(pressure.and_then(|pressure| pressure.full).map(|full| full.total_us / 1_000_000));
}

fn waiting(pressure: Option<Pressure>, put: &mut Put<'_>) {
    put.some(pressure.map(|pressure| pressure.some.total_us / 1_000_000));
}
