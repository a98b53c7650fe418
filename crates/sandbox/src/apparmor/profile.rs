//! The text of the default profile: what every container may do, whatever its rights say.
//!
//! It is a second wall behind the masked and read-only paths, capabilities and seccomp: each rule is about something that a container could reach
//! when one of those is given away (`procMount: Unmasked`, CAP_SYS_ADMIN, a volume of the host's).
//!
//! It includes no file, so that the node's abstractions can't widen it, and compiles with every parser since 2.13.

/// The name of the default profile.
pub(crate) const NAME: &str = "knarr-default";

/// The file of rules that the text is written against (apparmor.d(5), "abi"): without it a parser takes its own, and what kernels learn to mediate
/// after it would be forbidden as a whole. Parsers before 3 know neither the file nor the word.
pub(crate) const ABI: &str = "/etc/apparmor.d/abi/3.0";

/// Files of the kernel's that nobody reads or writes: its memory, its console keys, its tables.
const UNTOUCHED: [&str; 9] = [
    "/proc/sysrq-trigger",
    "/proc/kcore",
    "/proc/kmem",
    "/proc/mem",
    "/sys/firmware/**",
    "/sys/devices/virtual/powercap/**",
    "/sys/kernel/security/**",
    "/sys/kernel/debug/**",
    "/sys/kernel/tracing/**",
];

/// What is not written: of procfs all but the files of processes and the shared memory limits of the container's IPC namespace, of sysfs all but
/// cgroups. In a glob `*` stops at a slash and `**` doesn't; a class may match a slash, which no name begins with.
const UNWRITTEN: [&str; 10] = [
    "/proc/*",
    // Directories that are neither a process's nor sys.
    "/proc/[^1-9s]*/**",
    "/proc/s[^y]*/**",
    "/proc/sy[^s]*/**",
    "/proc/sys[^/]*/**",
    // Of sys: kernel/shm* alone is left.
    "/proc/sys/{[^k],k[^e],ke[^r],ker[^n],kern[^e],kerne[^l],kernel[^/]}**",
    "/proc/sys/kernel/{[^s],s[^h],sh[^m]}**",
    "/sys/{[^f],f[^s],fs[^/]}**",
    "/sys/fs/{[^c],c[^g],cg[^r],cgr[^o],cgro[^u],cgrou[^p]}**",
    "/sys/fs/cgroup[^/]**",
];

/// How the text depends on the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Surroundings<'a> {
    /// Whether the parser has [`ABI`].
    pub(super) has_abi: bool,
    /// The profile that the daemon, and with it the supervisors, runs under; `None` when it is unconfined.
    pub(super) daemon: Option<&'a str>,
}

/// The text.
pub(super) fn text(surroundings: Surroundings<'_>) -> String {
    let mut text = String::new();
    if surroundings.has_abi {
        text.push_str("abi <abi/3.0>,\n\n");
    }
    text.push_str(&format!("profile {NAME} flags=(attach_disconnected,mediate_deleted) {{\n"));
    let mut rule = |rule: &str| text.push_str(&format!("  {rule},\n"));
    for allowed in ["network", "capability", "file"] {
        rule(allowed);
    }
    rule("signal (send,receive) peer=knarr-default");
    rule("signal (receive) peer=unconfined");
    rule("ptrace (trace,tracedby,read,readby) peer=knarr-default");
    if let Some(daemon) = surroundings.daemon {
        rule(&format!("signal (receive) peer=\"{daemon}\""));
        rule(&format!("ptrace (readby) peer=\"{daemon}\""));
    }
    // What the runtime has mounted stays: masks too.
    for denied in ["mount", "remount", "umount", "pivot_root"] {
        rule(&format!("deny {denied}"));
    }
    for path in UNTOUCHED {
        rule(&format!("deny {path} rwklx"));
    }
    for path in UNWRITTEN {
        rule(&format!("deny {path} wklx"));
    }
    text.push_str("}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a glob of apparmor.d(5) matches: `*`, `**`, classes and alternatives.
    fn matches(glob: &str, path: &str) -> bool {
        let Some(first) = glob.chars().next() else { return path.is_empty() };
        let rest = |path: &str, by: usize| path.get(by..).map(str::to_owned);
        match first {
            '{' => {
                let (inner, after) = glob[1..].split_once('}').expect("a closed brace");
                inner.split(',').any(|one| matches(&format!("{one}{after}"), path))
            }
            '*' => {
                let (crosses, after) = match glob.strip_prefix("**") {
                    Some(after) => (true, after),
                    None => (false, &glob[1..]),
                };
                let stop = path.find('/').filter(|_| !crosses).unwrap_or(path.len());
                // A wildcard at the end of a name stands for something.
                let least = usize::from(after.is_empty());
                (least..=stop).any(|by| rest(path, by).is_some_and(|path| matches(after, &path)))
            }
            '[' => {
                let (class, after) = glob[1..].split_once(']').expect("a closed class");
                let Some(next) = path.chars().next() else { return false };
                let (negated, class) = class.strip_prefix('^').map_or((false, class), |class| (true, class));
                let range = class.contains("1-9") && next.is_ascii_digit() && next != '0';
                (class.contains(next) || range) != negated
                    && rest(path, next.len_utf8()).is_some_and(|path| matches(after, &path))
            }
            other => path.strip_prefix(other).is_some_and(|path| matches(&glob[other.len_utf8()..], path)),
        }
    }

    fn is_written(path: &str) -> bool {
        !UNWRITTEN.iter().chain(&UNTOUCHED).any(|glob| matches(glob, path))
    }

    #[test]
    fn of_the_kernels_files_only_what_is_the_containers_is_written() {
        for path in [
            "/proc/1/oom_score_adj",
            "/proc/41/task/42/comm",
            "/proc/sys/kernel/shmmax",
            "/proc/sys/kernel/shm_rmid_forced",
            "/sys/fs/cgroup/cgroup.procs",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/etc/passwd",
            "/srv/proc/sysrq-trigger",
        ] {
            assert!(is_written(path), "{path}");
        }
        for path in [
            "/proc/sysrq-trigger",
            "/proc/kcore",
            "/proc/uptime",
            "/proc/irq/1/smp_affinity",
            "/proc/scsi/scsi/x",
            "/proc/sysvipc/shm",
            "/proc/acpi/wakeup",
            "/proc/sys/vm/swappiness",
            "/proc/sys/net/ipv4/ip_forward",
            "/proc/sys/fs/suid_dumpable",
            "/proc/sys/kernel/core_pattern",
            "/proc/sys/kernel/modprobe",
            // Those that a rule of three letters at once would let through.
            "/proc/sys/kernel/sysrq",
            "/proc/sys/kernel/sched_rt_runtime_us",
            "/proc/sys/kernel/threads-max",
            "/proc/sys/kernel/yama/ptrace_scope",
            "/proc/sys/kexec/x",
            "/sys/kernel/mm/ksm/run",
            "/sys/firmware/efi/vars",
            "/sys/fs/bpf/map",
            "/sys/fs/cgroup2x/a",
            "/sys/fs/selinux/enforce",
            "/sys/module/apparmor/parameters/enabled",
            "/sys/class/net/eth0/mtu",
        ] {
            assert!(!is_written(path), "{path}");
        }
    }

    #[test]
    fn the_text_follows_its_surroundings() {
        let plain = text(Surroundings::default());
        assert!(plain.starts_with("profile knarr-default flags=("), "{plain}");
        assert!(
            !plain.contains("#include") && !plain.contains("include <"),
            "nothing of the node's widens it"
        );
        assert!(plain.contains("  deny mount,\n") && plain.contains("  deny umount,\n"));
        assert!(!plain.contains("change_profile"), "no way out of it");
        let confined = text(Surroundings { has_abi: true, daemon: Some("my daemon") });
        assert!(confined.starts_with("abi <abi/3.0>,\n"));
        assert!(confined.contains("  signal (receive) peer=\"my daemon\",\n"));
    }
}
