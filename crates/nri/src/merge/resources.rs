//! Limits: which of them a message sets, and laying one message over another.

use std::collections::HashSet;

use super::Claim;
use crate::api::{Field, LinuxCpu, LinuxMemory, LinuxResources};
use crate::error::Error;

/// Claims every limit that a message sets, but for rules of devices, which belong to nobody. One that can't be had leaves the others alone.
///
/// # Errors
/// [`Error::Conflict`].
pub(super) fn claim(given: &LinuxResources, claim: &mut Claim<'_>) -> Result<(), Error> {
    let fields = fields(given);
    let sizes = given.hugepage_limits.iter().map(|limit| (Field::HugepageLimits, &limit.page_size));
    let files = given.unified.keys().map(|file| (Field::CgroupsUnified, file));
    let entries: Vec<_> = sizes.chain(files).collect();
    fields.iter().try_for_each(|field| claim.may_have(*field))?;
    entries.iter().try_for_each(|(field, key)| claim.may_have_entry(*field, key))?;
    fields.iter().try_for_each(|field| claim.field(*field))?;
    entries.iter().try_for_each(|(field, key)| claim.entry(*field, key))
}

/// Those with one value that a message sets.
fn fields(given: &LinuxResources) -> Vec<Field> {
    let (memory, cpu) = (given.memory.unwrap_or_default(), given.cpu.clone().unwrap_or_default());
    let fields = [
        (memory.limit.is_some(), Field::MemLimit),
        (memory.reservation.is_some(), Field::MemReservation),
        (memory.swap.is_some(), Field::MemSwapLimit),
        (memory.kernel.is_some(), Field::MemKernelLimit),
        (memory.kernel_tcp.is_some(), Field::MemTcpLimit),
        (memory.swappiness.is_some(), Field::MemSwappiness),
        (memory.disable_oom_killer.is_some(), Field::MemDisableOomKiller),
        (memory.use_hierarchy.is_some(), Field::MemUseHierarchy),
        (cpu.shares.is_some(), Field::CpuShares),
        (cpu.quota.is_some(), Field::CpuQuota),
        (cpu.period.is_some(), Field::CpuPeriod),
        (cpu.realtime_runtime.is_some(), Field::CpuRealtimeRuntime),
        (cpu.realtime_period.is_some(), Field::CpuRealtimePeriod),
        (!cpu.cpus.is_empty(), Field::CpuSetCpUs),
        (!cpu.mems.is_empty(), Field::CpuSetMems),
        (given.pids.is_some(), Field::PidsLimit),
        (given.blockio_class.is_some(), Field::BlockioClass),
        (given.rdt_class.is_some(), Field::RdtClass),
    ];
    fields.into_iter().filter(|(is_set, _)| *is_set).map(|(_, field)| field).collect()
}

/// Lays what a message sets over another one.
pub(super) fn overlay(given: &LinuxResources, into: &mut LinuxResources) {
    if let Some(memory) = &given.memory {
        over_memory(memory, into.memory.get_or_insert_default());
    }
    if let Some(cpu) = &given.cpu {
        over_cpu(cpu, into.cpu.get_or_insert_default());
    }
    over(&given.pids, &mut into.pids);
    over(&given.blockio_class, &mut into.blockio_class);
    over(&given.rdt_class, &mut into.rdt_class);
    let sizes: HashSet<&str> = given.hugepage_limits.iter().map(|limit| limit.page_size.as_str()).collect();
    into.hugepage_limits.retain(|known| !sizes.contains(known.page_size.as_str()));
    into.hugepage_limits.extend(given.hugepage_limits.iter().cloned());
    into.unified.extend(given.unified.clone());
}

fn over_memory(given: &LinuxMemory, into: &mut LinuxMemory) {
    over(&given.limit, &mut into.limit);
    over(&given.reservation, &mut into.reservation);
    over(&given.swap, &mut into.swap);
    over(&given.kernel, &mut into.kernel);
    over(&given.kernel_tcp, &mut into.kernel_tcp);
    over(&given.swappiness, &mut into.swappiness);
    over(&given.disable_oom_killer, &mut into.disable_oom_killer);
    over(&given.use_hierarchy, &mut into.use_hierarchy);
}

fn over_cpu(given: &LinuxCpu, into: &mut LinuxCpu) {
    over(&given.shares, &mut into.shares);
    over(&given.quota, &mut into.quota);
    over(&given.period, &mut into.period);
    over(&given.realtime_runtime, &mut into.realtime_runtime);
    over(&given.realtime_period, &mut into.realtime_period);
    for (given, into) in [(&given.cpus, &mut into.cpus), (&given.mems, &mut into.mems)] {
        if !given.is_empty() {
            into.clone_from(given);
        }
    }
}

fn over<T: Clone>(given: &Option<T>, into: &mut Option<T>) {
    if given.is_some() {
        into.clone_from(given);
    }
}
