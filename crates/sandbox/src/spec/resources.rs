//! Limits in the terms of the runtime specification.

use std::collections::HashMap;

use runtime::cgroup::{Host, Machine};
use runtime::spec::oci;

use super::devices::HostDevice;
use crate::error::Error;
use crate::resources::{Further, Resources};

/// The smallest memory limit that is taken: less can't hold the first page tables of a process (the runtime itself is not
/// charged to the container).
const LEAST_MEMORY: i64 = 64 << 10;

/// The limits of a container with its device rules.
pub(crate) fn limits(
    resources: &Resources,
    devices: &[HostDevice],
    privileged: bool,
) -> Result<oci::LinuxResources, Error> {
    let mut limits = without_devices(resources)?;
    limits.set_devices(Some(super::devices::rules(devices, privileged)));
    Ok(limits)
}

/// The limits alone, as an update and a pod need them.
///
/// # Errors
/// [`Error::Refused`] for values that no host can apply.
pub(crate) fn without_devices(resources: &Resources) -> Result<oci::LinuxResources, Error> {
    let memory = match resources.memory_limit {
        Some(limit) if (1..LEAST_MEMORY).contains(&limit) => {
            let why = format!("{limit} bytes are less than the {LEAST_MEMORY} that a process needs");
            return Err(Error::refused("linux.resources.memory_limit_in_bytes", why));
        }
        limit => limit.filter(|limit| *limit != 0),
    };
    let mut limits = oci::LinuxResources::default();
    limits.set_cpu(Some(cpu(resources))).set_devices(None);
    let further = &resources.further;
    let mut part = oci::LinuxMemory::default();
    part.set_limit(memory)
        .set_swap(resources.memory_swap_limit)
        .set_reservation(further.memory_reservation)
        .set_swappiness(further.memory_swappiness);
    limits.set_memory((part != oci::LinuxMemory::default()).then_some(part));
    if let Some(pids) = further.pids {
        let mut limit = oci::LinuxPids::default();
        limit.set_limit(pids);
        limits.set_pids(Some(limit));
    }
    if !resources.hugepage_limits.is_empty() {
        limits.set_hugepage_limits(Some(hugepages(resources)));
    }
    if !resources.unified.is_empty() {
        limits.set_unified(Some(resources.unified.clone().into_iter().collect::<HashMap<_, _>>()));
    }
    Ok(limits)
}

/// A specification with the limits that updates have made of its own.
///
/// # Errors
/// As for [`without_devices`].
pub(crate) fn updated(mut spec: oci::Spec, resources: &Resources) -> Result<oci::Spec, Error> {
    let mut limits = without_devices(resources)?;
    if let Some(process) = spec.process_mut() {
        process.set_oom_score_adj(Some(resources.oom_score()));
    }
    if let Some(linux) = spec.linux_mut() {
        limits.set_devices(linux.resources().as_ref().and_then(|before| before.devices().clone()));
        linux.set_resources(Some(limits));
    }
    Ok(spec)
}

/// Checks that this host can apply limits.
///
/// # Errors
/// [`Error::Refused`] with the field in CRI's words; [`Error::Step`] when the host can't be asked what it has.
pub(crate) fn check(host: &Host, resources: &Resources) -> Result<(), Error> {
    let limits = without_devices(resources)?;
    let machine =
        Machine::read().map_err(|cause| Error::step("looking for CPUs", "/sys/devices/system", cause))?;
    host.check(&machine, &limits).map_err(|refusal| Error::refused(field(&refusal.field), refusal.why))
}

/// The runtime specification's name of a limit, and CRI's.
const FIELDS: [(&str, &str); 9] = [
    ("cpu.period", "cpu_period"),
    ("cpu.quota", "cpu_quota"),
    ("cpu.cpus", "cpuset_cpus"),
    ("cpu.mems", "cpuset_mems"),
    ("cpu", "cpu_shares"),
    ("memory.swap", "memory_swap_limit_in_bytes"),
    ("memory.limit", "memory_limit_in_bytes"),
    ("memory", "memory_limit_in_bytes"),
    ("hugepageLimits", "hugepage_limits"),
];

fn field(name: &str) -> String {
    let short = name.strip_prefix("linux.resources.").unwrap_or(name);
    let known = FIELDS.iter().find(|(theirs, _)| *theirs == short);
    format!("linux.resources.{}", known.map_or(short, |(_, ours)| ours))
}

fn cpu(resources: &Resources) -> oci::LinuxCpu {
    let text = |text: &String| (!text.is_empty()).then(|| text.clone());
    let mut cpu = oci::LinuxCpu::default();
    cpu.set_shares(resources.cpu_shares)
        .set_quota(resources.cpu_quota)
        .set_period(resources.cpu_period)
        .set_cpus(text(&resources.cpuset_cpus))
        .set_mems(text(&resources.cpuset_mems))
        .set_realtime_runtime(resources.further.realtime_runtime)
        .set_realtime_period(resources.further.realtime_period);
    cpu
}

/// Limits of a specification as they are kept and written again.
///
/// # Errors
/// [`Error::Refused`] with what is not done.
pub(crate) fn kept(limits: &oci::LinuxResources, oom_score_adj: Option<i32>) -> Result<Resources, Error> {
    let (memory, cpu) = (limits.memory().unwrap_or_default(), limits.cpu().clone().unwrap_or_default());
    let refused = [
        ("memory.kernel", memory.kernel().is_some()),
        ("memory.kernelTCP", memory.kernel_tcp().is_some()),
        ("memory.useHierarchy", memory.use_hierarchy().is_some()),
        ("memory.disableOOMKiller", memory.disable_oom_killer() == Some(true)),
        ("blockIO", limits.block_io().is_some()),
    ];
    if let Some((field, _)) = refused.into_iter().find(|(_, is_asked)| *is_asked) {
        return Err(Error::refused(format!("linux.resources.{field}"), "is not supported"));
    }
    let pages = limits.hugepage_limits().iter().flatten();
    let page = |limit: &oci::LinuxHugepageLimit| {
        (limit.page_size().clone(), u64::try_from(limit.limit()).unwrap_or(u64::MAX))
    };
    Ok(Resources {
        cpu_period: cpu.period(),
        cpu_quota: cpu.quota(),
        cpu_shares: cpu.shares(),
        memory_limit: memory.limit(),
        memory_swap_limit: memory.swap(),
        oom_score_adj,
        cpuset_cpus: cpu.cpus().clone().unwrap_or_default(),
        cpuset_mems: cpu.mems().clone().unwrap_or_default(),
        hugepage_limits: pages.map(page).collect(),
        unified: limits.unified().clone().unwrap_or_default().into_iter().collect(),
        further: Further {
            memory_reservation: memory.reservation(),
            memory_swappiness: memory.swappiness(),
            pids: limits.pids().as_ref().map(oci::LinuxPids::limit),
            realtime_runtime: cpu.realtime_runtime(),
            realtime_period: cpu.realtime_period(),
        },
    })
}

fn hugepages(resources: &Resources) -> Vec<oci::LinuxHugepageLimit> {
    let one = |(size, limit): (&String, &u64)| {
        let mut entry = oci::LinuxHugepageLimit::default();
        entry.set_page_size(size.clone()).set_limit(i64::try_from(*limit).unwrap_or(i64::MAX));
        entry
    };
    resources.hugepage_limits.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_was_kept() {
        let resources = Resources {
            cpu_period: Some(1),
            cpu_quota: Some(2),
            cpu_shares: Some(3),
            memory_limit: Some(LEAST_MEMORY),
            memory_swap_limit: Some(LEAST_MEMORY + 1),
            oom_score_adj: Some(6),
            cpuset_cpus: "0".to_owned(),
            cpuset_mems: "1".to_owned(),
            hugepage_limits: [("2MB".to_owned(), 7)].into(),
            unified: [("memory.high".to_owned(), "8".to_owned())].into(),
            further: Further {
                memory_reservation: Some(9),
                memory_swappiness: Some(10),
                pids: Some(11),
                realtime_runtime: Some(12),
                realtime_period: Some(13),
            },
        };
        let limits = without_devices(&resources).unwrap();
        assert_eq!(kept(&limits, Some(6)).unwrap(), resources);
        assert_eq!(kept(&oci::LinuxResources::default(), None).unwrap(), Resources::default());
        let mut memory = oci::LinuxMemory::default();
        memory.set_kernel(Some(1));
        let mut limits = limits;
        limits.set_memory(Some(memory));
        assert!(kept(&limits, None).unwrap_err().to_string().starts_with("linux.resources.memory.kernel: "));
    }

    #[test]
    fn refusals_name_the_field_of_the_request() {
        for (theirs, ours) in FIELDS {
            assert_eq!(field(&format!("linux.resources.{theirs}")), format!("linux.resources.{ours}"));
        }
        assert_eq!(field("linux.resources.unified"), "linux.resources.unified");
    }
}
