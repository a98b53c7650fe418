//! Series about memory.

use sandbox::stats::MemoryStats;

use super::{Both, Put, Series, counter, gauge};

pub(super) static SERIES: &[Series] = &[
    gauge(
        "container_memory_cache",
        "Page cache, in bytes",
        Both(|s, put| put.some(s.memory.map(|m| m.cache))),
    ),
    gauge(
        "container_memory_rss",
        "Anonymous memory, in bytes",
        Both(|s, put| put.some(s.memory.map(|m| m.rss))),
    ),
    gauge(
        "container_memory_kernel_usage",
        "The kernel's memory on its behalf, in bytes",
        Both(|s, put| put.some(s.memory.and_then(|m| m.kernel).or(s.memory_detail.kernel))),
    ),
    gauge(
        "container_memory_mapped_file",
        "Files that are mapped, in bytes",
        Both(|s, put| put.some(s.memory.map(|m| m.mapped_file))),
    ),
    gauge("container_memory_swap", "Swap, in bytes", Both(|s, put| put.some(s.swap.map(|swap| swap.usage)))),
    counter(
        "container_memory_failcnt",
        "How often the limit of memory was hit",
        Both(|s, put| put.some(s.memory_detail.limit_hits)),
    ),
    gauge(
        "container_memory_usage_bytes",
        "All memory, page cache included, in bytes",
        Both(|s, put| put.some(s.memory.map(|m| m.usage))),
    ),
    gauge(
        "container_memory_max_usage_bytes",
        "The most that was used at a time, in bytes",
        Both(|s, put| put.some(s.memory_detail.peak)),
    ),
    gauge(
        "container_memory_working_set_bytes",
        "Memory that can't be reclaimed easily, in bytes",
        Both(|s, put| put.some(s.memory.map(|m| m.working_set))),
    ),
    gauge(
        "container_memory_total_active_file_bytes",
        "Page cache that was used again, in bytes",
        Both(|s, put| put.some(s.memory.map(|m| m.active_file))),
    ),
    gauge(
        "container_memory_total_inactive_file_bytes",
        "Page cache that would be dropped first, in bytes",
        Both(|s, put| put.some(s.memory.map(|m| m.inactive_file))),
    ),
    counter("container_memory_failures_total", "Page faults", Both(|s, put| faults(s.memory, put)))
        .by(&["failure_type", "scope"]),
    counter(
        "container_memory_events_high_total",
        "How often usage was above memory.high",
        Both(|s, put| put.some(s.memory_detail.high_events)),
    )
    .where_counted(|accounts| accounts.reclaim),
    counter(
        "container_memory_events_max_total",
        "How often usage was at memory.max",
        Both(|s, put| put.some(s.memory_detail.limit_hits)),
    ),
    gauge(
        "container_memory_file_dirty_bytes",
        "Page cache that waits to be written, in bytes",
        Both(|s, put| put.some(s.memory.and_then(|m| m.dirty))),
    ),
    gauge(
        "container_memory_file_writeback_bytes",
        "Page cache that is being written, in bytes",
        Both(|s, put| put.some(s.memory.and_then(|m| m.writeback))),
    ),
    counter(
        "container_memory_pgscan_total",
        "Pages that reclaim has looked at",
        Both(|s, put| put.some(s.memory.and_then(|m| m.pages_scanned))),
    )
    .where_counted(|accounts| accounts.reclaim),
    counter(
        "container_memory_pgsteal_total",
        "Pages that reclaim has taken",
        Both(|s, put| put.some(s.memory.and_then(|m| m.pages_stolen))),
    )
    .where_counted(|accounts| accounts.reclaim),
    counter(
        "container_memory_workingset_refault_file_total",
        "File pages that were needed again after that",
        Both(|s, put| put.some(s.memory.and_then(|m| m.refaults_file))),
    ),
    counter(
        "container_memory_workingset_refault_anon_total",
        "Anonymous pages that were needed again after that",
        Both(|s, put| put.some(s.memory.and_then(|m| m.refaults_anonymous))),
    ),
];

/// Where the kernel doesn't tell the cgroup itself from those below it, both have the same, as with cAdvisor.
fn faults(memory: Option<MemoryStats>, put: &mut Put<'_>) {
    let Some(memory) = memory else { return };
    let all = (memory.page_faults, memory.major_page_faults);
    let own = memory.own_page_faults.unwrap_or(all);
    put.labelled(&["pgfault", "container"], own.0);
    put.labelled(&["pgmajfault", "container"], own.1);
    put.labelled(&["pgfault", "hierarchy"], all.0);
    put.labelled(&["pgmajfault", "hierarchy"], all.1);
}

pub(super) static OOM: &[Series] = &[counter(
    "container_oom_events_total",
    "Processes that were killed for want of memory",
    Both(|s, put| put.some(s.memory_detail.oom_kills)),
)];

pub(super) static HUGE_PAGES: &[Series] = &[
    counter(
        "container_hugetlb_failcnt",
        "How often the limit of huge pages was hit",
        Both(|s, put| {
            for pages in &s.huge_pages {
                if let Some(hits) = pages.limit_hits {
                    put.labelled(&[&pages.size], hits);
                }
            }
        }),
    )
    .by(&["pagesize"])
    .where_counted(|accounts| accounts.huge_page_hits),
    gauge(
        "container_hugetlb_usage_bytes",
        "Huge pages in use, in bytes",
        Both(|s, put| s.huge_pages.iter().for_each(|pages| put.labelled(&[&pages.size], pages.usage))),
    )
    .by(&["pagesize"]),
    gauge(
        "container_hugetlb_max_usage_bytes",
        "The most huge pages that were in use at a time, in bytes",
        Both(|s, put| {
            for pages in &s.huge_pages {
                if let Some(peak) = pages.peak {
                    put.labelled(&[&pages.size], peak);
                }
            }
        }),
    )
    .by(&["pagesize"]),
];
