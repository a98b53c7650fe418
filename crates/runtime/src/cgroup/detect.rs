//! Finding the hierarchies in the mount table; once in a daemon's life.

use std::path::{Path, PathBuf};

use super::{Error, Hierarchy, Host, files};

/// Version 1 controllers that can stand among a hierarchy's mount options.
const CONTROLLERS: &[&str] = &[
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "misc",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
    "rdma",
];

pub(super) fn detect() -> Result<Host, Error> {
    let host = parse(&files::read(Path::new("/proc/self/mountinfo"))?);
    if host.unified.is_none() && host.legacy.is_empty() { Err(Error::NoCgroups) } else { Ok(host) }
}

/// Reads mountinfo as proc_pid_mountinfo(5) describes it. Of two mounts of the same hierarchy the first
/// counts.
fn parse(mountinfo: &str) -> Host {
    let mut host = Host { unified: None, legacy: Vec::new() };
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut left = left.split(' ').skip(3);
        let (Some("/"), Some(mount)) = (left.next(), left.next()) else { continue };
        let mut right = right.split(' ');
        let (fstype, options) = (right.next(), right.nth(1).unwrap_or_default());
        match fstype {
            Some("cgroup2") if host.unified.is_none() => host.unified = Some(unescape(mount)),
            Some("cgroup") => {
                let controllers: Vec<String> = options
                    .split(',')
                    .filter(|option| CONTROLLERS.contains(option) || option.starts_with("name="))
                    .map(str::to_owned)
                    .collect();
                let known = host.legacy.iter().any(|hierarchy| hierarchy.controllers == controllers);
                if !controllers.is_empty() && !known {
                    host.legacy.push(Hierarchy { controllers, mount: unescape(mount) });
                }
            }
            _ => {}
        }
    }
    host
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> PathBuf {
    let text =
        text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\");
    PathBuf::from(text)
}

#[cfg(test)]
mod tests {
    use super::super::Layout;
    use super::*;

    #[test]
    fn a_unified_host() {
        let host = parse("30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n");
        assert_eq!(host.layout(), Layout::Unified);
        assert_eq!(host.unified.as_deref(), Some(Path::new("/sys/fs/cgroup")));
    }

    #[test]
    fn a_hybrid_host_with_shared_hierarchies_and_doubled_mounts() {
        let host = parse(
            "24 1 0:20 / /proc rw - proc proc rw\n\
             32 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
             33 30 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
             34 30 0:29 / /other/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
             35 30 0:31 /docker/x /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
             36 30 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
        );
        assert_eq!(host.layout(), Layout::Hybrid);
        let controllers: Vec<_> = host.legacy.iter().map(|h| h.controllers.join(",")).collect();
        assert_eq!(controllers, ["cpu,cpuacct", "name=systemd"]);
        assert_eq!(host.legacy[0].mount, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
    }
}
