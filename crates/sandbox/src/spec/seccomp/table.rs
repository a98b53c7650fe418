//! Which system calls the default profile knows.
//!
//! A call that stands nowhere here answers ENOSYS. What has opened hosts before and what containers have no use for is
//! left out on purpose: keys (not namespaced), io_uring, userfaultfd, kexec, NFS's own, swap, quotas.

use runtime::spec::oci::Capability;

use runtime::seccomp::profile::{Test, Verdict};

/// Calls that only pass with one of these capabilities, and answer EPERM otherwise.
pub(super) const GUARDED: &[(&[Capability], &[&str])] = &[
    (
        &[Capability::SysAdmin],
        &[
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "open_tree_attr",
            "pivot_root",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "swapoff",
            "swapon",
            "umount2",
            "unshare",
        ],
    ),
    (&[Capability::SysAdmin, Capability::Bpf], &["bpf"]),
    (&[Capability::SysAdmin, Capability::Perfmon], &["perf_event_open"]),
    (&[Capability::SysAdmin, Capability::Syslog], &["syslog"]),
    (&[Capability::DacReadSearch], &["open_by_handle_at"]),
    (&[Capability::SysBoot], &["reboot", "kexec_load"]),
    (&[Capability::SysChroot], &["chroot"]),
    (&[Capability::SysModule], &["delete_module", "finit_module", "init_module"]),
    (&[Capability::SysPacct], &["acct"]),
    (&[Capability::SysPtrace], &["kcmp", "pidfd_getfd", "process_madvise"]),
    (&[Capability::SysRawio], &["ioperm", "iopl"]),
    (&[Capability::SysTime], &["clock_settime", "settimeofday"]),
    (&[Capability::SysTtyConfig], &["vhangup"]),
    (
        &[Capability::SysNice],
        &[
            "get_mempolicy",
            "mbind",
            "migrate_pages",
            "move_pages",
            "set_mempolicy",
            "set_mempolicy_home_node",
        ],
    ),
];

/// Which entry of [`GUARDED`] stands for CAP_SYS_ADMIN.
pub(super) const ADMINISTRATOR: usize = 0;

/// clone3 has its flags behind a pointer, where no filter can look: it passes for an administrator, and others get ENOSYS, upon which programs
/// fall back to clone.
pub(super) const CLONE3: &str = "clone3";

/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. (NEWTIME can't be given to clone.)
const NEW_NAMESPACES: u64 = 0x7e02_0000;
/// EPERM.
pub(super) const REFUSED: Verdict = Verdict::errno(1);
/// ENOSYS.
pub(super) const UNKNOWN: Verdict = Verdict::errno(38);

/// A call that passes or not by what it is asked for.
pub(super) struct Conditional {
    pub(super) name: &'static str,
    /// Tests of its first argument and what follows when one holds.
    pub(super) tests: &'static [(Test, Verdict)],
    /// When none does.
    pub(super) otherwise: Verdict,
    /// What an administrator gets.
    pub(super) administrator: Administrator,
}

/// Whether CAP_SYS_ADMIN opens a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Administrator {
    Passes,
    IsLikeOthers,
}

/// Calls that pass or not by what they are asked for. The kernel takes the lower half of these arguments alone, so the filter looks at no more: a bit
/// above would lead past a comparison of the whole.
pub(super) const CONDITIONAL: &[Conditional] = &[
    Conditional {
        name: "clone",
        tests: &[(Test::Masked { mask: NEW_NAMESPACES, value: 0 }, Verdict::ALLOW)],
        otherwise: REFUSED,
        administrator: Administrator::Passes,
    },
    // PER_LINUX, PER_LINUX32, both with UNAME26, and the question for the present one.
    Conditional {
        name: "personality",
        tests: &[
            (low(0), Verdict::ALLOW),
            (low(0x8), Verdict::ALLOW),
            (low(0x2_0000), Verdict::ALLOW),
            (low(0x2_0008), Verdict::ALLOW),
            (low(0xffff_ffff), Verdict::ALLOW),
        ],
        otherwise: REFUSED,
        administrator: Administrator::IsLikeOthers,
    },
    Conditional {
        name: "socket",
        tests: HOST_FAMILIES,
        otherwise: Verdict::ALLOW,
        administrator: Administrator::IsLikeOthers,
    },
    Conditional {
        name: "socketpair",
        tests: HOST_FAMILIES,
        otherwise: Verdict::ALLOW,
        administrator: Administrator::IsLikeOthers,
    },
];

/// AF_ALG, the kernel's own crypto (CVE-2026-31431), and AF_VSOCK, the hypervisor.
const HOST_FAMILIES: &[(Test, Verdict)] = &[(low(38), REFUSED), (low(40), REFUSED)];

const fn low(value: u64) -> Test {
    Test::Masked { mask: 0xffff_ffff, value }
}

/// Calls that pass.
#[rustfmt::skip] // one a line would be four screens
pub(super) const ALLOWED: &[&str] = &[
    "accept", "accept4", "access", "adjtimex", "alarm", "arch_prctl", "bind", "brk", "cachestat", "capget",
    "capset", "chdir", "chmod", "chown", "clock_adjtime", "clock_getres", "clock_gettime", "clock_nanosleep",
    "close", "close_range", "connect", "copy_file_range", "creat", "dup", "dup2", "dup3", "epoll_create",
    "epoll_create1", "epoll_ctl", "epoll_ctl_old", "epoll_pwait", "epoll_pwait2", "epoll_wait",
    "epoll_wait_old", "eventfd", "eventfd2", "execve", "execveat", "exit", "exit_group", "faccessat",
    "faccessat2", "fadvise64", "fallocate", "fanotify_mark", "fchdir", "fchmod", "fchmodat", "fchmodat2",
    "fchown", "fchownat", "fcntl", "fdatasync", "fgetxattr", "flistxattr", "flock", "fork", "fremovexattr",
    "fsetxattr", "fstat", "fstatfs", "fsync", "ftruncate", "futex", "futex_requeue", "futex_wait",
    "futex_waitv", "futex_wake", "futimesat", "get_robust_list", "get_thread_area", "getcpu", "getcwd",
    "getdents", "getdents64", "getegid", "geteuid", "getgid", "getgroups", "getitimer", "getpeername",
    "getpgid", "getpgrp", "getpid", "getppid", "getpriority", "getrandom", "getresgid", "getresuid",
    "getrlimit", "getrusage", "getsid", "getsockname", "getsockopt", "gettid", "gettimeofday", "getuid",
    "getxattr", "getxattrat", "inotify_add_watch", "inotify_init", "inotify_init1", "inotify_rm_watch",
    "io_cancel", "io_destroy", "io_getevents", "io_pgetevents", "io_setup", "io_submit", "ioctl",
    "ioprio_get", "ioprio_set", "kill", "landlock_add_rule", "landlock_create_ruleset",
    "landlock_restrict_self", "lchown", "lgetxattr", "link", "linkat", "listen", "listxattr", "listxattrat",
    "llistxattr", "lremovexattr", "lseek", "lsetxattr", "lstat", "madvise", "map_shadow_stack", "membarrier",
    "memfd_create", "memfd_secret", "mincore", "mkdir", "mkdirat", "mknod", "mknodat", "mlock", "mlock2",
    "mlockall", "mmap", "modify_ldt", "mprotect", "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive",
    "mq_timedsend", "mq_unlink", "mremap", "mseal", "msgctl", "msgget", "msgrcv", "msgsnd", "msync",
    "munlock", "munlockall", "munmap", "name_to_handle_at", "nanosleep", "newfstatat", "open", "openat",
    "openat2", "pause", "pidfd_open", "pidfd_send_signal", "pipe", "pipe2", "pkey_alloc", "pkey_free",
    "pkey_mprotect", "poll", "ppoll", "prctl", "pread64", "preadv", "preadv2", "prlimit64",
    "process_mrelease", "process_vm_readv", "process_vm_writev", "pselect6", "ptrace", "pwrite64", "pwritev",
    "pwritev2", "read", "readahead", "readlink", "readlinkat", "readv", "recvfrom", "recvmmsg", "recvmsg",
    "remap_file_pages", "removexattr", "removexattrat", "rename", "renameat", "renameat2", "restart_syscall",
    "rmdir", "rseq", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn",
    "rt_sigsuspend", "rt_sigtimedwait", "rt_tgsigqueueinfo", "sched_get_priority_max",
    "sched_get_priority_min", "sched_getaffinity", "sched_getattr", "sched_getparam", "sched_getscheduler",
    "sched_rr_get_interval", "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler",
    "sched_yield", "select", "semctl", "semget", "semop", "semtimedop", "sendfile", "sendmmsg", "sendmsg",
    "sendto", "set_robust_list", "set_thread_area", "set_tid_address", "setfsgid", "setfsuid", "setgid",
    "setgroups", "setitimer", "setpgid", "setpriority", "setregid", "setresgid", "setresuid", "setreuid",
    "setrlimit", "setsid", "setsockopt", "setuid", "setxattr", "setxattrat", "shmat", "shmctl", "shmdt",
    "shmget", "shutdown", "sigaltstack", "signalfd", "signalfd4", "splice", "stat", "statfs", "statx",
    "symlink", "symlinkat", "sync", "sync_file_range", "syncfs", "sysinfo", "tee", "tgkill", "time",
    "timer_create", "timer_delete", "timer_getoverrun", "timer_gettime", "timer_settime", "timerfd_create",
    "timerfd_gettime", "timerfd_settime", "times", "tkill", "truncate", "umask", "uname", "unlink",
    "unlinkat", "uretprobe", "utime", "utimensat", "utimes", "vfork", "vmsplice", "wait4", "waitid", "write",
    "writev",
];
