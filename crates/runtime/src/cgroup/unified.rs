//! Version 2: one directory, controllers switched on from above (Documentation/admin-guide/cgroup-v2.rst).

use std::path::Path;

use rustix::io::Errno;

use super::files::{error, make_directories, read, write, write_raw};
use super::{Error, devices};
use crate::spec::oci::{LinuxCpu, LinuxMemory, LinuxResources};

/// The controllers that limits or statistics here use.
const CONTROLLERS: &[&str] = &["cpuset", "cpu", "io", "memory", "hugetlb", "pids"];

pub(super) fn create(mount: &Path, directory: &Path) -> Result<(), Error> {
    match rustix::fs::mkdir(directory, rustix::fs::Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::NOENT | Errno::EXIST) => {}
        Err(errno) => return Err(error("create cgroup", directory, errno)),
    }
    let parent = directory.parent().unwrap_or(mount);
    make_directories(parent)?;
    enable_above(mount, directory)?;
    make_directories(directory)
}

/// Gives a cgroup all controllers that the tree has, by switching them on in those above it.
pub(super) fn enable_above(mount: &Path, directory: &Path) -> Result<(), Error> {
    let parent = directory.parent().unwrap_or(mount);
    let below = parent.strip_prefix(mount).unwrap_or(Path::new(""));
    let mut ancestor = mount.to_owned();
    enable(&ancestor)?;
    for part in below {
        ancestor.push(part);
        enable(&ancestor)?;
    }
    Ok(())
}

/// Gives the children of a cgroup the controllers that it has itself.
fn enable(directory: &Path) -> Result<(), Error> {
    let control = directory.join("cgroup.subtree_control");
    let (available, enabled) = (read(&directory.join("cgroup.controllers"))?, read(&control)?);
    let has = |text: &str, name: &str| text.split_whitespace().any(|word| word == name);
    let missing: Vec<String> = CONTROLLERS
        .iter()
        .filter(|name| has(&available, name) && !has(&enabled, name))
        .map(|name| format!("+{name}"))
        .collect();
    if missing.is_empty() { Ok(()) } else { write(&control, &missing.join(" ")) }
}

pub(super) fn apply(directory: &Path, resources: &LinuxResources) -> Result<(), Error> {
    let set = |file: &str, value: &str| set(directory, file, value);
    if let Some(limits) = resources.memory() {
        memory(directory, limits)?;
    }
    if let Some(limits) = resources.cpu() {
        cpu(directory, limits)?;
    }
    if let Some(pids) = resources.pids() {
        set("pids.max", &limit(pids.limit()))?;
    }
    for hugepages in resources.hugepage_limits().iter().flatten() {
        let file = directory.join(format!("hugetlb.{}.max", hugepages.page_size()));
        match write_raw(&file, hugepages.limit().to_string().as_bytes()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(error("write cgroup file", &file, errno)),
        }
    }
    if let Some(rules) = resources.devices() {
        devices::by_program(directory, rules)?;
    }
    let mut settings: Vec<_> = resources.unified().iter().flatten().collect();
    settings.sort();
    for (file, value) in settings {
        if !is_setting(file) {
            return Err(Error::NoController { controller: "unified", setting: "linux.resources.unified" });
        }
        set(file, value)?;
    }
    Ok(())
}

/// Whether it is the name of a controller's file: not of one elsewhere, and none of the cgroup itself.
pub(super) fn is_setting(file: &str) -> bool {
    let controller = file.split_once('.').map_or("", |(controller, _)| controller);
    CONTROLLERS.contains(&controller) && !file.contains(['/', '\0'])
}

fn set(directory: &Path, file: &str, value: &str) -> Result<(), Error> {
    write(&directory.join(file), value)
}

/// A limit of the specification, in which nothing and less is no limit.
pub(super) fn limit(value: i64) -> String {
    if value <= 0 { "max".to_owned() } else { value.to_string() }
}

fn memory(directory: &Path, limits: &LinuxMemory) -> Result<(), Error> {
    if let Some(bytes) = limits.limit().filter(|bytes| *bytes != 0) {
        set(directory, "memory.max", &limit(bytes))?;
    }
    if let Some(value) = swap(limits) {
        match set(directory, "memory.swap.max", &value) {
            Err(Error::Cgroup { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    if let Some(bytes) = limits.reservation().filter(|bytes| *bytes != 0) {
        set(directory, "memory.low", &limit(bytes))?;
    }
    Ok(())
}

/// Version 2 limits swap alone, the specification memory and swap together.
fn swap(limits: &LinuxMemory) -> Option<String> {
    match (limits.swap()?, limits.limit()) {
        (0, _) => None,
        (swap, _) if swap < 0 => Some("max".to_owned()),
        (swap, Some(memory)) if memory > 0 => Some(swap.saturating_sub(memory).max(0).to_string()),
        (swap, _) => Some(swap.to_string()),
    }
}

fn cpu(directory: &Path, limits: &LinuxCpu) -> Result<(), Error> {
    if let Some(shares) = limits.shares().filter(|shares| *shares != 0) {
        set(directory, "cpu.weight", &weight(shares).to_string())?;
    }
    match (limits.quota().filter(|q| *q != 0), limits.period().filter(|p| *p != 0)) {
        (Some(quota), Some(period)) => set(directory, "cpu.max", &format!("{} {period}", limit(quota)))?,
        (Some(quota), None) => set(directory, "cpu.max", &limit(quota))?,
        (None, Some(period)) => set(directory, "cpu.max", &format!("max {period}"))?,
        (None, None) => {}
    }
    if let Some(burst) = limits.burst() {
        set(directory, "cpu.max.burst", &burst.to_string())?;
    }
    if let Some(idle) = limits.idle() {
        set(directory, "cpu.idle", &idle.to_string())?;
    }
    for (file, value) in [("cpuset.cpus", limits.cpus()), ("cpuset.mems", limits.mems())] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            set(directory, file, value)?;
        }
    }
    Ok(())
}

/// Shares (2 to 262144, 1024 as the middle) as a weight (1 to 10000, 100 as the middle): the curve through
/// these three points that Kubernetes, runc and crun agreed on in 2025 (kubernetes/kubernetes issue 131216).
/// The straight line used before gave a container of 1024 shares a weight of 39.
fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            #[expect(clippy::cast_precision_loss, reason = "below 2^18")]
            let log = (shares as f64).log2();
            let exponent = log.mul_add(log, 125.0 * log) / 612.0 - 7.0 / 34.0;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 1 to 10000")]
            let weight = 10f64.powf(exponent).ceil() as u64;
            weight
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::oci::LinuxMemoryBuilder;

    #[test]
    fn weights_meet_the_fixed_points_and_grow() {
        assert_eq!([weight(2), weight(1024), weight(262_144)], [1, 100, 10_000]);
        let weights: Vec<u64> = (1..=262_144).step_by(97).map(weight).collect();
        assert!(weights.is_sorted() && weights.iter().all(|weight| (1..=10_000).contains(weight)));
    }

    #[test]
    fn swap_is_what_goes_beyond_memory() {
        let limits =
            |memory: i64, swap: i64| LinuxMemoryBuilder::default().limit(memory).swap(swap).build().unwrap();
        assert_eq!(swap(&limits(100, 100)).as_deref(), Some("0"));
        assert_eq!(swap(&limits(100, 150)).as_deref(), Some("50"));
        assert_eq!(swap(&limits(100, -1)).as_deref(), Some("max"));
    }
}
