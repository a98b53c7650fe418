//! The `process` of a specification: who it runs as, with which rights and limits.

use super::build::refuse;
use super::{Capabilities, ProcessPlan, Refusal, ResourceLimit, Scheduling, SeccompFilter, TerminalSize};
use crate::spec::oci;

pub(super) fn read(spec: &oci::Process, seccomp: Option<SeccompFilter>) -> Result<ProcessPlan, Refusal> {
    refuse_what_is_not_done(spec)?;
    let user = spec.user();
    let label = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    Ok(ProcessPlan {
        args: args(spec)?,
        env: environment(spec)?,
        cwd: super::mounts::clean(spec.cwd(), || "process.cwd".to_owned())?,
        uid: user.uid(),
        gid: user.gid(),
        additional_gids: user.additional_gids().clone().unwrap_or_default(),
        umask: user.umask().unwrap_or(0o022),
        capabilities: capabilities(spec)?,
        no_new_privileges: spec.no_new_privileges().unwrap_or(false),
        rlimits: rlimits(spec)?,
        oom_score_adj: oom_score_adj(spec)?,
        terminal: terminal(spec)?,
        seccomp,
        apparmor: label(spec.apparmor_profile()),
        selinux: label(spec.selinux_label()),
        scheduling: Scheduling::read(spec)?,
    })
}

fn refuse_what_is_not_done(spec: &oci::Process) -> Result<(), Refusal> {
    let refused = [
        ("process.commandLine", spec.command_line().is_some()),
        ("process.execCPUAffinity", spec.exec_cpu_affinity().is_some()),
    ];
    match refused.into_iter().find(|(_, present)| *present) {
        Some((field, _)) => Err(refuse(field, "is not supported")),
        None => Ok(()),
    }
}

fn args(spec: &oci::Process) -> Result<Vec<String>, Refusal> {
    let args = spec.args().clone().unwrap_or_default();
    if args.first().is_none_or(String::is_empty) {
        return Err(refuse("process.args", "names no command"));
    }
    match args.iter().position(|arg| arg.contains('\0')) {
        Some(at) => Err(refuse(format!("process.args[{at}]"), "contains a zero byte")),
        None => Ok(args),
    }
}

fn environment(spec: &oci::Process) -> Result<Vec<String>, Refusal> {
    let env = spec.env().clone().unwrap_or_default();
    match env.iter().position(|entry| entry.contains('\0')) {
        Some(at) => Err(refuse(format!("process.env[{at}]"), "contains a zero byte")),
        None => Ok(env),
    }
}

fn oom_score_adj(spec: &oci::Process) -> Result<Option<i32>, Refusal> {
    match spec.oom_score_adj() {
        Some(value) if !(-1000..=1000).contains(&value) => {
            Err(refuse("process.oomScoreAdj", format!("{value} is not from -1000 to 1000")))
        }
        value => Ok(value),
    }
}

fn terminal(spec: &oci::Process) -> Result<Option<TerminalSize>, Refusal> {
    if !spec.terminal().unwrap_or(false) {
        return Ok(None);
    }
    let Some(size) = spec.console_size() else {
        return Ok(Some(TerminalSize::default()));
    };
    let side = |value: u64| {
        u16::try_from(value).map_err(|_| refuse("process.consoleSize", format!("{value} is too large")))
    };
    Ok(Some(TerminalSize { rows: side(size.height())?, columns: side(size.width())? }))
}

fn rlimits(spec: &oci::Process) -> Result<Vec<ResourceLimit>, Refusal> {
    let mut limits: Vec<ResourceLimit> = Vec::new();
    for (at, limit) in spec.rlimits().iter().flatten().enumerate() {
        let field = || format!("process.rlimits[{at}]");
        let (resource, soft, hard) = (resource_number(limit.typ()), limit.soft(), limit.hard());
        if soft > hard {
            return Err(refuse(field(), format!("its soft limit {soft} is above its hard limit {hard}")));
        }
        if limits.iter().any(|known| known.resource == resource) {
            return Err(refuse(field(), "is there twice"));
        }
        limits.push(ResourceLimit { resource, soft, hard });
    }
    Ok(limits)
}

/// The kernel's numbers of asm-generic/resource.h, which x86-64 and arm64 share.
fn resource_number(kind: oci::PosixRlimitType) -> u32 {
    use oci::PosixRlimitType as T;
    match kind {
        T::RlimitCpu => 0,
        T::RlimitFsize => 1,
        T::RlimitData => 2,
        T::RlimitStack => 3,
        T::RlimitCore => 4,
        T::RlimitRss => 5,
        T::RlimitNproc => 6,
        T::RlimitNofile => 7,
        T::RlimitMemlock => 8,
        T::RlimitAs => 9,
        T::RlimitLocks => 10,
        T::RlimitSigpending => 11,
        T::RlimitMsgqueue => 12,
        T::RlimitNice => 13,
        T::RlimitRtprio => 14,
        T::RlimitRttime => 15,
    }
}

fn capabilities(spec: &oci::Process) -> Result<Capabilities, Refusal> {
    let Some(sets) = spec.capabilities() else {
        return Ok(Capabilities::default());
    };
    let mask = |set: &Option<oci::Capabilities>| -> u64 {
        set.iter().flatten().map(|capability| 1u64 << number(*capability)).fold(0, |all, one| all | one)
    };
    let read = Capabilities {
        bounding: mask(sets.bounding()),
        effective: mask(sets.effective()),
        permitted: mask(sets.permitted()),
        ambient: mask(sets.ambient()),
    };
    let within = [
        ("permitted", read.permitted, "bounding", read.bounding),
        ("effective", read.effective, "permitted", read.permitted),
        ("ambient", read.ambient, "permitted", read.permitted),
        // An inheritable capability that is not ambient only serves files that carry it (CVE-2022-24769).
        ("inheritable", mask(sets.inheritable()), "ambient", read.ambient),
    ];
    match within.into_iter().find(|(_, inner, _, outer)| inner & !outer != 0) {
        Some((inner, _, outer, _)) => Err(refuse(
            format!("process.capabilities.{inner}"),
            format!("has capabilities that {outer} lacks"),
        )),
        None => Ok(read),
    }
}

/// The names of capabilities in the order of their numbers (linux/capability.h).
pub(crate) const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The number of the capability with this name, as in "CAP_SYS_ADMIN".
pub fn capability_number(name: &str) -> Option<u32> {
    CAPABILITIES.iter().position(|known| *known == name).and_then(|at| u32::try_from(at).ok())
}

/// The numbers of linux/capability.h.
fn number(capability: oci::Capability) -> u32 {
    use oci::Capability as C;
    match capability {
        C::Chown => 0,
        C::DacOverride => 1,
        C::DacReadSearch => 2,
        C::Fowner => 3,
        C::Fsetid => 4,
        C::Kill => 5,
        C::Setgid => 6,
        C::Setuid => 7,
        C::Setpcap => 8,
        C::LinuxImmutable => 9,
        C::NetBindService => 10,
        C::NetBroadcast => 11,
        C::NetAdmin => 12,
        C::NetRaw => 13,
        C::IpcLock => 14,
        C::IpcOwner => 15,
        C::SysModule => 16,
        C::SysRawio => 17,
        C::SysChroot => 18,
        C::SysPtrace => 19,
        C::SysPacct => 20,
        C::SysAdmin => 21,
        C::SysBoot => 22,
        C::SysNice => 23,
        C::SysResource => 24,
        C::SysTime => 25,
        C::SysTtyConfig => 26,
        C::Mknod => 27,
        C::Lease => 28,
        C::AuditWrite => 29,
        C::AuditControl => 30,
        C::Setfcap => 31,
        C::MacOverride => 32,
        C::MacAdmin => 33,
        C::Syslog => 34,
        C::WakeAlarm => 35,
        C::BlockSuspend => 36,
        C::AuditRead => 37,
        C::Perfmon => 38,
        C::Bpf => 39,
        C::CheckpointRestore => 40,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_their_names() {
        for (at, name) in CAPABILITIES.iter().enumerate() {
            let capability = name.trim_start_matches("CAP_").parse().map(number);
            assert_eq!(capability.ok(), u32::try_from(at).ok(), "{name}");
        }
        assert_eq!(capability_number("CAP_FLY"), None);
        assert_eq!(capability_number("CHOWN"), None);
    }
}
