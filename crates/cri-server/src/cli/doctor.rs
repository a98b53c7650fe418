//! `knarr doctor`: what this machine can and cannot do, and why it matters.
//!
//! Each row is an observation of something that knarr uses, made without changing the machine. A row that fails names the
//! consequence; the command fails when something without which no pod runs is missing.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use sandbox::ExternalRuntime;

use crate::config::{CgroupDriver, Config, JOURNALD};

/// How long systemd may take to answer.
const SYSTEMD_PATIENCE: Duration = Duration::from_secs(5);

/// How much a missing thing matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// No pod runs without it.
    Must,
    /// Something is slower or refused without it.
    May,
}

/// One row: what is looked for, how, and what lacks without it.
struct Check {
    what: &'static str,
    need: Need,
    look: fn() -> Result<String, String>,
    without: &'static str,
}

const CHECKS: [Check; 12] = [
    Check {
        what: "kernel",
        need: Need::Must,
        look: kernel,
        without: "kernels before 5.15 lack calls that pods are made with",
    },
    Check { what: "root", need: Need::Must, look: root, without: "namespaces, mounts and cgroups need root" },
    Check { what: "overlay", need: Need::Must, look: overlay, without: "root filesystems are overlays" },
    Check { what: "erofs", need: Need::May, look: erofs, without: "layers are plain directories" },
    Check { what: "namespaces", need: Need::Must, look: namespaces, without: "pods are made of them" },
    Check {
        what: "user namespaces",
        need: Need::May,
        look: user_namespaces,
        without: "pods that ask for one are refused",
    },
    Check { what: "cgroups", need: Need::Must, look: cgroups, without: "limits can't be set" },
    Check {
        what: "device rules",
        need: Need::Must,
        look: device_rules,
        without: "only privileged containers start",
    },
    Check {
        what: "seccomp",
        need: Need::May,
        look: seccomp,
        without: "pods that ask for RuntimeDefault are refused",
    },
    Check {
        what: "AppArmor",
        need: Need::May,
        look: apparmor,
        without: "profiles asked for by name are refused",
    },
    Check { what: "SELinux", need: Need::May, look: selinux, without: "labels asked for are refused" },
    Check { what: "supervisor", need: Need::Must, look: supervisor, without: "every pod has one" },
];

/// Prints the table. `Ok(false)` when something that must be there is missing.
///
/// # Errors
/// For the person at the terminal: a configuration that can't be used among them.
pub(crate) fn run(config: &Config) -> Result<bool, Box<dyn std::error::Error>> {
    let handlers = config.handlers()?;
    let mut out = io::stdout().lock();
    let mut healthy = true;
    for check in CHECKS.iter().chain([&cgroup_driver(config)]).chain(journald(config).as_ref()) {
        match (check.look)() {
            Ok(seen) => writeln!(out, "ok       {:<16} {seen}", check.what)?,
            Err(why) => {
                healthy &= check.need == Need::May;
                let mark = if check.need == Need::Must { "MISSING" } else { "without" };
                writeln!(out, "{mark}  {:<16} {why}: {}", check.what, check.without)?;
            }
        }
    }
    for (name, runtime) in handlers.external() {
        let what = format!("handler {name}");
        match external(runtime) {
            Ok(seen) => writeln!(out, "ok       {what:<16} {seen}")?,
            Err(why) => writeln!(out, "without  {what:<16} {why}: pods that ask for it are refused")?,
        }
    }
    registries(config, &mut out)?;
    Ok(writable_layers(config, &mut out)? && healthy)
}

/// Whether containers can be held to what they may write, when they are to be.
fn writable_layers(config: &Config, out: &mut impl Write) -> io::Result<bool> {
    let Some(limit) = config.containers.writable() else { return Ok(true) };
    match limit.check(&config.root.join("containers")) {
        Ok(()) => writeln!(out, "ok       {:<16} projects of xfs", "writable layers")?,
        Err(why) => {
            let why = crate::chain(&why);
            writeln!(
                out,
                "MISSING  {:<16} {why}: the daemon doesn't start with such limits",
                "writable layers"
            )?;
            return Ok(false);
        }
    }
    Ok(true)
}

/// What hosts.toml files and credentials say, before a pull finds it out at night.
fn registries(config: &Config, out: &mut impl Write) -> io::Result<()> {
    let (count, problems) = image_service::registry_problems(&crate::serve::image_config(config));
    if problems.is_empty() {
        let dir = config.registry_config_dir.display();
        writeln!(out, "ok       {:<16} {count} configured in {dir}", "registries")?;
    }
    for problem in problems {
        writeln!(out, "without  {:<16} {}: pulls that need it fail", "registries", crate::chain(&problem))?;
    }
    Ok(())
}

fn external(runtime: &ExternalRuntime) -> Result<String, String> {
    let executor = crate::executor().map_err(|error| error.to_string())?;
    let features = executor.block_on(sandbox::external::ask(runtime))?;
    let can = if features.recursive_read_only_mounts { "" } else { "no " };
    Ok(format!("{}: {can}recursive read-only mounts, no user namespaces", runtime.path.display()))
}

/// Who makes cgroups, by the configuration. systemd is looked for in any case.
fn cgroup_driver(config: &Config) -> Check {
    let (what, need, without) = match config.cgroup_driver {
        CgroupDriver::Cgroupfs => (
            "driver cgroupfs",
            Need::May,
            "cgroup_driver can't be systemd (it is cgroupfs, which needs none)",
        ),
        CgroupDriver::Systemd => ("driver systemd", Need::Must, "the cgroups of pods are its scopes"),
    };
    Check { what, need, look: systemd, without }
}

/// The journal that is to have a copy of logs, when one is asked for.
fn journald(config: &Config) -> Option<Check> {
    let without = "logs.journald copies nothing; logs themselves are written";
    config.logs.journald.then_some(Check { what: "journald", need: Need::May, look: journal, without })
}

fn journal() -> Result<String, String> {
    match Path::new(JOURNALD).exists() {
        true => Ok(format!("takes entries at {JOURNALD}")),
        false => Err(format!("\"{JOURNALD}\" is not there")),
    }
}

fn systemd() -> Result<String, String> {
    let executor = crate::executor().map_err(|error| error.to_string())?;
    let manager = systemd::Manager::new(SYSTEMD_PATIENCE);
    let scopes = executor.block_on(manager.list("knarr-*.scope")).map_err(|error| crate::chain(&error))?;
    Ok(format!("systemd answers, {} scopes of pods", scopes.len()))
}

fn kernel() -> Result<String, String> {
    let release = read("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= (5, 15) { Ok(release) } else { Err(format!("is {release}")) }
}

fn root() -> Result<String, String> {
    let status = read("/proc/self/status")?;
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("").trim().to_owned();
    let uid = field("Uid:").split_whitespace().nth(1).unwrap_or("?").to_owned();
    if uid == "0" {
        Ok(format!("capabilities {}", field("CapEff:")))
    } else {
        Err(format!("effective uid is {uid}"))
    }
}

fn overlay() -> Result<String, String> {
    filesystem("overlay")
}

fn erofs() -> Result<String, String> {
    filesystem("erofs")
}

fn filesystem(name: &str) -> Result<String, String> {
    let known = read("/proc/filesystems")?;
    let found = known.lines().any(|line| line.split_whitespace().next_back() == Some(name));
    if found {
        Ok("known to the kernel".into())
    } else {
        Err("the kernel doesn't know it (a module not loaded?)".into())
    }
}

fn namespaces() -> Result<String, String> {
    let wanted = ["mnt", "net", "pid", "ipc", "uts", "cgroup"];
    let missing: Vec<&str> =
        wanted.into_iter().filter(|kind| !Path::new("/proc/self/ns").join(kind).exists()).collect();
    if missing.is_empty() { Ok(wanted.join(" ")) } else { Err(format!("no {}", missing.join(" "))) }
}

fn user_namespaces() -> Result<String, String> {
    let most = read("/proc/sys/user/max_user_namespaces")?;
    if most == "0" {
        return Err("user.max_user_namespaces is 0".into());
    }
    let supervisor = crate::beside("knarr-supervisor").map_err(|error| error.to_string())?;
    let executor = crate::executor().map_err(|error| error.to_string())?;
    // Where the default configuration keeps the files of pods, and their roots.
    let directories = [Path::new("/run"), Path::new("/var/lib")];
    executor.block_on(sandbox::try_user_namespaces(&supervisor, &directories))?;
    Ok(format!("up to {most}, ids of files can be mapped"))
}

fn cgroups() -> Result<String, String> {
    if let Ok(controllers) = read("/sys/fs/cgroup/cgroup.controllers") {
        return Ok(format!("v2: {controllers}"));
    }
    let present: Vec<&str> = ["cpu", "cpuset", "memory", "pids", "devices", "freezer", "unified"]
        .into_iter()
        .filter(|name| Path::new("/sys/fs/cgroup").join(name).is_dir())
        .collect();
    if present.contains(&"memory") {
        Ok(format!("v1: {}", present.join(" ")))
    } else {
        Err(format!("no usable hierarchy at /sys/fs/cgroup ({})", present.join(" ")))
    }
}

fn device_rules() -> Result<String, String> {
    sandbox::try_device_rules().map(str::to_owned)
}

fn seccomp() -> Result<String, String> {
    read("/proc/sys/kernel/seccomp/actions_avail")
}

fn apparmor() -> Result<String, String> {
    sandbox::apparmor_of_host()
}

fn selinux() -> Result<String, String> {
    sandbox::selinux_of_host()
}

fn supervisor() -> Result<String, String> {
    let path = crate::beside("knarr-supervisor").map_err(|error| error.to_string())?;
    let found = fs::metadata(&path).is_ok_and(|meta| meta.is_file());
    if found { Ok(path.display().to_string()) } else { Err(format!("no \"{}\"", path.display())) }
}

fn read(path: &str) -> Result<String, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    Ok(text.trim().to_owned())
}
