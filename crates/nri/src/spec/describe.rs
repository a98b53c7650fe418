//! What a specification says of a container, in the words of plugins.

use oci_spec::runtime as oci;
use serde::Serialize;

use super::limits::described;
use crate::api;

/// Fills in what a specification says of a container; the rest (who it is, its state, its image) is its caller's.
pub fn container(spec: &oci::Spec, into: &mut api::Container) {
    into.mounts = spec.mounts().iter().flatten().map(mount).collect();
    into.hooks = spec.hooks().as_ref().map(hooks);
    into.annotations.extend(spec.annotations().clone().unwrap_or_default());
    let mut linux = spec.linux().as_ref().map(linux).unwrap_or_default();
    if let Some(process) = spec.process() {
        into.args = process.args().clone().unwrap_or_default();
        into.env = process.env().clone().unwrap_or_default();
        into.rlimits = process.rlimits().iter().flatten().map(rlimit).collect();
        let user = process.user();
        into.user = Some(api::User {
            uid: user.uid(),
            gid: user.gid(),
            additional_gids: user.additional_gids().clone().unwrap_or_default(),
        });
        linux.oom_score_adj = process.oom_score_adj().map(|value| api::OptionalInt { value: value.into() });
        linux.io_priority = process.io_priority().as_ref().map(io_priority);
        linux.scheduler = process.scheduler().as_ref().map(scheduler);
    }
    linux.seccomp_profile = into.linux.take().and_then(|known| known.seccomp_profile);
    into.linux = Some(linux);
}

/// Namespaces by their names.
#[must_use]
pub fn namespaces(all: &[oci::LinuxNamespace]) -> Vec<api::LinuxNamespace> {
    let one = |namespace: &oci::LinuxNamespace| api::LinuxNamespace {
        r#type: word(&namespace.typ()),
        path: namespace.path().as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
    };
    all.iter().map(one).collect()
}

/// The name that the specification has for a value.
pub(super) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

fn mount(mount: &oci::Mount) -> api::Mount {
    api::Mount {
        destination: mount.destination().display().to_string(),
        r#type: mount.typ().clone().unwrap_or_default(),
        source: mount.source().as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        options: mount.options().clone().unwrap_or_default(),
    }
}

fn hooks(hooks: &oci::Hooks) -> api::Hooks {
    let list = |hooks: &Option<Vec<oci::Hook>>| hooks.iter().flatten().map(hook).collect();
    let prestart = list(hooks.prestart());
    api::Hooks {
        prestart,
        create_runtime: list(hooks.create_runtime()),
        create_container: list(hooks.create_container()),
        start_container: list(hooks.start_container()),
        poststart: list(hooks.poststart()),
        poststop: list(hooks.poststop()),
    }
}

fn hook(hook: &oci::Hook) -> api::Hook {
    api::Hook {
        path: hook.path().display().to_string(),
        args: hook.args().clone().unwrap_or_default(),
        env: hook.env().clone().unwrap_or_default(),
        timeout: hook.timeout().map(|value| api::OptionalInt { value }),
    }
}

fn rlimit(limit: &oci::PosixRlimit) -> api::PosixRlimit {
    api::PosixRlimit { r#type: word(&limit.typ()), hard: limit.hard(), soft: limit.soft() }
}

fn linux(linux: &oci::Linux) -> api::LinuxContainer {
    api::LinuxContainer {
        namespaces: linux.namespaces().as_deref().map(namespaces).unwrap_or_default(),
        devices: linux.devices().iter().flatten().map(device).collect(),
        resources: linux.resources().as_ref().map(described),
        cgroups_path: linux
            .cgroups_path()
            .as_ref()
            .map(|path| path.display().to_string())
            .unwrap_or_default(),
        seccomp_policy: linux.seccomp().as_ref().map(seccomp),
        sysctl: linux.sysctl().clone().unwrap_or_default().into_iter().collect(),
        ..api::LinuxContainer::default()
    }
}

fn device(device: &oci::LinuxDevice) -> api::LinuxDevice {
    let number = |value: Option<u32>| value.map(|value| api::OptionalUInt32 { value });
    api::LinuxDevice {
        path: device.path().display().to_string(),
        r#type: device.typ().as_str().to_owned(),
        major: device.major(),
        minor: device.minor(),
        file_mode: device.file_mode().map(|value| api::OptionalFileMode { value }),
        uid: number(device.uid()),
        gid: number(device.gid()),
    }
}

fn seccomp(policy: &oci::LinuxSeccomp) -> api::LinuxSeccomp {
    let number = |value: Option<u32>| value.map(|value| api::OptionalUInt32 { value });
    let argument = |argument: &oci::LinuxSeccompArg| api::LinuxSeccompArg {
        index: u32::try_from(argument.index()).unwrap_or(u32::MAX),
        value: argument.value(),
        value_two: argument.value_two().unwrap_or(0),
        op: word(&argument.op()),
    };
    let syscall = |call: &oci::LinuxSyscall| api::LinuxSyscall {
        names: call.names().clone(),
        action: word(&call.action()),
        errno_ret: number(call.errno_ret()),
        args: call.args().iter().flatten().map(argument).collect(),
    };
    api::LinuxSeccomp {
        default_action: word(&policy.default_action()),
        default_errno: number(policy.default_errno_ret()),
        architectures: policy.architectures().iter().flatten().map(word).collect(),
        flags: policy.flags().iter().flatten().map(word).collect(),
        listener_path: policy
            .listener_path()
            .as_ref()
            .map(|path| path.display().to_string())
            .unwrap_or_default(),
        listener_metadata: policy.listener_metadata().clone().unwrap_or_default(),
        syscalls: policy.syscalls().iter().flatten().map(syscall).collect(),
    }
}

fn io_priority(priority: &oci::LinuxIOPriority) -> api::LinuxIoPriority {
    let class = match priority.class() {
        oci::IOPriorityClass::IoprioClassRt => api::IoPrioClass::IoprioClassRt,
        oci::IOPriorityClass::IoprioClassBe => api::IoPrioClass::IoprioClassBe,
        oci::IOPriorityClass::IoprioClassIdle => api::IoPrioClass::IoprioClassIdle,
    };
    let priority = i32::try_from(priority.priority()).unwrap_or_default();
    api::LinuxIoPriority { class: class as i32, priority }
}

fn scheduler(given: &oci::Scheduler) -> api::LinuxScheduler {
    let flag = |flag: &oci::LinuxSchedulerFlag| super::adjust::FLAGS.iter().find(|(_, oci)| oci == flag);
    let policy = super::adjust::POLICIES.iter().find(|(_, oci)| oci == given.policy());
    api::LinuxScheduler {
        policy: policy.map_or(0, |(ours, _)| *ours as i32),
        nice: given.nice().unwrap_or(0),
        priority: given.priority().unwrap_or(0),
        flags: given.flags().iter().flatten().filter_map(flag).map(|(ours, _)| *ours as i32).collect(),
        runtime: given.runtime().unwrap_or(0),
        deadline: given.deadline().unwrap_or(0),
        period: given.period().unwrap_or(0),
    }
}
