//! What a cgroup uses, in units that do not depend on the version.
//!
//! A reading is asked for by parts, and each part costs the files that it stands in (docs/stats.md has them all). Every file is
//! opened, read once and closed; what is told by one file is never read from another.
//!
//! | part | version 1 | version 2 |
//! |---|---|---|
//! | cpu | `cpuacct.usage` | `cpu.stat` |
//! | cpu detail | `cpuacct.stat`, `cpu.stat` | the same file |
//! | memory | `memory.{usage_in_bytes,stat,limit_in_bytes,memsw.limit_in_bytes}` | `memory.{current,stat,max,swap.current,swap.max}` |
//! | memory detail | `memory.{max_usage_in_bytes,failcnt,memsw.failcnt,kmem.usage_in_bytes,oom_control}` | `memory.{peak,events}` |
//! | pressure | as in version 2, where its tree stands beside | `{cpu,memory,io}.pressure` |
//! | tasks | `pids.{current,max}` | the same |
//! | io | `blkio.throttle.{io_service_bytes,io_serviced}_recursive` | `io.stat` |
//! | huge pages | `hugetlb.<size>.{usage_in_bytes,max_usage_in_bytes,failcnt}` | `hugetlb.<size>.{current,events}` |
//!
//! Processes one by one are in `processes`. Not here: rates over time, which are the callers'.

mod io;
mod legacy;
mod processes;
mod reader;
#[cfg(test)]
mod tests;
mod text;
mod unified;

use super::{Cgroup, Error, files};

pub use io::{DeviceIo, Io, IoCost, device_name};
pub use processes::{Descriptors, States};
pub use reader::Reader;

/// A part of what there is to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Processor time.
    Cpu,
    /// In which mode it was spent, and what the quota held back.
    CpuDetail,
    /// Memory and swap.
    Memory,
    /// The most that was used, limits that were hit.
    MemoryDetail,
    /// Time lost by waiting.
    Pressure,
    /// Tasks: processes and their threads.
    Tasks,
    /// Bytes and operations by block device.
    Io,
    /// Huge pages by size.
    HugePages,
}

/// What a cgroup uses. None, or empty, for what was not asked for and for what the host does not account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Processor time.
    pub cpu: Option<CpuStats>,
    /// Where it went.
    pub cpu_detail: CpuDetail,
    /// Memory.
    pub memory: Option<MemoryStats>,
    /// Limits that were hit.
    pub memory_detail: MemoryDetail,
    /// Swap.
    pub swap: Option<SwapStats>,
    /// Time lost by waiting.
    pub pressure: Pressures,
    /// Processes and threads.
    pub tasks: Option<TaskStats>,
    /// Input and output by device; none that was never used.
    pub io: Vec<DeviceIo>,
    /// Huge pages by size.
    pub huge_pages: Vec<HugePages>,
}

/// Processor time since the cgroup was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// Nanoseconds, over all processors.
    pub usage_ns: u64,
}

/// Where processor time went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuDetail {
    /// Time in user mode and in the kernel, in nanoseconds.
    pub modes: Option<CpuModes>,
    /// The work of the quota.
    pub throttling: Option<Throttling>,
}

/// Processor time by mode.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuModes {
    /// Nanoseconds in user mode.
    pub user_ns: u64,
    /// Nanoseconds in the kernel.
    pub system_ns: u64,
}

/// What a quota of processor time did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Periods that have passed.
    pub periods: u64,
    /// Those in which the quota was used up.
    pub throttled_periods: u64,
    /// Nanoseconds held back, over all processors.
    pub throttled_ns: u64,
    /// Periods in which what had been saved was used.
    pub burst_periods: u64,
    /// Nanoseconds of that.
    pub burst_ns: u64,
}

/// How much processor time a cgroup may have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    /// Microseconds in each period, where there is a limit.
    pub runtime_us: Option<u64>,
    /// The period in microseconds.
    pub period_us: u64,
}

/// Memory in bytes. What is optional is counted by one version alone, or by newer kernels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// All that is charged, page cache included.
    pub usage: u64,
    /// Usage without the file pages that the kernel would drop first: what kubelet compares with limits.
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// Page cache.
    pub cache: u64,
    /// Files that are mapped.
    pub mapped_file: u64,
    /// Page cache that was used again.
    pub active_file: u64,
    /// Page cache that the kernel would drop first.
    pub inactive_file: u64,
    /// The kernel's own memory on the cgroup's behalf, where the same file tells it.
    pub kernel: Option<u64>,
    /// Page cache that waits to be written.
    pub dirty: Option<u64>,
    /// Page cache that is being written.
    pub writeback: Option<u64>,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that had to read from a disk.
    pub major_page_faults: u64,
    /// The same two of the processes in this cgroup itself, where those below it are told apart.
    pub own_page_faults: Option<(u64, u64)>,
    /// Pages that reclaim has looked at.
    pub pages_scanned: Option<u64>,
    /// Pages that reclaim has taken.
    pub pages_stolen: Option<u64>,
    /// File pages that were needed again after that.
    pub refaults_file: Option<u64>,
    /// Anonymous pages that were needed again after that.
    pub refaults_anonymous: Option<u64>,
    /// The limit of this cgroup itself, when it has one.
    pub limit: Option<u64>,
}

/// What happened at memory's limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryDetail {
    /// The most that was used at a time, in bytes.
    pub peak: Option<u64>,
    /// The kernel's own memory on the cgroup's behalf in bytes, where it is a file of its own.
    pub kernel: Option<u64>,
    /// How often the limit was hit.
    pub limit_hits: Option<u64>,
    /// How often usage was above `memory.high`.
    pub high_events: Option<u64>,
    /// Processes that the kernel killed for want of memory.
    pub oom_kills: Option<u64>,
}

/// Swap in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SwapStats {
    /// In use.
    pub usage: u64,
    /// The limit of swap alone, when this cgroup has one.
    pub limit: Option<u64>,
    /// The limit of memory and swap together, which is what version 1 has.
    pub limit_with_memory: Option<u64>,
}

/// Time lost by waiting (Documentation/accounting/psi.rst), by what was waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressures {
    /// For a processor.
    pub cpu: Option<Pressure>,
    /// For memory.
    pub memory: Option<Pressure>,
    /// For input or output.
    pub io: Option<Pressure>,
}

/// Pressure of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Time in which some task waited.
    pub some: Stall,
    /// Time in which all that weren't idle waited; older kernels don't count it for processors.
    pub full: Option<Stall>,
}

/// A line of a pressure file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stall {
    /// Microseconds since the cgroup was made.
    pub total_us: u64,
    /// Share of the last 10, 60 and 300 seconds, in hundredths of a percent, which is what the kernel tells.
    pub averages: [u32; 3],
}

/// Tasks: processes and their threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TaskStats {
    /// How many there are.
    pub current: u64,
    /// How many there may be.
    pub limit: Option<u64>,
}

/// Huge pages of one size.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HugePages {
    /// The size, such as `2MB`.
    pub size: String,
    /// Bytes in use.
    pub usage: u64,
    /// The most that was in use, in bytes; version 2 doesn't keep it.
    pub peak: Option<u64>,
    /// How often the limit was hit.
    pub limit_hits: Option<u64>,
}

/// What a list of usage is made of.
const USUAL: &[Part] = &[Part::Cpu, Part::Memory, Part::Pressure, Part::Tasks];

pub(super) fn usual(cgroup: &Cgroup) -> Result<Stats, Error> {
    Reader::new().stats(cgroup, USUAL)
}

impl Reader {
    /// What a cgroup uses now, of these parts. One that is gone uses nothing.
    ///
    /// # Errors
    /// [`Error::Cgroup`] when a counter that exists cannot be read. One that does not exist is none.
    pub fn stats(&mut self, cgroup: &Cgroup, parts: &[Part]) -> Result<Stats, Error> {
        let mut stats = Stats::default();
        for part in parts {
            self.part(cgroup, *part, &mut stats)?;
        }
        Ok(stats)
    }

    /// Each controller is where it is: on hybrid hosts some may be in the version 2 tree.
    fn part(&mut self, cgroup: &Cgroup, part: Part, stats: &mut Stats) -> Result<(), Error> {
        let beside = cgroup.unified.as_deref();
        match part {
            Part::Cpu | Part::CpuDetail => match (cgroup.controller("cpuacct"), beside) {
                (Some(accounts), _) if part == Part::Cpu => legacy::cpu(self, accounts, stats),
                (Some(accounts), _) => legacy::cpu_detail(self, (accounts, cgroup.controller("cpu")), stats),
                (None, Some(directory)) if stats.cpu.is_none() => unified::cpu(self, directory, stats),
                (None, _) => Ok(()),
            },
            Part::Memory => match (cgroup.controller("memory"), beside) {
                (Some(directory), _) => legacy::memory(self, directory, stats),
                (None, Some(directory)) => unified::memory(self, directory, stats),
                (None, None) => Ok(()),
            },
            Part::MemoryDetail => match (cgroup.controller("memory"), beside) {
                (Some(directory), _) => legacy::memory_detail(self, directory, stats),
                (None, Some(directory)) => unified::memory_detail(self, directory, stats),
                (None, None) => Ok(()),
            },
            // Kept by the version 2 tree whatever controllers it has.
            Part::Pressure => beside.map_or(Ok(()), |directory| unified::pressure(self, directory, stats)),
            Part::Tasks => match cgroup.controller("pids").or(beside) {
                Some(directory) => unified::tasks(self, directory, stats),
                None => Ok(()),
            },
            Part::Io => match (cgroup.controller("blkio"), beside) {
                (Some(directory), _) => legacy::io(self, directory, stats),
                (None, Some(directory)) => unified::io(self, directory, stats),
                (None, None) => Ok(()),
            },
            Part::HugePages => match (cgroup.controller("hugetlb"), beside) {
                (Some(directory), _) => legacy::huge_pages(self, directory, stats),
                (None, Some(directory)) => unified::huge_pages(self, directory, stats),
                (None, None) => Ok(()),
            },
        }
    }

    /// The limit of memory that a cgroup has itself.
    ///
    /// # Errors
    /// [`Error::Cgroup`] when it is there and can't be read.
    pub fn memory_limit(&mut self, cgroup: &Cgroup) -> Result<Option<u64>, Error> {
        match (cgroup.controller("memory"), cgroup.unified.as_deref()) {
            (Some(directory), _) => legacy::memory_limit(self, directory),
            (None, Some(directory)) => self.number(directory, "memory.max"),
            (None, None) => Ok(None),
        }
    }

    /// The quota of processor time that a cgroup has itself; none where it isn't limited by this controller at all.
    ///
    /// # Errors
    /// [`Error::Cgroup`] when it is there and can't be read.
    pub fn quota(&mut self, cgroup: &Cgroup) -> Result<Option<Quota>, Error> {
        match (cgroup.controller("cpu"), cgroup.unified.as_deref()) {
            (Some(directory), _) => legacy::quota(self, directory),
            (None, Some(directory)) => unified::quota(self, directory),
            (None, None) => Ok(None),
        }
    }
}

pub(super) fn oom_kills(cgroup: &Cgroup) -> Result<u64, Error> {
    let file = match (cgroup.controller("memory"), &cgroup.unified) {
        (Some(directory), _) => directory.join("memory.oom_control"),
        (None, Some(directory)) => directory.join("memory.events"),
        (None, None) => return Ok(0),
    };
    Ok(files::read_if_there(&file)?.and_then(|text| files::keyed(&text, "oom_kill")).unwrap_or(0))
}
