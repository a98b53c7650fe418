//! Limits of a pod or container, as requests carry them.
//!
//! Not here: writing them into cgroups (the runtime crate) and reading what is used (see `stats`).

use std::collections::BTreeMap;

use runtime::cgroup::{DeviceControl, Host};
use serde::{Deserialize, Serialize};

use crate::error::{Error, chain};

/// Finds out how the use of devices is limited on this host, in words; where that takes programs in the kernel, one is
/// loaded and let go.
///
/// # Errors
/// Why it can't be, in words.
pub fn try_device_rules() -> Result<&'static str, String> {
    let control = Host::detect().and_then(|host| host.try_devices());
    match control.map_err(|error| chain(&error))? {
        DeviceControl::Controller => Ok("by the devices controller"),
        DeviceControl::Program => Ok("by programs at cgroups"),
    }
}

/// The CPU weight that a cgroup has unless it is given another one (Documentation/admin-guide/cgroup-v1: `cpu.shares`).
pub(crate) const USUAL_SHARES: u64 = 1024;

/// Its period in microseconds, likewise (Documentation/scheduler/sched-bwc.rst: 100 ms).
const USUAL_PERIOD: u64 = 100_000;

/// Limits; `None` and empty mean that the request says nothing (CRI's zero).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// CPU period in microseconds.
    pub cpu_period: Option<u64>,
    /// CPU time per period in microseconds; negative for none.
    pub cpu_quota: Option<i64>,
    /// Relative CPU weight, cgroup v1's scale of 2 to 262144.
    pub cpu_shares: Option<u64>,
    /// Memory limit in bytes.
    pub memory_limit: Option<i64>,
    /// Limit of memory and swap together in bytes; -1 for none.
    pub memory_swap_limit: Option<i64>,
    /// OOM score adjustment, -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// CPUs, such as `0-3,7`.
    pub cpuset_cpus: String,
    /// Memory nodes, in the same form.
    pub cpuset_mems: String,
    /// Huge page limits in bytes by page size, such as `2MB`.
    pub hugepage_limits: BTreeMap<String, u64>,
    /// cgroup v2 files and what to write into them.
    pub unified: BTreeMap<String, String>,
    /// What CRI has no words for, and plugins may ask for.
    #[serde(skip_serializing_if = "Further::are_none")]
    pub further: Further,
}

/// Limits that CRI has no words for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Further {
    /// Memory in bytes that is the last to be taken away.
    pub memory_reservation: Option<i64>,
    /// How readily memory is swapped out, 0 to 100 (cgroup v1).
    pub memory_swappiness: Option<u64>,
    /// How many processes there may be; -1 for any number.
    pub pids: Option<i64>,
    /// Real-time CPU time per period in microseconds (cgroup v1).
    pub realtime_runtime: Option<i64>,
    /// Its period in microseconds (cgroup v1).
    pub realtime_period: Option<u64>,
}

impl Further {
    fn are_none(&self) -> bool {
        *self == Self::default()
    }

    fn updated(&self, update: &Self) -> Self {
        Self {
            memory_reservation: update.memory_reservation.or(self.memory_reservation),
            memory_swappiness: update.memory_swappiness.or(self.memory_swappiness),
            pids: update.pids.or(self.pids),
            realtime_runtime: update.realtime_runtime.or(self.realtime_runtime),
            realtime_period: update.realtime_period.or(self.realtime_period),
        }
    }

    /// Those of `before`, where `self` was written. What nobody had said is as it is.
    fn taken_back(&self, before: &Self) -> Self {
        Self {
            memory_reservation: self.memory_reservation.and(before.memory_reservation),
            memory_swappiness: self.memory_swappiness.and(before.memory_swappiness),
            pids: self.pids.map(|_| before.pids.unwrap_or(-1)),
            realtime_runtime: self.realtime_runtime.and(before.realtime_runtime),
            realtime_period: self.realtime_period.and(before.realtime_period),
        }
    }
}

impl Resources {
    /// These limits with those that `update` names changed. An OOM score of 0 names none here: kubelet's CPU manager sends one with every
    /// set of CPUs.
    #[must_use]
    pub fn updated(&self, update: &Self) -> Self {
        let text = |new: &String, old: &String| if new.is_empty() { old.clone() } else { new.clone() };
        let mut hugepage_limits = self.hugepage_limits.clone();
        hugepage_limits.extend(update.hugepage_limits.iter().map(|(size, limit)| (size.clone(), *limit)));
        let mut unified = self.unified.clone();
        unified.extend(update.unified.iter().map(|(file, value)| (file.clone(), value.clone())));
        Self {
            cpu_period: update.cpu_period.or(self.cpu_period),
            cpu_quota: update.cpu_quota.or(self.cpu_quota),
            cpu_shares: update.cpu_shares.or(self.cpu_shares),
            memory_limit: update.memory_limit.or(self.memory_limit),
            memory_swap_limit: update.memory_swap_limit.or(self.memory_swap_limit),
            oom_score_adj: update.oom_score_adj.filter(|score| *score != 0).or(self.oom_score_adj),
            cpuset_cpus: text(&update.cpuset_cpus, &self.cpuset_cpus),
            cpuset_mems: text(&update.cpuset_mems, &self.cpuset_mems),
            hugepage_limits,
            unified,
            further: self.further.updated(&update.further),
        }
    }

    /// These limits in the terms of the runtime specification.
    ///
    /// # Errors
    /// [`Error::Refused`] for values that no host can apply.
    pub fn described(&self) -> Result<runtime::spec::oci::LinuxResources, Error> {
        crate::spec::resources::without_devices(self)
    }

    /// The OOM score of processes with these limits.
    pub(crate) fn oom_score(&self) -> i32 {
        self.oom_score_adj.unwrap_or(0)
    }

    /// What has to be written when `self` was updated to `updated`: what the update names, and together the limits of memory and of memory
    /// with swap, and the quota and period of the CPU: what one of two means depends on the other, and version 2 has both in one file.
    #[must_use]
    pub(crate) fn completed(&self, updated: &Self) -> Self {
        let mut change = self.clone();
        if change.memory_limit.is_some() || change.memory_swap_limit.is_some() {
            change.memory_limit = updated.memory_limit;
            change.memory_swap_limit = updated.memory_swap_limit;
        }
        if change.cpu_quota.is_some() || change.cpu_period.is_some() {
            change.cpu_quota = updated.cpu_quota;
            change.cpu_period = updated.cpu_period;
        }
        change
    }

    /// What has to be written to take back `self` that was written, where `before` held: a limit that there was none of is lifted. CPU sets and
    /// settings by file that nobody had said are as they are: what they were before, only their parents know.
    #[must_use]
    pub(crate) fn taken_back(&self, before: &Self) -> Self {
        let sizes = self.hugepage_limits.keys();
        let of_size = |size: &String| before.hugepage_limits.get(size).copied().unwrap_or(u64::MAX);
        let of_file = |file: &String| Some((file.clone(), before.unified.get(file)?.clone()));
        let text = |new: &String, old: &String| if new.is_empty() { String::new() } else { old.clone() };
        Self {
            cpu_period: self.cpu_period.map(|_| before.cpu_period.unwrap_or(USUAL_PERIOD)),
            cpu_quota: self.cpu_quota.map(|_| before.cpu_quota.unwrap_or(-1)),
            cpu_shares: self.cpu_shares.map(|_| before.cpu_shares.unwrap_or(USUAL_SHARES)),
            memory_limit: self.memory_limit.map(|_| before.memory_limit.unwrap_or(-1)),
            memory_swap_limit: self.memory_swap_limit.map(|_| before.memory_swap_limit.unwrap_or(-1)),
            oom_score_adj: self.oom_score_adj.map(|_| before.oom_score()),
            cpuset_cpus: text(&self.cpuset_cpus, &before.cpuset_cpus),
            cpuset_mems: text(&self.cpuset_mems, &before.cpuset_mems),
            hugepage_limits: sizes.map(|size| (size.clone(), of_size(size))).collect(),
            unified: self.unified.keys().filter_map(of_file).collect(),
            further: self.further.taken_back(&before.further),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_changes_what_it_names() {
        let before = Resources {
            cpu_shares: Some(512),
            memory_limit: Some(100),
            oom_score_adj: Some(-997),
            ..Resources::default()
        };
        let cpus = Resources { cpuset_cpus: "0".to_owned(), oom_score_adj: Some(0), ..Resources::default() };
        let after = before.updated(&cpus);
        assert_eq!(after, Resources { cpuset_cpus: "0".to_owned(), ..before.clone() });
        let score = Resources { oom_score_adj: Some(100), ..Resources::default() };
        assert_eq!(before.updated(&score), Resources { oom_score_adj: Some(100), ..before.clone() });
        // In either order both of two updates count.
        let memory = Resources { memory_limit: Some(200), ..Resources::default() };
        assert_eq!(after.updated(&memory), before.updated(&memory).updated(&cpus));
    }

    #[test]
    fn swap_is_written_with_its_memory() {
        let before =
            Resources { memory_limit: Some(100), memory_swap_limit: Some(150), ..Resources::default() };
        let swap = Resources { memory_swap_limit: Some(170), ..Resources::default() };
        let written = swap.completed(&before.updated(&swap));
        assert_eq!((written.memory_limit, written.memory_swap_limit), (Some(100), Some(170)));
        let memory = Resources { memory_limit: Some(120), ..Resources::default() };
        let written = memory.completed(&before.updated(&memory));
        assert_eq!((written.memory_limit, written.memory_swap_limit), (Some(120), Some(150)));
        let cpu = Resources { cpu_shares: Some(2), ..Resources::default() };
        assert_eq!(cpu.completed(&before.updated(&cpu)), cpu);
    }

    #[test]
    fn a_quota_is_written_with_its_period() {
        let before = Resources { cpu_quota: Some(25_000), cpu_period: Some(50_000), ..Resources::default() };
        let written = |update: Resources| {
            let written = update.completed(&before.updated(&update));
            (written.cpu_quota, written.cpu_period)
        };
        let period = Resources { cpu_period: Some(100_000), ..Resources::default() };
        assert_eq!(written(period.clone()), (Some(25_000), Some(100_000)), "the limit stays one");
        let quota = Resources { cpu_quota: Some(-1), ..Resources::default() };
        assert_eq!(written(quota), (Some(-1), Some(50_000)));
        assert_eq!(written(Resources { cpu_shares: Some(2), ..Resources::default() }), (None, None));
        let free = Resources::default();
        assert_eq!(period.completed(&free.updated(&period)), period);
    }

    #[test]
    fn what_was_written_is_taken_back_and_nothing_else() {
        let one = |key: &str, value: u64| BTreeMap::from([(key.to_owned(), value)]);
        let before = Resources {
            memory_limit: Some(100),
            cpu_quota: Some(7),
            hugepage_limits: one("2MB", 3),
            unified: BTreeMap::from([("memory.high".to_owned(), "50".to_owned())]),
            ..Resources::default()
        };
        let written = Resources {
            memory_limit: Some(200),
            memory_swap_limit: Some(300),
            cpu_shares: Some(2),
            cpuset_cpus: "0".to_owned(),
            hugepage_limits: BTreeMap::from([("2MB".to_owned(), 4), ("1GB".to_owned(), 5)]),
            unified: ["memory.high", "memory.low"].map(|file| (file.to_owned(), "9".to_owned())).into(),
            ..Resources::default()
        };
        let expected = Resources {
            memory_limit: Some(100),
            memory_swap_limit: Some(-1),
            cpu_shares: Some(1024),
            hugepage_limits: BTreeMap::from([("2MB".to_owned(), 3), ("1GB".to_owned(), u64::MAX)]),
            unified: before.unified.clone(),
            ..Resources::default()
        };
        assert_eq!(written.taken_back(&before), expected);
    }
}
