//! Series about processes and what they have open.

use sandbox::ProcessUsage;

use super::{Both, Container, Containers, Series, gauge};

pub(super) static SERIES: &[Series] = &[
    gauge(
        "container_processes",
        "Processes",
        Containers(|container, put| put.some(processes(container).map(|found| found.count))),
    ),
    gauge(
        "container_file_descriptors",
        "Descriptors that are open",
        Containers(|container, put| {
            put.some(processes(container).and_then(|found| found.descriptors).map(|found| found.open));
        }),
    ),
    gauge(
        "container_sockets",
        "Sockets that are open",
        Containers(|container, put| {
            put.some(processes(container).and_then(|found| found.descriptors?.sockets));
        }),
    ),
    gauge(
        "container_threads_max",
        "Threads that there may be; 0 for no limit",
        Both(|stats, put| put.some(stats.tasks.map(|tasks| tasks.limit.unwrap_or(0)))),
    ),
    gauge(
        "container_threads",
        "Threads",
        Both(|stats, put| put.some(stats.tasks.map(|tasks| tasks.current))),
    ),
    gauge(
        "container_ulimits_soft",
        "Soft limits of the first process",
        Containers(|container, put| {
            if let Some(limit) = processes(container).and_then(|found| found.open_files_limit) {
                put.labelled(&["max_open_files"], limit);
            }
        }),
    )
    .by(&["ulimit"]),
];

fn processes(container: &Container<'_>) -> Option<ProcessUsage> {
    container.used.processes
}
