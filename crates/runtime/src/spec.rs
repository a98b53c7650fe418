//! The OCI runtime specification as this crate reads it: the types of the `oci-spec` crate under one name,
//! and the parts of a specification that are the same for every Linux container.
//!
//! What a particular container gets is decided by the caller, who builds the specification.

pub use oci_spec::runtime as oci;

use oci::{Mount, MountBuilder};

/// The mounts that every Linux container has, in mounting order: /proc, /dev, /dev/pts, /dev/mqueue,
/// /dev/shm, /sys, /sys/fs/cgroup. Those the runtime specification asks for (config-linux.md, "Default
/// Filesystems"), with the options that Kubernetes' runtimes agree on.
///
/// /dev/shm is written as a tmpfs named `shm`: in a pod that has an IPC namespace of its own the runtime
/// attaches the pod's one there. A pod on the host's IPC namespace replaces the entry by a bind mount of the
/// host's.
pub fn default_mounts() -> Vec<Mount> {
    let entries: [(&str, &str, &str, &[&str]); 7] = [
        ("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        ("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        (
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        ("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        ("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        ("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
    ];
    entries
        .into_iter()
        .filter_map(|(destination, kind, source, options)| {
            MountBuilder::default()
                .destination(destination)
                .typ(kind)
                .source(source)
                .options(options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
                .build()
                .ok()
        })
        .collect()
}

/// What an unprivileged container must not read, as containerd, CRI-O and Kubernetes' own defaults list it,
/// and the power meter of Intel's RAPL (GHSA-7ww5-4wqc-m92c).
pub const MASKED_PATHS: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// What an unprivileged container must not write.
pub const READONLY_PATHS: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
