//! The system calls of a confined thread: reading, writing and naming files, memory, other threads, time. Nothing that makes a
//! process, a socket, a mount or a namespace, and no memory that is both written and run.
//!
//! What isn't listed answers ENOSYS, as if the kernel were older than the call: that is what a C library is prepared for,
//! so that a newer one which prefers a newer call falls back to one of these. For `clone3`, whose arguments no filter
//! sees, it falls back to `clone`.

use std::borrow::Cow;

use crate::plan::SeccompFilter;
use crate::seccomp::profile::{Condition, FLAG_SPEC_ALLOW, Profile, Rule, Test, Verdict};

/// ENOSYS of asm-generic/errno.h.
const NOT_THERE: Verdict = Verdict::errno(38);

/// Whatever their arguments are. Names that an architecture doesn't have count nothing there.
#[rustfmt::skip] // one a line would be two screens
const ALWAYS: &[&str] = &[
    // Files by descriptor.
    "close", "close_range", "copy_file_range", "dup", "dup3", "fadvise64", "fallocate", "fchmod", "fchown",
    "fcntl", "fdatasync", "fgetxattr", "flistxattr", "flock", "fremovexattr", "fsetxattr", "fstat", "fstatfs",
    "fsync", "ftruncate", "getdents64", "lseek", "pread64", "preadv", "pwrite64", "pwritev", "read", "readv",
    "sync_file_range", "syncfs", "write", "writev",
    // Files by name, which Landlock judges.
    "access", "chmod", "chown", "faccessat", "faccessat2", "fchmodat", "fchmodat2", "fchownat", "getxattr",
    "lchown", "lgetxattr", "link", "linkat", "listxattr", "llistxattr", "lremovexattr", "lsetxattr", "lstat",
    "mkdir", "mkdirat", "mknod", "mknodat", "newfstatat", "open", "openat", "openat2", "readlink",
    "readlinkat", "removexattr", "rename", "renameat", "renameat2", "rmdir", "setxattr", "stat", "statfs",
    "statx", "symlink", "symlinkat", "truncate", "umask", "unlink", "unlinkat", "utimensat",
    // Memory.
    "brk", "madvise", "mremap", "munmap",
    // Threads, among them this one's beginning and end, and what it tells the others.
    "epoll_ctl", "exit", "exit_group", "futex", "getpid", "gettid", "membarrier", "restart_syscall", "rseq",
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sched_getaffinity", "sched_yield", "set_robust_list",
    "setpriority", "sigaltstack",
    // Time, chance, and who we are.
    "capget", "clock_getres", "clock_gettime", "clock_nanosleep", "getegid", "geteuid", "getgid", "getrandom",
    "getrlimit", "getrusage", "gettimeofday", "getuid", "nanosleep", "sysinfo", "uname",
];

/// CLONE_THREAD, and all CLONE_NEW* that clone(2) takes (linux/sched.h).
const THREAD: u64 = 0x0001_0000;
const NAMESPACES: u64 = 0x7e02_0000;
/// CLONE_FS: an umask of the thread's own.
const OWN_UMASK: u64 = 0x200;
/// PROT_EXEC of asm-generic/mman-common.h.
const EXECUTE: u64 = 4;
/// PR_SET_NAME, and PR_SET_VMA by which allocators name their memory (linux/prctl.h).
const SET_NAME: u64 = 15;
const SET_VMA: u64 = 0x5356_4d41;
/// FS_IOC_ENABLE_VERITY of linux/fsverity.h.
const ENABLE_VERITY: u64 = 0x4080_6685;
/// What the kernel looks at of an int; the rest of the register is anything.
const INT: u64 = 0xffff_ffff;

/// Only if this holds of that argument; of several for one call, any.
fn conditional() -> [(&'static str, u8, Test); 9] {
    let int = |value| Test::Masked { mask: INT, value };
    let own_process = u64::from(std::process::id());
    [
        ("clone", 0, Test::Masked { mask: THREAD | NAMESPACES, value: THREAD }),
        ("unshare", 0, Test::Equal(OWN_UMASK)),
        ("mmap", 2, Test::Masked { mask: EXECUTE, value: 0 }),
        ("mprotect", 2, Test::Masked { mask: EXECUTE, value: 0 }),
        ("prctl", 0, int(SET_NAME)),
        ("prctl", 0, int(SET_VMA)),
        ("ioctl", 1, int(ENABLE_VERITY)),
        // Reading a limit, as a thread's beginning does; abort(3).
        ("prlimit64", 2, Test::Equal(0)),
        ("tgkill", 0, int(own_process)),
    ]
}

/// The filter. No mitigation of speculation comes with it, which would slow down what such threads do most: the thread shares
/// the process's memory anyway.
pub(super) fn filter() -> Result<SeccompFilter, String> {
    let rule =
        |names: Vec<Cow<'static, str>>, conditions| Rule { names, conditions, verdict: Verdict::ALLOW };
    let always = rule(ALWAYS.iter().copied().map(Cow::from).collect(), Vec::new());
    let conditional = conditional()
        .into_iter()
        .map(|(name, index, test)| rule(vec![Cow::from(name)], vec![Condition { index, test }]));
    let profile = Profile {
        default: NOT_THERE,
        architectures: Vec::new(),
        flags: FLAG_SPEC_ALLOW,
        rules: std::iter::once(always).chain(conditional).collect(),
        exceptions: Vec::new(),
    };
    crate::seccomp::compile(&profile)
}
