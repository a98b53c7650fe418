//! Version 1: one directory for each hierarchy, limits in the controllers' own files
//! (Documentation/admin-guide/cgroup-v1).

use std::path::Path;

use rustix::io::Errno;

use super::files::{error, make_directories, number_if_there, read, write, write_raw};
use super::{Directory, Error, devices, unified};
use crate::spec::oci::{LinuxCpu, LinuxMemory, LinuxResources};

pub(super) fn find<'a>(directories: &'a [Directory], controller: &str) -> Option<&'a Path> {
    directories
        .iter()
        .find(|directory| directory.controllers.iter().any(|name| name == controller))
        .map(|directory| directory.directory.as_path())
}

pub(super) fn create(directory: &Directory) -> Result<(), Error> {
    make_directories(&directory.directory)?;
    if directory.controllers.iter().any(|name| name == "cpuset") {
        inherit_cpuset(&directory.directory)?;
    }
    Ok(())
}

/// A new cpuset is empty, and no process may join it: it gets what the one above it has.
fn inherit_cpuset(directory: &Path) -> Result<(), Error> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        inherit(directory, file)?;
    }
    Ok(())
}

fn inherit(directory: &Path, file: &str) -> Result<String, Error> {
    let own = read(&directory.join(file))?;
    if !own.trim().is_empty() {
        return Ok(own);
    }
    let parent =
        directory.parent().ok_or_else(|| error("find the parent of cgroup", directory, Errno::NOENT))?;
    let above = inherit(parent, file)?;
    write(&directory.join(file), above.trim())?;
    Ok(above)
}

pub(super) fn apply(
    directories: &[Directory],
    beside: Option<&Path>,
    resources: &LinuxResources,
) -> Result<(), Error> {
    let need = |controller: &'static str, setting: &'static str| {
        find(directories, controller).ok_or(Error::NoController { controller, setting })
    };
    if let Some(limits) = resources.memory() {
        memory(need("memory", "linux.resources.memory")?, limits)?;
    }
    if let Some(limits) = resources.cpu() {
        if has_bandwidth(limits) {
            cpu(need("cpu", "linux.resources.cpu")?, limits)?;
        }
        for (file, value) in [("cpuset.cpus", limits.cpus()), ("cpuset.mems", limits.mems())] {
            if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                write(&need("cpuset", "linux.resources.cpu.cpus")?.join(file), value)?;
            }
        }
    }
    if let Some(pids) = resources.pids() {
        write(&need("pids", "linux.resources.pids")?.join("pids.max"), &unified::limit(pids.limit()))?;
    }
    if let Some(rules) = resources.devices() {
        match (find(directories, "devices"), beside) {
            (Some(directory), _) => devices::by_controller(directory, rules)?,
            (None, Some(directory)) => devices::by_program(directory, rules)?,
            (None, None) => return Err(devices::MISSING),
        }
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let size = limit.page_size();
        let file = match (find(directories, "hugetlb"), beside) {
            (Some(directory), _) => directory.join(format!("hugetlb.{size}.limit_in_bytes")),
            (None, Some(directory)) => directory.join(format!("hugetlb.{size}.max")),
            (None, None) => continue,
        };
        if_there(&file, &limit.limit().to_string())?;
    }
    match resources.unified() {
        Some(settings) if !settings.is_empty() => {
            Err(Error::NoController { controller: "unified", setting: "linux.resources.unified" })
        }
        _ => Ok(()),
    }
}

/// Writes a setting that this kernel may not have, and that means nothing where it is missing.
fn if_there(file: &Path, value: &str) -> Result<(), Error> {
    match write_raw(file, value.as_bytes()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(error("write cgroup file", file, errno)),
    }
}

fn memory(directory: &Path, limits: &LinuxMemory) -> Result<(), Error> {
    let hard = directory.join("memory.limit_in_bytes");
    // 0 means that nobody said (CRI's zero value).
    let said = |value: Option<i64>| value.filter(|value| *value != 0);
    let (limit, swap, soft) = (said(limits.limit()), said(limits.swap()), said(limits.reservation()));
    let with_swap = directory.join("memory.memsw.limit_in_bytes");
    // The limit with swap may never be below the one without: which is written first depends on the
    // direction.
    let swap_first = match (limit, swap) {
        (Some(limit), Some(swap)) if with_swap.exists() => {
            let current = number_if_there(&with_swap)?.unwrap_or(u64::MAX);
            swap < 0 || limit < 0 || u64::try_from(limit).is_ok_and(|limit| limit > current)
        }
        _ => false,
    };
    if let (true, Some(swap)) = (swap_first, swap) {
        if_there(&with_swap, &swap.to_string())?;
    }
    if let Some(limit) = limit {
        write(&hard, &limit.to_string())?;
    }
    if let (false, Some(swap)) = (swap_first, swap) {
        if_there(&with_swap, &swap.to_string())?;
    }
    if let Some(soft) = soft {
        write(&directory.join("memory.soft_limit_in_bytes"), &soft.to_string())?;
    }
    if let Some(swappiness) = limits.swappiness() {
        write(&directory.join("memory.swappiness"), &swappiness.to_string())?;
    }
    Ok(())
}

/// Whether anything is said that the cpu controller is needed for.
pub(super) fn has_bandwidth(limits: &LinuxCpu) -> bool {
    limits.shares().is_some()
        || limits.quota().is_some()
        || limits.period().is_some()
        || limits.burst().is_some()
        || limits.idle().is_some()
        || limits.realtime_runtime().is_some()
        || limits.realtime_period().is_some()
}

fn cpu(directory: &Path, limits: &LinuxCpu) -> Result<(), Error> {
    let set = |file: &str, value: Option<String>| match value {
        Some(value) => write(&directory.join(file), &value),
        None => Ok(()),
    };
    // 0 means that nobody said (CRI's zero value).
    set("cpu.shares", limits.shares().filter(|shares| *shares != 0).map(|shares| shares.to_string()))?;
    let period = limits.period().filter(|period| *period != 0).map(|period| period.to_string());
    let quota = limits.quota().filter(|quota| *quota != 0).map(|quota| quota.to_string());
    // Against a parent's limit the kernel checks the ratio after each of the two writes: one order always
    // passes.
    if set("cpu.cfs_period_us", period.clone()).is_err() {
        set("cpu.cfs_quota_us", quota)?;
        set("cpu.cfs_period_us", period)?;
    } else {
        set("cpu.cfs_quota_us", quota)?;
    }
    set("cpu.cfs_burst_us", limits.burst().map(|burst| burst.to_string()))?;
    set("cpu.idle", limits.idle().map(|idle| idle.to_string()))?;
    set("cpu.rt_period_us", limits.realtime_period().map(|period| period.to_string()))?;
    set("cpu.rt_runtime_us", limits.realtime_runtime().map(|runtime| runtime.to_string()))
}
