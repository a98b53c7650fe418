//! Statistics of version 2 (Documentation/admin-guide/cgroup-v2.rst): one directory.

use std::path::Path;

use super::text::{self, flat_keyed};
use super::{
    CpuDetail, CpuModes, CpuStats, Error, HugePages, MemoryStats, Quota, Reader, Stats, SwapStats, TaskStats,
    Throttling, io as devices,
};

pub(super) fn cpu(reader: &mut Reader, directory: &Path, stats: &mut Stats) -> Result<(), Error> {
    if let Some(text) = reader.text(directory, "cpu.stat")? {
        (stats.cpu, stats.cpu_detail) = times(text);
    }
    Ok(())
}

/// `max 100000`, or a number for `max`.
pub(super) fn quota(reader: &mut Reader, directory: &Path) -> Result<Option<Quota>, Error> {
    let told = reader.text(directory, "cpu.max")?.and_then(|text| text.trim_end().split_once(' '));
    let quota = |(runtime, period): (&str, &str)| {
        Some(Quota { runtime_us: runtime.parse().ok(), period_us: period.parse().ok()? })
    };
    Ok(told.and_then(quota))
}

fn times(text: &str) -> (Option<CpuStats>, CpuDetail) {
    let (mut cpu, mut detail) = (None, CpuDetail::default());
    flat_keyed(text, |key, value| {
        let ns = value.saturating_mul(1000);
        let (modes, throttling) = (&mut detail.modes, &mut detail.throttling);
        match key {
            "usage_usec" => cpu = Some(CpuStats { usage_ns: ns }),
            "user_usec" => modes.get_or_insert_with(CpuModes::default).user_ns = ns,
            "system_usec" => modes.get_or_insert_with(CpuModes::default).system_ns = ns,
            // These are there where the cpu controller is.
            "nr_periods" => throttling.get_or_insert_with(Throttling::default).periods = value,
            "nr_throttled" => throttling.get_or_insert_with(Throttling::default).throttled_periods = value,
            "throttled_usec" => throttling.get_or_insert_with(Throttling::default).throttled_ns = ns,
            "nr_bursts" => throttling.get_or_insert_with(Throttling::default).burst_periods = value,
            "burst_usec" => throttling.get_or_insert_with(Throttling::default).burst_ns = ns,
            _ => {}
        }
    });
    (cpu, detail)
}

pub(super) fn memory(reader: &mut Reader, directory: &Path, stats: &mut Stats) -> Result<(), Error> {
    let Some(usage) = reader.number(directory, "memory.current")? else { return Ok(()) };
    // Without it the cgroup has just gone: zeros would be counters that go backwards.
    let Some(mut memory) = reader.text(directory, "memory.stat")?.map(parts) else { return Ok(()) };
    memory.usage = usage;
    memory.working_set = usage.saturating_sub(memory.inactive_file);
    memory.limit = reader.number(directory, "memory.max")?;
    stats.memory = Some(memory);
    if let Some(usage) = reader.number(directory, "memory.swap.current")? {
        let limit = reader.number(directory, "memory.swap.max")?;
        stats.swap = Some(SwapStats { usage, limit, limit_with_memory: None });
    }
    Ok(())
}

/// `memory.stat`: everything is of the cgroup with all below it.
fn parts(text: &str) -> MemoryStats {
    let mut memory = MemoryStats::default();
    flat_keyed(text, |key, value| match key {
        "anon" => memory.rss = value,
        "file" => memory.cache = value,
        "file_mapped" => memory.mapped_file = value,
        "file_dirty" => memory.dirty = Some(value),
        "file_writeback" => memory.writeback = Some(value),
        // Since Linux 5.18.
        "kernel" => memory.kernel = Some(value),
        "inactive_file" => memory.inactive_file = value,
        "active_file" => memory.active_file = value,
        "pgfault" => memory.page_faults = value,
        "pgmajfault" => memory.major_page_faults = value,
        "pgscan" => memory.pages_scanned = Some(value),
        "pgsteal" => memory.pages_stolen = Some(value),
        "workingset_refault_file" => memory.refaults_file = Some(value),
        "workingset_refault_anon" => memory.refaults_anonymous = Some(value),
        _ => {}
    });
    memory
}

pub(super) fn memory_detail(reader: &mut Reader, directory: &Path, stats: &mut Stats) -> Result<(), Error> {
    let detail = &mut stats.memory_detail;
    // Since Linux 5.19.
    detail.peak = reader.number(directory, "memory.peak")?;
    if let Some(text) = reader.text(directory, "memory.events")? {
        flat_keyed(text, |key, value| match key {
            "high" => detail.high_events = Some(value),
            "max" => detail.limit_hits = Some(value),
            "oom_kill" => detail.oom_kills = Some(value),
            _ => {}
        });
    }
    Ok(())
}

pub(super) fn pressure(reader: &mut Reader, directory: &Path, stats: &mut Stats) -> Result<(), Error> {
    let mut of = |name| Ok::<_, Error>(reader.text(directory, name)?.and_then(text::pressure));
    stats.pressure.cpu = of("cpu.pressure")?;
    stats.pressure.memory = of("memory.pressure")?;
    stats.pressure.io = of("io.pressure")?;
    Ok(())
}

/// The same files in both versions.
pub(super) fn tasks(reader: &mut Reader, directory: &Path, stats: &mut Stats) -> Result<(), Error> {
    if let Some(current) = reader.number(directory, "pids.current")? {
        stats.tasks = Some(TaskStats { current, limit: reader.number(directory, "pids.max")? });
    }
    Ok(())
}

pub(super) fn io(reader: &mut Reader, directory: &Path, stats: &mut Stats) -> Result<(), Error> {
    stats.io = reader.text(directory, "io.stat")?.map(devices::unified).unwrap_or_default();
    Ok(())
}

pub(super) fn huge_pages(reader: &mut Reader, directory: &Path, stats: &mut Stats) -> Result<(), Error> {
    for size in reader.page_sizes() {
        let file = |name: &str| format!("hugetlb.{size}.{name}");
        let Some(usage) = reader.number(directory, &file("current"))? else { continue };
        let mut limit_hits = None;
        if let Some(text) = reader.text(directory, &file("events"))? {
            flat_keyed(text, |key, value| {
                if key == "max" {
                    limit_hits = Some(value);
                }
            });
        }
        stats.huge_pages.push(HugePages { size, usage, peak: None, limit_hits });
    }
    Ok(())
}
