//! Statistics of version 1 (Documentation/admin-guide/cgroup-v1): a directory for each controller.

use std::path::Path;

use super::text::flat_keyed;
use super::{
    CpuModes, CpuStats, Error, HugePages, MemoryStats, Quota, Reader, Stats, SwapStats, Throttling,
    io as devices,
};

/// "No limit" is the largest number of pages that fits (PAGE_COUNTER_MAX), which depends on their size: all from here on is none.
const NO_LIMIT: u64 = 1 << 62;

/// Nanoseconds of a tick of `cpuacct.stat`: USER_HZ is 100 on every architecture that this runs on (include/asm-generic/param.h).
const TICK_NS: u64 = 10_000_000;

pub(super) fn cpu(reader: &mut Reader, accounts: &Path, stats: &mut Stats) -> Result<(), Error> {
    stats.cpu = reader.number(accounts, "cpuacct.usage")?.map(|usage_ns| CpuStats { usage_ns });
    Ok(())
}

pub(super) fn cpu_detail(
    reader: &mut Reader,
    (accounts, bandwidth): (&Path, Option<&Path>),
    stats: &mut Stats,
) -> Result<(), Error> {
    stats.cpu_detail.modes = reader.text(accounts, "cpuacct.stat")?.map(modes);
    if let Some(directory) = bandwidth {
        stats.cpu_detail.throttling = reader.text(directory, "cpu.stat")?.map(throttling);
    }
    Ok(())
}

/// A quota of -1, which is no number of ours, is none.
pub(super) fn quota(reader: &mut Reader, directory: &Path) -> Result<Option<Quota>, Error> {
    let Some(period_us) = reader.number(directory, "cpu.cfs_period_us")? else { return Ok(None) };
    let runtime_us = reader.number(directory, "cpu.cfs_quota_us")?;
    Ok(Some(Quota { runtime_us, period_us }))
}

fn modes(text: &str) -> CpuModes {
    let mut modes = CpuModes::default();
    flat_keyed(text, |key, ticks| match key {
        "user" => modes.user_ns = ticks.saturating_mul(TICK_NS),
        "system" => modes.system_ns = ticks.saturating_mul(TICK_NS),
        _ => {}
    });
    modes
}

fn throttling(text: &str) -> Throttling {
    let mut found = Throttling::default();
    flat_keyed(text, |key, value| match key {
        "nr_periods" => found.periods = value,
        "nr_throttled" => found.throttled_periods = value,
        "throttled_time" => found.throttled_ns = value,
        "nr_bursts" => found.burst_periods = value,
        "burst_time" => found.burst_ns = value,
        _ => {}
    });
    found
}

pub(super) fn memory(reader: &mut Reader, directory: &Path, stats: &mut Stats) -> Result<(), Error> {
    let Some(usage) = reader.number(directory, "memory.usage_in_bytes")? else { return Ok(()) };
    // Without it the cgroup has just gone: zeros would be counters that go backwards.
    let Some((mut memory, swap)) = reader.text(directory, "memory.stat")?.map(parts) else { return Ok(()) };
    memory.usage = usage;
    memory.working_set = usage.saturating_sub(memory.inactive_file);
    memory.limit = memory_limit(reader, directory)?;
    if let Some(usage) = swap {
        let both = reader.number(directory, "memory.memsw.limit_in_bytes")?.filter(is_limit);
        let limit = both.map(|both| both.saturating_sub(memory.limit.unwrap_or(both)));
        stats.swap = Some(SwapStats { usage, limit, limit_with_memory: both });
    }
    stats.memory = Some(memory);
    Ok(())
}

pub(super) fn memory_limit(reader: &mut Reader, directory: &Path) -> Result<Option<u64>, Error> {
    Ok(reader.number(directory, "memory.limit_in_bytes")?.filter(is_limit))
}

fn is_limit(bytes: &u64) -> bool {
    *bytes < NO_LIMIT
}

/// `memory.stat`: the lines that begin with `total_` are of the cgroup with all below it. The bytes of swap beside, where that is accounted.
fn parts(text: &str) -> (MemoryStats, Option<u64>) {
    let mut memory = MemoryStats::default();
    let (mut swap, mut own_faults, mut own_major_faults) = (None, None, None);
    flat_keyed(text, |key, value| match key {
        "pgfault" => own_faults = Some(value),
        "pgmajfault" => own_major_faults = Some(value),
        "total_cache" => memory.cache = value,
        "total_rss" => memory.rss = value,
        "total_mapped_file" => memory.mapped_file = value,
        "total_dirty" => memory.dirty = Some(value),
        "total_writeback" => memory.writeback = Some(value),
        "total_workingset_refault_file" => memory.refaults_file = Some(value),
        "total_workingset_refault_anon" => memory.refaults_anonymous = Some(value),
        "total_swap" => swap = Some(value),
        "total_pgfault" => memory.page_faults = value,
        "total_pgmajfault" => memory.major_page_faults = value,
        "total_inactive_file" => memory.inactive_file = value,
        "total_active_file" => memory.active_file = value,
        _ => {}
    });
    memory.own_page_faults = own_faults.zip(own_major_faults);
    (memory, swap)
}

pub(super) fn memory_detail(reader: &mut Reader, directory: &Path, stats: &mut Stats) -> Result<(), Error> {
    let detail = &mut stats.memory_detail;
    detail.peak = reader.number(directory, "memory.max_usage_in_bytes")?;
    // Where no swap may be used both limits are one, and it is the other one that is hit.
    let of_both = reader.number(directory, "memory.memsw.failcnt")?.unwrap_or(0);
    detail.limit_hits = reader.number(directory, "memory.failcnt")?.map(|hits| hits.saturating_add(of_both));
    if let Some(text) = reader.text(directory, "memory.oom_control")? {
        flat_keyed(text, |key, value| {
            if key == "oom_kill" {
                detail.oom_kills = Some(value);
            }
        });
    }
    detail.kernel = reader.number(directory, "memory.kmem.usage_in_bytes")?;
    Ok(())
}

/// Who counts input and output of a device: the throttle when it has limits (always, before Linux 6.10), else the BFQ scheduler, if that is
/// what the device has, else nobody.
const COUNTERS: [&str; 2] = ["blkio.throttle", "blkio.bfq"];

pub(super) fn io(reader: &mut Reader, directory: &Path, stats: &mut Stats) -> Result<(), Error> {
    for counter in COUNTERS {
        let bytes = reader.text(directory, &format!("{counter}.io_service_bytes_recursive"))?;
        // A line of a device, and not of the sum alone.
        let Some(bytes) = bytes.filter(|text| text.contains(':')).map(str::to_owned) else { continue };
        let operations = reader.text(directory, &format!("{counter}.io_serviced_recursive"))?;
        stats.io = devices::legacy(&bytes, operations.unwrap_or_default());
        break;
    }
    Ok(())
}

pub(super) fn huge_pages(reader: &mut Reader, directory: &Path, stats: &mut Stats) -> Result<(), Error> {
    for size in reader.page_sizes() {
        let file = |name: &str| format!("hugetlb.{size}.{name}");
        let Some(usage) = reader.number(directory, &file("usage_in_bytes"))? else { continue };
        let peak = reader.number(directory, &file("max_usage_in_bytes"))?;
        let limit_hits = reader.number(directory, &file("failcnt"))?;
        stats.huge_pages.push(HugePages { size, usage, peak, limit_hits });
    }
    Ok(())
}
