//! What a cgroup uses, in units that do not depend on the version.

use std::path::Path;

use super::files::{keyed, number_if_there, read_if_there};
use super::{Cgroup, Error};

/// What a cgroup uses. None for what the host does not account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Processor time.
    pub cpu: Option<CpuStats>,
    /// Memory.
    pub memory: Option<MemoryStats>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// Processor time since the cgroup was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// Nanoseconds, over all processors.
    pub usage_ns: u64,
}

/// Memory in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// All that is charged, page cache included.
    pub usage: u64,
    /// Usage without the file pages that the kernel would drop first: what kubelet compares with limits.
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that had to read from a disk.
    pub major_page_faults: u64,
    /// The limit, when there is one.
    pub limit: Option<u64>,
    /// Swap in use, where it is accounted.
    pub swap: Option<u64>,
}

/// Version 1 says "no limit" by the largest number of pages that fits (PAGE_COUNTER_MAX pages of 4 KiB).
const NO_LIMIT: u64 = 0x7fff_ffff_ffff_f000;

pub(super) fn read(cgroup: &Cgroup) -> Result<Stats, Error> {
    if cgroup.legacy.is_empty() {
        return match &cgroup.unified {
            Some(directory) => unified(directory),
            None => Ok(Stats::default()),
        };
    }
    Ok(Stats {
        cpu: match cgroup.controller("cpuacct") {
            Some(directory) => {
                number_if_there(&directory.join("cpuacct.usage"))?.map(|usage_ns| CpuStats { usage_ns })
            }
            None => None,
        },
        memory: match cgroup.controller("memory") {
            Some(directory) => legacy_memory(directory)?,
            None => None,
        },
        pids: match cgroup.controller("pids") {
            Some(directory) => number_if_there(&directory.join("pids.current"))?,
            None => None,
        },
    })
}

fn legacy_memory(directory: &Path) -> Result<Option<MemoryStats>, Error> {
    let Some(usage) = number_if_there(&directory.join("memory.usage_in_bytes"))? else { return Ok(None) };
    let stat = read_if_there(&directory.join("memory.stat"))?.unwrap_or_default();
    let count = |key| keyed(&stat, key).unwrap_or(0);
    let with_swap = number_if_there(&directory.join("memory.memsw.usage_in_bytes"))?;
    Ok(Some(MemoryStats {
        usage,
        working_set: usage.saturating_sub(count("total_inactive_file")),
        rss: count("total_rss"),
        page_faults: count("total_pgfault"),
        major_page_faults: count("total_pgmajfault"),
        limit: number_if_there(&directory.join("memory.limit_in_bytes"))?.filter(|limit| *limit < NO_LIMIT),
        swap: with_swap.map(|both| both.saturating_sub(usage)),
    }))
}

fn unified(directory: &Path) -> Result<Stats, Error> {
    let cpu = read_if_there(&directory.join("cpu.stat"))?;
    let usage = number_if_there(&directory.join("memory.current"))?;
    let stat = read_if_there(&directory.join("memory.stat"))?.unwrap_or_default();
    let count = |key| keyed(&stat, key).unwrap_or(0);
    let memory = match usage {
        None => None,
        Some(usage) => Some(MemoryStats {
            usage,
            working_set: usage.saturating_sub(count("inactive_file")),
            rss: count("anon"),
            page_faults: count("pgfault"),
            major_page_faults: count("pgmajfault"),
            limit: number_if_there(&directory.join("memory.max"))?,
            swap: number_if_there(&directory.join("memory.swap.current"))?,
        }),
    };
    Ok(Stats {
        cpu: cpu
            .and_then(|text| keyed(&text, "usage_usec"))
            .map(|microseconds| CpuStats { usage_ns: microseconds.saturating_mul(1000) }),
        memory,
        pids: number_if_there(&directory.join("pids.current"))?,
    })
}

pub(super) fn oom_kills(cgroup: &Cgroup) -> Result<u64, Error> {
    let file = match (cgroup.controller("memory"), &cgroup.unified) {
        (Some(directory), _) => directory.join("memory.oom_control"),
        (None, Some(directory)) => directory.join("memory.events"),
        (None, None) => return Ok(0),
    };
    Ok(read_if_there(&file)?.and_then(|text| keyed(&text, "oom_kill")).unwrap_or(0))
}
