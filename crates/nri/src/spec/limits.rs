//! Limits, from one form into the other.

use oci_spec::runtime as oci;

use crate::api;
use crate::error::Error;

/// Limits as plugins are told of them.
#[must_use]
pub fn described(limits: &oci::LinuxResources) -> api::LinuxResources {
    let hugepage = |limit: &oci::LinuxHugepageLimit| api::HugepageLimit {
        page_size: limit.page_size().clone(),
        limit: u64::try_from(limit.limit()).unwrap_or(u64::MAX),
    };
    api::LinuxResources {
        memory: limits.memory().as_ref().map(memory),
        cpu: limits.cpu().as_ref().map(cpu),
        hugepage_limits: limits.hugepage_limits().iter().flatten().map(hugepage).collect(),
        unified: limits.unified().clone().unwrap_or_default().into_iter().collect(),
        devices: limits.devices().iter().flatten().map(device_rule).collect(),
        pids: limits.pids().as_ref().map(|pids| api::LinuxPids { limit: pids.limit() }),
        blockio_class: None,
        rdt_class: None,
    }
}

fn memory(limits: &oci::LinuxMemory) -> api::LinuxMemory {
    let signed = |value: Option<i64>| value.map(|value| api::OptionalInt64 { value });
    let is = |value: Option<bool>| value.map(|value| api::OptionalBool { value });
    api::LinuxMemory {
        limit: signed(limits.limit()),
        reservation: signed(limits.reservation()),
        swap: signed(limits.swap()),
        kernel: None,
        kernel_tcp: None,
        swappiness: limits.swappiness().map(|value| api::OptionalUInt64 { value }),
        disable_oom_killer: is(limits.disable_oom_killer()),
        use_hierarchy: is(limits.use_hierarchy()),
    }
}

fn cpu(limits: &oci::LinuxCpu) -> api::LinuxCpu {
    let unsigned = |value: Option<u64>| value.map(|value| api::OptionalUInt64 { value });
    let signed = |value: Option<i64>| value.map(|value| api::OptionalInt64 { value });
    api::LinuxCpu {
        shares: unsigned(limits.shares()),
        quota: signed(limits.quota()),
        period: unsigned(limits.period()),
        realtime_runtime: signed(limits.realtime_runtime()),
        realtime_period: unsigned(limits.realtime_period()),
        cpus: limits.cpus().clone().unwrap_or_default(),
        mems: limits.mems().clone().unwrap_or_default(),
    }
}

fn device_rule(rule: &oci::LinuxDeviceCgroup) -> api::LinuxDeviceCgroup {
    let number = |value: Option<i64>| value.map(|value| api::OptionalInt64 { value });
    api::LinuxDeviceCgroup {
        allow: rule.allow(),
        r#type: rule.typ().map(|kind| kind.as_str().to_owned()).unwrap_or_default(),
        major: number(rule.major()),
        minor: number(rule.minor()),
        access: rule.access().clone().unwrap_or_default(),
    }
}

/// Limits as the specification writes them.
///
/// # Errors
/// [`Error::Unsupported`].
pub fn limits(given: &api::LinuxResources) -> Result<oci::LinuxResources, Error> {
    let mut limits = oci::LinuxResources::default();
    // What the library has for somebody who says nothing is no limit of anybody's.
    limits.set_devices(None);
    overlay(&mut limits, given)?;
    Ok(limits)
}

/// Lays what a message sets over limits.
///
/// # Errors
/// [`Error::Unsupported`].
pub fn overlay(limits: &mut oci::LinuxResources, given: &api::LinuxResources) -> Result<(), Error> {
    refuse_what_is_not_done(given)?;
    if let Some(given) = &given.memory {
        let mut memory = limits.memory().unwrap_or_default();
        over_memory(given, &mut memory);
        limits.set_memory(Some(memory));
    }
    if let Some(given) = &given.cpu {
        let mut cpu = limits.cpu().clone().unwrap_or_default();
        over_cpu(given, &mut cpu);
        limits.set_cpu(Some(cpu));
    }
    if let Some(pids) = &given.pids {
        let mut limit = oci::LinuxPids::default();
        limit.set_limit(pids.limit);
        limits.set_pids(Some(limit));
    }
    over_lists(given, limits)
}

fn over_lists(given: &api::LinuxResources, limits: &mut oci::LinuxResources) -> Result<(), Error> {
    if !given.hugepage_limits.is_empty() {
        let mut pages = limits.hugepage_limits().clone().unwrap_or_default();
        for limit in &given.hugepage_limits {
            pages.retain(|known| *known.page_size() != limit.page_size);
            let mut entry = oci::LinuxHugepageLimit::default();
            entry
                .set_page_size(limit.page_size.clone())
                .set_limit(i64::try_from(limit.limit).unwrap_or(i64::MAX));
            pages.push(entry);
        }
        limits.set_hugepage_limits(Some(pages));
    }
    if !given.unified.is_empty() {
        let mut unified = limits.unified().clone().unwrap_or_default();
        unified.extend(given.unified.clone());
        limits.set_unified(Some(unified));
    }
    if !given.devices.is_empty() {
        let mut rules = limits.devices().clone().unwrap_or_default();
        for (at, rule) in given.devices.iter().enumerate() {
            rules.push(oci_rule(at, rule)?);
        }
        limits.set_devices(Some(rules));
    }
    Ok(())
}

fn oci_rule(at: usize, rule: &api::LinuxDeviceCgroup) -> Result<oci::LinuxDeviceCgroup, Error> {
    let mut entry = oci::LinuxDeviceCgroup::default();
    let kind = match rule.r#type.as_str() {
        "" => None,
        kind => Some(device_type(kind, || format!("linux.resources.devices[{at}].type"))?),
    };
    entry
        .set_allow(rule.allow)
        .set_typ(kind)
        .set_major(rule.major.as_ref().map(|number| number.value))
        .set_minor(rule.minor.as_ref().map(|number| number.value))
        .set_access(Some(rule.access.clone()).filter(|access| !access.is_empty()));
    Ok(entry)
}

/// A kind of device by its letter.
pub(super) fn device_type(kind: &str, field: impl Fn() -> String) -> Result<oci::LinuxDeviceType, Error> {
    kind.parse()
        .map_err(|_| Error::Unsupported { field: field(), why: format!("{kind:?} is no kind of device") })
}

fn refuse_what_is_not_done(given: &api::LinuxResources) -> Result<(), Error> {
    let memory = given.memory.as_ref();
    let class =
        |class: &Option<api::OptionalString>| class.as_ref().is_some_and(|class| !class.value.is_empty());
    let refused = [
        ("linux.resources.blockio_class", class(&given.blockio_class)),
        ("linux.resources.rdt_class", class(&given.rdt_class)),
        ("linux.resources.memory.kernel", memory.is_some_and(|memory| memory.kernel.is_some())),
        ("linux.resources.memory.kernel_tcp", memory.is_some_and(|memory| memory.kernel_tcp.is_some())),
    ];
    super::adjust::refuse(&refused)
}

fn over_memory(given: &api::LinuxMemory, memory: &mut oci::LinuxMemory) {
    let value = |given: &Option<api::OptionalInt64>| given.as_ref().map(|given| given.value);
    let is = |given: &Option<api::OptionalBool>| given.as_ref().map(|given| given.value);
    let known = *memory;
    // A limit of both together that goes with the old limit of memory says nothing beside a new one: it could be below that.
    let swap = if given.limit.is_some() { known.swap().and(value(&given.limit)) } else { known.swap() };
    memory
        .set_limit(value(&given.limit).or(known.limit()))
        .set_reservation(value(&given.reservation).or(known.reservation()))
        .set_swap(value(&given.swap).or(swap))
        .set_swappiness(given.swappiness.as_ref().map(|given| given.value).or(known.swappiness()))
        .set_disable_oom_killer(is(&given.disable_oom_killer).or(known.disable_oom_killer()))
        .set_use_hierarchy(is(&given.use_hierarchy).or(known.use_hierarchy()));
}

fn over_cpu(given: &api::LinuxCpu, cpu: &mut oci::LinuxCpu) {
    let unsigned = |given: &Option<api::OptionalUInt64>| given.as_ref().map(|given| given.value);
    let signed = |given: &Option<api::OptionalInt64>| given.as_ref().map(|given| given.value);
    let set = |given: &String, known: &Option<String>| {
        if given.is_empty() { known.clone() } else { Some(given.clone()) }
    };
    let known = cpu.clone();
    cpu.set_shares(unsigned(&given.shares).or(known.shares()))
        .set_quota(signed(&given.quota).or(known.quota()))
        .set_period(unsigned(&given.period).or(known.period()))
        .set_realtime_runtime(signed(&given.realtime_runtime).or(known.realtime_runtime()))
        .set_realtime_period(unsigned(&given.realtime_period).or(known.realtime_period()))
        .set_cpus(set(&given.cpus, known.cpus()))
        .set_mems(set(&given.mems, known.mems()));
}
