//! The kernel and what of it pods are made of; the supervisor's program; the clock.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::finding::{Finding, may, must};
use super::{Subject, read};

/// The oldest kernel: mount_setattr(2) and idmapped mounts are there, and cgroup.kill.
const OLDEST: (u32, u32) = (5, 15);

/// 2025-01-01: no clock that is right says less.
const LONG_AGO: Duration = Duration::from_secs(1_735_689_600);

pub(super) fn look(_: &Subject<'_>) -> Vec<Finding> {
    vec![
        Finding::of(
            "kernel",
            kernel(),
            must("kernels before 5.15 lack calls that pods are made with", "install Linux 5.15 or newer"),
        ),
        Finding::of(
            "root",
            root(),
            must("namespaces, mounts and cgroups need root", "run it as root: sudo knarr doctor"),
        ),
        Finding::of(
            "overlay",
            filesystem("overlay"),
            must("root filesystems are overlays", "modprobe overlay"),
        ),
        Finding::of("erofs", filesystem("erofs"), may("layers are plain directories", "modprobe erofs")),
        Finding::of(
            "namespaces",
            namespaces(),
            must("pods are made of them", "use a kernel with CONFIG_NAMESPACES and all kinds below it"),
        ),
        user_namespaces(),
        Finding::of(
            "seccomp",
            read("/proc/sys/kernel/seccomp/actions_avail"),
            may("pods that ask for RuntimeDefault are refused", "use a kernel with CONFIG_SECCOMP_FILTER"),
        ),
        Finding::of(
            "supervisor",
            supervisor(),
            must("every pod has one", "install knarr-supervisor in the directory of knarr"),
        ),
        Finding::of(
            "clock",
            clock(),
            may(
                "certificates of registries count as not valid yet",
                "set the clock: timedatectl set-ntp true",
            ),
        ),
    ]
}

fn kernel() -> Result<String, String> {
    let release = read("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= OLDEST { Ok(release) } else { Err(format!("is {release}")) }
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

fn filesystem(name: &str) -> Result<String, String> {
    let known = read("/proc/filesystems")?;
    let found = known.lines().any(|line| line.split_whitespace().next_back() == Some(name));
    if found {
        Ok("known to the kernel".into())
    } else if module(name) {
        Ok("a module that the kernel loads at the first use".into())
    } else {
        Err("the kernel doesn't know it, and has no module of that name".into())
    }
}

/// Whether the running kernel has a module, by depmod's list of them (modules.dep(5)).
fn module(name: &str) -> bool {
    let Ok(release) = read("/proc/sys/kernel/osrelease") else { return false };
    let list = read(&format!("/lib/modules/{release}/modules.dep")).unwrap_or_default();
    list.lines().filter_map(|line| line.split(':').next()).any(|path| is_module(path, name))
}

/// Files of modules may be compressed: `overlay.ko`, `overlay.ko.xz`.
fn is_module(path: &str, name: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.strip_prefix(name).is_some_and(|rest| rest == ".ko" || rest.starts_with(".ko."))
}

fn namespaces() -> Result<String, String> {
    let wanted = ["mnt", "net", "pid", "ipc", "uts", "cgroup"];
    let missing: Vec<&str> =
        wanted.into_iter().filter(|kind| !Path::new("/proc/self/ns").join(kind).exists()).collect();
    if missing.is_empty() { Ok(wanted.join(" ")) } else { Err(format!("no {}", missing.join(" "))) }
}

fn user_namespaces() -> Finding {
    let (what, why) = ("user namespaces", "pods that ask for one are refused");
    let most = read("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    if most == "0" {
        let seen = "user.max_user_namespaces is 0";
        return Finding::lacks(what, seen, may(why, "sysctl -w user.max_user_namespaces=15000"));
    }
    let tried = try_them().map(|()| format!("up to {most}, ids of files can be mapped"));
    let remedy =
        "put root and state on a file system that can map ids (ext4, xfs, btrfs, tmpfs since Linux 6.3)";
    Finding::of(what, tried, may(why, remedy))
}

fn try_them() -> Result<(), String> {
    let supervisor = crate::beside("knarr-supervisor").map_err(|error| error.to_string())?;
    let executor = crate::executor().map_err(|error| error.to_string())?;
    // Where the default configuration keeps the files of pods, and their roots.
    let directories = [Path::new("/run"), Path::new("/var/lib")];
    executor.block_on(sandbox::try_user_namespaces(&supervisor, &directories))
}

fn supervisor() -> Result<String, String> {
    let path = crate::beside("knarr-supervisor").map_err(|error| error.to_string())?;
    let found = std::fs::metadata(&path).is_ok_and(|meta| meta.is_file());
    if found { Ok(path.display().to_string()) } else { Err(format!("no \"{}\"", path.display())) }
}

fn clock() -> Result<String, String> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seen = format!("{} seconds since 1970", since.as_secs());
    if since > LONG_AGO { Ok(seen) } else { Err(seen) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_told_by_the_name_of_its_file() {
        assert!(is_module("kernel/fs/overlayfs/overlay.ko.xz", "overlay"));
        assert!(is_module("kernel/fs/erofs/erofs.ko", "erofs"));
        assert!(!is_module("kernel/fs/overlayfs/overlay2.ko", "overlay"));
    }
}
