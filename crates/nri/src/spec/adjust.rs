//! What an adjustment does to a specification.
//!
//! | part | done |
//! |---|---|
//! | annotations, variables, sysctls | set, or taken away |
//! | mounts, devices, namespaces | replaced by destination, path or type, added, or taken away; mounts are put in the order of their depth |
//! | arguments, seccomp policy, scheduler, IO priority, OOM score, limits | set |
//! | hooks, rules for devices | added |
//! | resource limits of processes | replaced by type, added |
//! | CDI devices | not here: the caller looks them up |
//! | cgroups path, network devices, RDT, memory policy, classes of block IO and RDT | refused by name |

use std::path::{Path, PathBuf};

use oci::{LinuxSchedulerFlag as OciFlag, LinuxSchedulerPolicy as OciPolicy};
use oci_spec::runtime as oci;

use super::limits;
use crate::api::{self, LinuxSchedulerFlag as Flag, LinuxSchedulerPolicy as Policy};
use crate::error::Error;

pub(super) const POLICIES: [(Policy, OciPolicy); 7] = [
    (Policy::SchedOther, OciPolicy::SchedOther),
    (Policy::SchedFifo, OciPolicy::SchedFifo),
    (Policy::SchedRr, OciPolicy::SchedRr),
    (Policy::SchedBatch, OciPolicy::SchedBatch),
    (Policy::SchedIso, OciPolicy::SchedIso),
    (Policy::SchedIdle, OciPolicy::SchedIdle),
    (Policy::SchedDeadline, OciPolicy::SchedDeadline),
];

pub(super) const FLAGS: [(Flag, OciFlag); 7] = [
    (Flag::SchedFlagResetOnFork, OciFlag::SchedResetOnFork),
    (Flag::SchedFlagReclaim, OciFlag::SchedFlagReclaim),
    (Flag::SchedFlagDlOverrun, OciFlag::SchedFlagDLOverrun),
    (Flag::SchedFlagKeepPolicy, OciFlag::SchedFlagKeepPolicy),
    (Flag::SchedFlagKeepParams, OciFlag::SchedFlagKeepParams),
    (Flag::SchedFlagUtilClampMin, OciFlag::SchedFlagUtilClampMin),
    (Flag::SchedFlagUtilClampMax, OciFlag::SchedFlagUtilClampMax),
];

/// Carries an adjustment over into a specification.
///
/// # Errors
/// [`Error::Unsupported`] with the field.
pub fn adjust(spec: &mut oci::Spec, adjust: &api::ContainerAdjustment) -> Result<(), Error> {
    let mut annotations = spec.annotations().clone().unwrap_or_default();
    entries(&adjust.annotations, &mut annotations);
    spec.set_annotations(Some(annotations));
    mounts(spec, &adjust.mounts);
    if let Some(added) = &adjust.hooks {
        let mut hooks = spec.hooks().clone().unwrap_or_default();
        add_hooks(&mut hooks, added);
        spec.set_hooks(Some(hooks).filter(|hooks| *hooks != oci::Hooks::default()));
    }
    let mut process = spec.process().clone().unwrap_or_default();
    of_process(&mut process, adjust)?;
    if let Some(given) = &adjust.linux {
        refuse_what_is_not_done(given)?;
        linux_of_process(&mut process, given)?;
        let mut linux = spec.linux().clone().unwrap_or_default();
        of_linux(&mut linux, given)?;
        spec.set_linux(Some(linux));
    }
    spec.set_process(Some(process));
    Ok(())
}

/// Refuses the first field that is asked for and not done.
pub(super) fn refuse(fields: &[(&str, bool)]) -> Result<(), Error> {
    match fields.iter().find(|(_, is_asked)| *is_asked) {
        Some((field, _)) => {
            Err(Error::Unsupported { field: (*field).to_owned(), why: "is not supported".to_owned() })
        }
        None => Ok(()),
    }
}

fn refuse_what_is_not_done(given: &api::LinuxContainerAdjustment) -> Result<(), Error> {
    refuse(&[
        ("linux.cgroups_path", !given.cgroups_path.is_empty()),
        ("linux.net_devices", given.net_devices.keys().any(|key| api::removed(key).is_none())),
        ("linux.rdt", given.rdt.as_ref().is_some_and(|rdt| !rdt.remove)),
        ("linux.memory_policy", given.memory_policy.is_some()),
    ])
}

/// Sets what has no mark of removal, and takes away what has one.
fn entries(
    given: &std::collections::BTreeMap<String, String>,
    into: &mut std::collections::HashMap<String, String>,
) {
    for key in given.keys().filter_map(|key| api::removed(key)) {
        into.remove(key);
    }
    let set = given.iter().filter(|(key, _)| api::removed(key).is_none());
    into.extend(set.map(|(key, value)| (key.clone(), value.clone())));
}

fn mounts(spec: &mut oci::Spec, given: &[api::Mount]) {
    if given.is_empty() {
        return;
    }
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for mount in given {
        let removed = api::removed(&mount.destination);
        let destination = Path::new(removed.unwrap_or(&mount.destination));
        // Compared by their components: a slash at the end is none.
        mounts.retain(|known| known.destination() != destination);
        if removed.is_none() {
            let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
            let mut entry = oci::Mount::default();
            entry
                .set_destination(destination.to_owned())
                .set_typ(text(&mount.r#type))
                .set_source(text(&mount.source).map(PathBuf::from))
                .set_options(Some(mount.options.clone()).filter(|options| !options.is_empty()));
            mounts.push(entry);
        }
    }
    // One that is mounted into another one comes after it; those of the same depth stay as they are.
    mounts.sort_by_key(|mount| mount.destination().components().count());
    spec.set_mounts(Some(mounts));
}

fn add_hooks(into: &mut oci::Hooks, added: &api::Hooks) {
    let list = |known: &Option<Vec<oci::Hook>>, added: &[api::Hook]| {
        let all: Vec<_> = known.iter().flatten().cloned().chain(added.iter().map(hook)).collect();
        Some(all).filter(|all| !all.is_empty())
    };
    let prestart = list(into.prestart(), &added.prestart);
    into.set_prestart(prestart);
    into.set_create_runtime(list(into.create_runtime(), &added.create_runtime));
    into.set_create_container(list(into.create_container(), &added.create_container));
    into.set_start_container(list(into.start_container(), &added.start_container));
    into.set_poststart(list(into.poststart(), &added.poststart));
    into.set_poststop(list(into.poststop(), &added.poststop));
}

fn hook(hook: &api::Hook) -> oci::Hook {
    let list = |list: &Vec<String>| Some(list.clone()).filter(|list| !list.is_empty());
    let mut entry = oci::Hook::default();
    entry
        .set_path(PathBuf::from(&hook.path))
        .set_args(list(&hook.args))
        .set_env(list(&hook.env))
        .set_timeout(hook.timeout.as_ref().map(|timeout| timeout.value));
    entry
}

fn of_process(process: &mut oci::Process, adjust: &api::ContainerAdjustment) -> Result<(), Error> {
    if !adjust.args.is_empty() {
        process.set_args(Some(adjust.args.clone()));
    }
    let mut variables = process.env().clone().unwrap_or_default();
    adjust.env.iter().for_each(|given| variable(given, &mut variables));
    process.set_env(Some(variables));
    let mut limits = process.rlimits().clone().unwrap_or_default();
    for (at, limit) in adjust.rlimits.iter().enumerate() {
        let unknown = || Error::Unsupported {
            field: format!("rlimits[{at}].type"),
            why: format!("{:?} is no limit", limit.r#type),
        };
        let kind: oci::PosixRlimitType = limit.r#type.parse().map_err(|_| unknown())?;
        limits.retain(|known| known.typ() != kind);
        let built = oci::PosixRlimitBuilder::default().typ(kind).hard(limit.hard).soft(limit.soft).build();
        limits.push(built.map_err(|_| unknown())?);
    }
    if !limits.is_empty() {
        process.set_rlimits(Some(limits));
    }
    Ok(())
}

/// In the place of one of the same name, or at the end.
fn variable(given: &api::KeyValue, variables: &mut Vec<String>) {
    let removed = api::removed(&given.key);
    let key = removed.unwrap_or(&given.key);
    let is_same = |known: &String| known.split('=').next() == Some(key);
    match (removed, variables.iter().position(is_same)) {
        (Some(_), _) => variables.retain(|known| !is_same(known)),
        (None, Some(at)) => variables[at] = format!("{key}={}", given.value),
        (None, None) => variables.push(format!("{key}={}", given.value)),
    }
}

fn linux_of_process(process: &mut oci::Process, given: &api::LinuxContainerAdjustment) -> Result<(), Error> {
    if let Some(score) = &given.oom_score_adj {
        let why = || format!("{} is not from -1000 to 1000", score.value);
        let unsupported = |_| Error::Unsupported { field: "linux.oom_score_adj".into(), why: why() };
        process.set_oom_score_adj(Some(i32::try_from(score.value).map_err(unsupported)?));
    }
    if let Some(priority) = &given.io_priority {
        process.set_io_priority(io_priority(priority)?);
    }
    if let Some(given) = &given.scheduler {
        process.set_scheduler(scheduler(given)?);
    }
    Ok(())
}

fn io_priority(given: &api::LinuxIoPriority) -> Result<Option<oci::LinuxIOPriority>, Error> {
    let class = match api::IoPrioClass::try_from(given.class) {
        Ok(api::IoPrioClass::IoprioClassNone) => return Ok(None),
        Ok(api::IoPrioClass::IoprioClassRt) => oci::IOPriorityClass::IoprioClassRt,
        Ok(api::IoPrioClass::IoprioClassBe) => oci::IOPriorityClass::IoprioClassBe,
        Ok(api::IoPrioClass::IoprioClassIdle) => oci::IOPriorityClass::IoprioClassIdle,
        Err(unknown) => {
            let why = unknown.to_string();
            return Err(Error::Unsupported { field: "linux.io_priority.class".into(), why });
        }
    };
    let built = oci::LinuxIOPriorityBuilder::default().class(class).priority(given.priority).build();
    Ok(built.ok())
}

fn scheduler(given: &api::LinuxScheduler) -> Result<Option<oci::Scheduler>, Error> {
    let unknown = |part: &str, number: i32| Error::Unsupported {
        field: format!("linux.scheduler.{part}"),
        why: format!("{number} is not known"),
    };
    if given.policy() == Policy::SchedNone && given.policy == 0 {
        return Ok(None);
    }
    let policy = POLICIES.iter().find(|(ours, _)| *ours as i32 == given.policy);
    let (_, policy) = policy.ok_or_else(|| unknown("policy", given.policy))?;
    let flag = |number: &i32| {
        let known = FLAGS.iter().find(|(ours, _)| *ours as i32 == *number);
        known.map(|(_, oci)| *oci).ok_or_else(|| unknown("flags", *number))
    };
    let flags: Vec<OciFlag> = given.flags.iter().map(flag).collect::<Result<_, _>>()?;
    let mut scheduler = oci::Scheduler::default();
    scheduler
        .set_policy(*policy)
        .set_nice(Some(given.nice))
        .set_priority(Some(given.priority))
        .set_flags(Some(flags))
        .set_runtime(Some(given.runtime))
        .set_deadline(Some(given.deadline))
        .set_period(Some(given.period));
    Ok(Some(scheduler))
}

fn of_linux(linux: &mut oci::Linux, given: &api::LinuxContainerAdjustment) -> Result<(), Error> {
    let mut resources = linux.resources().clone().unwrap_or_default();
    if let Some(given) = &given.resources {
        limits::overlay(&mut resources, given)?;
    }
    devices(linux, &mut resources, &given.devices)?;
    linux.set_resources(Some(resources));
    namespaces(linux, &given.namespaces)?;
    let mut sysctls = linux.sysctl().clone().unwrap_or_default();
    entries(&given.sysctl, &mut sysctls);
    linux.set_sysctl(Some(sysctls).filter(|sysctls| !sysctls.is_empty()));
    if let Some(policy) = &given.seccomp_policy {
        linux.set_seccomp(Some(seccomp(policy)?));
    }
    Ok(())
}

/// A device comes with the right to use it. The rule of one that is taken away stays, as with other runtimes: the same device may be there
/// by another path, or be one that every container has. Whoever has CAP_MKNOD can make its node again.
fn devices(
    linux: &mut oci::Linux,
    resources: &mut oci::LinuxResources,
    given: &[api::LinuxDevice],
) -> Result<(), Error> {
    let mut devices = linux.devices().clone().unwrap_or_default();
    let mut rules = resources.devices().clone().unwrap_or_default();
    for (at, device) in given.iter().enumerate() {
        let removed = api::removed(&device.path);
        let path = Path::new(removed.unwrap_or(&device.path));
        devices.retain(|known| known.path() != path);
        if removed.is_some() {
            continue;
        }
        let kind = limits::device_type(&device.r#type, || format!("linux.devices[{at}].type"))?;
        let (mut entry, mut rule) = (oci::LinuxDevice::default(), oci::LinuxDeviceCgroup::default());
        entry
            .set_path(path.to_owned())
            .set_typ(kind)
            .set_major(device.major)
            .set_minor(device.minor)
            .set_file_mode(device.file_mode.as_ref().map(|mode| mode.value))
            .set_uid(device.uid.as_ref().map(|uid| uid.value))
            .set_gid(device.gid.as_ref().map(|gid| gid.value));
        rule.set_allow(true)
            .set_typ(Some(kind))
            .set_major(Some(device.major))
            .set_minor(Some(device.minor))
            .set_access(Some(access(device)));
        devices.push(entry);
        rules.push(rule);
    }
    linux.set_devices(Some(devices));
    resources.set_devices(Some(rules));
    Ok(())
}

/// What may be done with a device: what the bits of its mode allow to anybody, and everything for one without a mode.
fn access(device: &api::LinuxDevice) -> String {
    let Some(mode) = &device.file_mode else { return "rwm".to_owned() };
    let mut access = String::new();
    if mode.value & 0o444 != 0 {
        access.push('r');
    }
    if mode.value & 0o222 != 0 {
        access.push('w');
    }
    access + "m"
}

fn namespaces(linux: &mut oci::Linux, given: &[api::LinuxNamespace]) -> Result<(), Error> {
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    for (at, namespace) in given.iter().enumerate() {
        let removed = api::removed(&namespace.r#type);
        let name = removed.unwrap_or(&namespace.r#type);
        let unknown = |_| Error::Unsupported {
            field: format!("linux.namespaces[{at}].type"),
            why: format!("{name:?} is not known"),
        };
        let kind = oci::LinuxNamespaceType::try_from(name).map_err(unknown)?;
        namespaces.retain(|known| known.typ() != kind);
        if removed.is_none() {
            let mut entry = oci::LinuxNamespace::default();
            let path = Some(PathBuf::from(&namespace.path)).filter(|path| path.as_os_str() != "");
            entry.set_typ(kind).set_path(path);
            namespaces.push(entry);
        }
    }
    linux.set_namespaces(Some(namespaces));
    Ok(())
}

/// By way of the specification's own form, which knows the names.
fn seccomp(policy: &api::LinuxSeccomp) -> Result<oci::LinuxSeccomp, Error> {
    use serde_json::json;
    let argument = |argument: &api::LinuxSeccompArg| json!({"index": argument.index, "value": argument.value, "valueTwo": argument.value_two, "op": argument.op});
    let syscall = |call: &api::LinuxSyscall| {
        let args: Vec<_> = call.args.iter().map(argument).collect();
        let errno = call.errno_ret.as_ref().map(|errno| errno.value);
        json!({"names": call.names, "action": call.action, "errnoRet": errno, "args": args})
    };
    let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let value = json!({
        "defaultAction": policy.default_action,
        "defaultErrnoRet": policy.default_errno.as_ref().map(|errno| errno.value),
        "architectures": policy.architectures,
        "flags": policy.flags,
        "listenerPath": text(&policy.listener_path),
        "listenerMetadata": text(&policy.listener_metadata),
        "syscalls": policy.syscalls.iter().map(syscall).collect::<Vec<_>>(),
    });
    serde_json::from_value(value)
        .map_err(|error| Error::Unsupported { field: "linux.seccomp_policy".into(), why: error.to_string() })
}
