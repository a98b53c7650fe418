//! Whether a host can apply limits, asked before anything is made: from the limits and facts about the host alone.
//!
//! | limit | what is refused |
//! |---|---|
//! | CPU period | outside of 1000 to 1000000 microseconds (kernel/sched/core.c, tg_set_cfs_bandwidth) |
//! | CPU quota | from 1 to 999 microseconds, more than 2^44 - 1 (the same, MAX_BW) |
//! | CPUs, memory nodes | what is no list, and what is not online |
//! | memory and swap | less than memory alone, or without a limit of memory |
//! | huge pages | a page size that is none |
//! | kernel memory, hierarchy, check before update | always; swappiness and real-time CPU time in version 2 |
//! | unified | everything where version 1 has controllers; files that belong to the cgroup itself |
//!
//! Not here: what depends on the cgroups above, such as a cpuset of theirs: the kernel says that when limits are written.

use std::path::Path;

use super::{Error, Host, Layout, devices, files, legacy, refuse_what_is_not_done, unified};
use crate::plan::Refusal;
use crate::spec::oci::{LinuxCpu, LinuxMemory, LinuxResources};

/// In microseconds (kernel/sched/sched.h, MAX_BW: 64 bits less BW_SHIFT).
const MOST_QUOTA: i64 = (1 << 44) - 1;

/// What limits can be about on a machine. Changes when CPUs or memory come and go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    cpus: Vec<(u32, u32)>,
    nodes: Vec<(u32, u32)>,
}

impl Machine {
    /// Reads which CPUs and memory nodes are online. Two short files of sysfs.
    ///
    /// # Errors
    /// [`Error::Cgroup`] when they cannot be read.
    pub fn read() -> Result<Self, Error> {
        let cpus = files::read(Path::new("/sys/devices/system/cpu/online"))?;
        // Kernels without NUMA have no such file, and one node.
        let nodes = files::read_if_there(Path::new("/sys/devices/system/node/online"))?;
        let nodes = nodes.as_deref().unwrap_or("0");
        Ok(Self { cpus: list(&cpus).unwrap_or_default(), nodes: list(nodes).unwrap_or_default() })
    }
}

impl Host {
    /// Whether [`Cgroup::apply`](super::Cgroup::apply) can be expected to take these limits. Touches nothing.
    ///
    /// # Errors
    /// A [`Refusal`] with the field's path in the OCI specification.
    pub fn check(&self, machine: &Machine, resources: &LinuxResources) -> Result<(), Refusal> {
        if let Err(Error::NoController { setting, .. }) = refuse_what_is_not_done(resources, self.layout()) {
            return refuse(setting, "cannot be set");
        }
        devices::check(resources.devices().as_deref().unwrap_or_default())?;
        if let Some(limits) = resources.cpu() {
            self.cpu(machine, limits)?;
        }
        if let Some(limits) = resources.memory() {
            self.need("memory", "linux.resources.memory")?;
            memory(limits)?;
        }
        if resources.pids().is_some() {
            self.need("pids", "linux.resources.pids")?;
        }
        let mut sizes = resources.hugepage_limits().iter().flatten().map(|limit| limit.page_size());
        if let Some(size) = sizes.find(|size| !is_page_size(size)) {
            return refuse(
                "linux.resources.hugepageLimits",
                &format!("{size:?} is not a page size such as 2MB"),
            );
        }
        match resources.unified() {
            Some(settings) => self.settings(settings.keys()),
            None => Ok(()),
        }
    }

    fn cpu(&self, machine: &Machine, limits: &LinuxCpu) -> Result<(), Refusal> {
        if legacy::has_bandwidth(limits) {
            self.need("cpu", "linux.resources.cpu")?;
        }
        if let Some(period) =
            limits.period().filter(|period| *period != 0 && !(1000..=1_000_000).contains(period))
        {
            let why = format!("{period} is not from 1000 to 1000000 microseconds");
            return refuse("linux.resources.cpu.period", &why);
        }
        if let Some(quota) = limits.quota().filter(|quota| (1..1000).contains(quota)) {
            let why = format!("{quota} is less than the 1000 microseconds that the kernel takes");
            return refuse("linux.resources.cpu.quota", &why);
        }
        if let Some(quota) = limits.quota().filter(|quota| *quota > MOST_QUOTA) {
            let why = format!("{quota} is more than the {MOST_QUOTA} microseconds that the kernel takes");
            return refuse("linux.resources.cpu.quota", &why);
        }
        let sets = [
            ("linux.resources.cpu.cpus", limits.cpus(), &machine.cpus),
            ("linux.resources.cpu.mems", limits.mems(), &machine.nodes),
        ];
        for (field, set, online) in sets {
            let Some(text) = set.as_deref().filter(|text| !text.is_empty()) else { continue };
            self.need("cpuset", field)?;
            let Some(wanted) = list(text) else {
                return refuse(field, &format!("{text:?} is not a list such as 0-3,7"));
            };
            let is_there =
                |(from, to): &(u32, u32)| online.iter().any(|(low, high)| low <= from && to <= high);
            if !wanted.iter().all(is_there) {
                return refuse(field, &format!("not all of {text:?} are online on this host"));
            }
        }
        Ok(())
    }

    /// Version 2 hosts have all controllers that are used here, or none of any use at all.
    fn need(&self, controller: &str, field: &str) -> Result<(), Refusal> {
        let has = |name: &String| name == controller;
        if self.layout() == Layout::Unified || self.legacy.iter().any(|h| h.controllers.iter().any(has)) {
            return Ok(());
        }
        refuse(field, &format!("this host has no {controller} controller"))
    }

    fn settings<'a>(&self, files: impl Iterator<Item = &'a String>) -> Result<(), Refusal> {
        let field = "linux.resources.unified";
        let mut files: Vec<_> = files.collect();
        files.sort();
        match files.into_iter().find(|file| self.layout() != Layout::Unified || !unified::is_setting(file)) {
            None => Ok(()),
            Some(file) if self.layout() == Layout::Unified => {
                refuse(field, &format!("{file:?} is not a setting of a controller"))
            }
            Some(file) => refuse(field, &format!("{file:?} needs a host with cgroup version 2 alone")),
        }
    }
}

fn memory(limits: &LinuxMemory) -> Result<(), Refusal> {
    let (memory, swap) = (limits.limit().unwrap_or(0), limits.swap().unwrap_or(0));
    for (field, value) in [("linux.resources.memory.limit", memory), ("linux.resources.memory.swap", swap)] {
        if value < -1 {
            return refuse(field, &format!("{value} is neither a number of bytes nor -1 for no limit"));
        }
    }
    if swap > 0 && memory <= 0 {
        return refuse("linux.resources.memory.swap", "cannot be limited without a limit of memory");
    }
    if swap > 0 && swap < memory {
        let why = format!("{swap} bytes of memory and swap are less than the {memory} of memory alone");
        return refuse("linux.resources.memory.swap", &why);
    }
    Ok(())
}

fn refuse(field: &str, why: &str) -> Result<(), Refusal> {
    Err(Refusal { field: field.to_owned(), why: why.to_owned() })
}

/// A size as the kernel names files of hugetlb by it: `64KB`, `2MB`, `1GB`.
fn is_page_size(size: &str) -> bool {
    let number = ["KB", "MB", "GB"].into_iter().find_map(|unit| size.strip_suffix(unit));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A list as cpuset(7) describes it: numbers and ranges with commas between. None when it is no such list.
fn list(text: &str) -> Option<Vec<(u32, u32)>> {
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.parse::<u32>().ok().filter(|_| !text.starts_with('+'));
        let (from, to) = (number(from)?, number(to)?);
        (from <= to).then_some((from, to))
    };
    text.trim().split(',').map(|part| range(part.trim())).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::Hierarchy;
    use super::*;
    use crate::spec::oci::LinuxHugepageLimit;

    fn hybrid() -> Host {
        let hierarchy = |name: &str| Hierarchy {
            controllers: vec![name.to_owned()],
            mount: format!("/sys/fs/cgroup/{name}").into(),
        };
        Host {
            unified: Some("/sys/fs/cgroup/unified".into()),
            legacy: ["cpu", "cpuset", "memory"].map(hierarchy).to_vec(),
        }
    }

    fn unified() -> Host {
        Host { unified: Some("/sys/fs/cgroup".into()), legacy: vec![] }
    }

    fn machine() -> Machine {
        Machine { cpus: vec![(0, 3), (6, 7)], nodes: vec![(0, 0)] }
    }

    fn refused(host: &Host, change: impl FnOnce(&mut LinuxCpu, &mut LinuxMemory)) -> Option<String> {
        let (mut cpu, mut memory) = (LinuxCpu::default(), LinuxMemory::default());
        change(&mut cpu, &mut memory);
        let mut resources = LinuxResources::default();
        resources.set_cpu(Some(cpu)).set_memory(Some(memory)).set_devices(None);
        host.check(&machine(), &resources).err().map(|refusal| refusal.field)
    }

    #[test]
    fn what_no_host_can_do_is_refused_by_its_field() {
        type Change = fn(&mut LinuxCpu, &mut LinuxMemory);
        let cases: [(Option<&str>, Change); 24] = [
            (None, |_, _| ()),
            (None, |c, _| {
                c.set_period(Some(100_000)).set_quota(Some(-1));
            }),
            (None, |c, _| {
                c.set_period(Some(0)).set_quota(Some(0));
            }),
            (Some("cpu.period"), |c, _| {
                c.set_period(Some(999));
            }),
            (Some("cpu.period"), |c, _| {
                c.set_period(Some(1_000_001));
            }),
            (Some("cpu.quota"), |c, _| {
                c.set_quota(Some(999));
            }),
            (Some("cpu.quota"), |c, _| {
                c.set_quota(Some(1 << 44));
            }),
            (None, |c, _| {
                c.set_quota(Some((1 << 44) - 1));
            }),
            (None, |c, _| {
                c.set_cpus(Some("0-3, 7".to_owned())).set_mems(Some("0".to_owned()));
            }),
            (Some("cpu.cpus"), |c, _| {
                c.set_cpus(Some("zero".to_owned()));
            }),
            (Some("cpu.cpus"), |c, _| {
                c.set_cpus(Some("3-1".to_owned()));
            }),
            (Some("cpu.cpus"), |c, _| {
                c.set_cpus(Some("2-4".to_owned()));
            }),
            (Some("cpu.mems"), |c, _| {
                c.set_mems(Some("1".to_owned()));
            }),
            (None, |_, m| {
                m.set_limit(Some(-1)).set_swap(Some(-1));
            }),
            (None, |_, m| {
                m.set_limit(Some(100)).set_swap(Some(100));
            }),
            (None, |_, m| {
                m.set_limit(Some(100)).set_swap(Some(-1));
            }),
            (Some("memory.swap"), |_, m| {
                m.set_limit(Some(100)).set_swap(Some(99));
            }),
            (Some("memory.swap"), |_, m| {
                m.set_swap(Some(100));
            }),
            (Some("memory.swap"), |_, m| {
                m.set_swap(Some(-2));
            }),
            (Some("memory.limit"), |_, m| {
                m.set_limit(Some(-2));
            }),
            (Some("memory.kernel"), |_, m| {
                m.set_kernel(Some(1 << 20));
            }),
            (Some("memory.useHierarchy"), |_, m| {
                m.set_use_hierarchy(Some(false));
            }),
            (Some("memory.checkBeforeUpdate"), |_, m| {
                m.set_check_before_update(Some(true));
            }),
            (None, |_, m| {
                m.set_check_before_update(Some(false));
            }),
        ];
        for (at, (field, change)) in cases.into_iter().enumerate() {
            let field = field.map(|field| format!("linux.resources.{field}"));
            assert_eq!(refused(&hybrid(), change), field, "case {at} on version 1");
            assert_eq!(refused(&unified(), change), field, "case {at} on version 2");
        }
    }

    #[test]
    fn what_version_2_has_no_file_for_is_refused_there() {
        type Change = fn(&mut LinuxCpu, &mut LinuxMemory);
        let cases: [(&str, Change); 3] = [
            ("memory.swappiness", |_, m| {
                m.set_swappiness(Some(60));
            }),
            ("cpu.realtimeRuntime", |c, _| {
                c.set_realtime_runtime(Some(0));
            }),
            ("cpu.realtimePeriod", |c, _| {
                c.set_realtime_period(Some(1_000_000));
            }),
        ];
        for (field, change) in cases {
            assert_eq!(refused(&unified(), change), Some(format!("linux.resources.{field}")));
            assert_eq!(refused(&hybrid(), change), None, "{field}");
        }
    }

    #[test]
    fn a_controller_that_is_missing_is_missed() {
        let mut host = hybrid();
        host.legacy.retain(|hierarchy| hierarchy.controllers == ["memory"]);
        let shares = |c: &mut LinuxCpu, _: &mut LinuxMemory| {
            c.set_shares(Some(2));
        };
        assert_eq!(refused(&host, shares).as_deref(), Some("linux.resources.cpu"));
        assert_eq!(refused(&hybrid(), shares), None);
    }

    #[test]
    fn settings_of_version_2_are_for_its_controllers() {
        let check = |host: &Host, file: &str| {
            let mut resources = LinuxResources::default();
            resources.set_unified(Some(HashMap::from([(file.to_owned(), "1".to_owned())]))).set_devices(None);
            host.check(&machine(), &resources)
        };
        check(&unified(), "memory.high").unwrap();
        check(&unified(), "hugetlb.2MB.max").unwrap();
        for bad in
            ["cgroup.kill", "../memory.high", "memory/high", "memory", ".x", "", "misc.max", "memory.\0"]
        {
            assert_eq!(check(&unified(), bad).unwrap_err().field, "linux.resources.unified", "{bad:?}");
        }
        assert!(check(&hybrid(), "memory.high").is_err());
        let mut nothing = LinuxResources::default();
        nothing.set_unified(Some(HashMap::new())).set_devices(None);
        hybrid().check(&machine(), &nothing).unwrap();
    }

    #[test]
    fn page_sizes_cannot_lead_elsewhere() {
        let check = |size: &str| {
            let mut limit = LinuxHugepageLimit::default();
            limit.set_page_size(size.to_owned()).set_limit(1);
            let mut resources = LinuxResources::default();
            resources.set_hugepage_limits(Some(vec![limit])).set_devices(None);
            hybrid().check(&machine(), &resources)
        };
        check("2MB").unwrap();
        for bad in ["", "MB", "2", "2M", "../2MB", "2MB/../x", "-2MB"] {
            assert_eq!(check(bad).unwrap_err().field, "linux.resources.hugepageLimits", "{bad:?}");
        }
    }
}
