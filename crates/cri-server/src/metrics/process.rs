//! The figures of the daemon's own process, under the names that Prometheus' libraries have for every program's.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::unistd::{SysconfVar, sysconf};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;

use super::table::{self, Described};

/// Reads procfs when it is asked.
#[derive(Debug)]
pub(super) struct ProcessFigures;

/// What procfs says; nothing where that can't be read.
#[derive(Debug, Default, PartialEq)]
struct Own {
    cpu_seconds: f64,
    started: f64,
    threads: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
}

impl Collector for ProcessFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let own = std::fs::read_to_string("/proc/self/stat").ok().and_then(|stat| own(&stat));
        let own = own.unwrap_or_default();
        let cpu = ("process_cpu", "Time of processors that the daemon has used", Some(Unit::Seconds));
        table::counter(&mut encoder, cpu, own.cpu_seconds)?;
        let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
        let gauges: [(Described, f64); 7] = [
            (
                ("process_start_time", "When the daemon began, since the epoch", Some(Unit::Seconds)),
                own.started,
            ),
            (("process_threads", "Threads of the daemon", None), own.threads),
            (("process_virtual_memory", "Address space of the daemon", Some(Unit::Bytes)), own.virtual_bytes),
            (
                (
                    "process_resident_memory",
                    "Memory of the daemon, shared pages whole (RSS)",
                    Some(Unit::Bytes),
                ),
                own.resident_bytes,
            ),
            // The descriptor of the directory that is being read is one of them.
            (
                ("process_open_fds", "Files that the daemon has open", None),
                descriptors.saturating_sub(1) as f64,
            ),
            (
                ("process_max_fds", "Files that the daemon may have open", None),
                limit.map_or(0, |(soft, _)| soft) as f64,
            ),
            (
                ("process_tasks", "Tasks of the daemon's executor", None),
                tokio::runtime::Handle::try_current().map_or(0, |runtime| runtime.metrics().num_alive_tasks())
                    as f64,
            ),
        ];
        table::gauges(&mut encoder, gauges)
    }
}

/// Reads a line of `/proc/<pid>/stat` (proc(5)).
fn own(stat: &str) -> Option<Own> {
    // The second field is the name in parentheses, which may have blanks and parentheses in it; then fields from the third on.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<f64> = rest.split_whitespace().skip(1).map_while(|field| field.parse().ok()).collect();
    let field = |number: usize| fields.get(number - 4).copied();
    let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().filter(|ticks| *ticks > 0)? as f64;
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten()? as f64;
    Some(Own {
        cpu_seconds: (field(14)? + field(15)?) / ticks,
        started: booted() + field(22)? / ticks,
        threads: field(20)?,
        virtual_bytes: field(23)?,
        resident_bytes: field(24)? * page,
    })
}

/// When the machine was started, in seconds since the epoch.
fn booted() -> f64 {
    let uptime = std::fs::read_to_string("/proc/uptime").ok();
    let uptime = uptime.and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    (now - uptime.unwrap_or_default()).floor()
}

/// A process' memory with pages in proportion to those that share them, in bytes.
pub(super) fn proportional(pid: u32) -> Option<u64> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        let line = format!(
            "7 (a b) c) S 1 2 3 4 5 6 7 8 9 10 300 200 13 14 15 16 5 18 1000 4096 3 {}",
            "0 ".repeat(20)
        );
        let own = own(&line).unwrap();
        let ticks = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap() as f64;
        assert_eq!((own.cpu_seconds, own.threads), (500.0 / ticks, 5.0));
        assert_eq!((own.virtual_bytes, own.resident_bytes > 4096.0), (4096.0, true));
        assert_eq!(super::own("7 (short) S 1"), None);
    }

    #[test]
    fn ones_own_memory_is_some() {
        assert!(proportional(std::process::id()).unwrap() > 4096);
        assert_eq!(proportional(u32::MAX), None);
    }
}
