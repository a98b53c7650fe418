//! Instruction sets: which ones a machine runs, how the kernel names them, and which number a call has.
//!
//! A filter sees AUDIT_ARCH_* and a number, and the same number is another call on another architecture. x32 has no name of its own:
//! its calls come as x86-64 with a bit in the number.

use std::str::FromStr;

/// An architecture that some machine we run on can execute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Architecture {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
}

/// The bit that x32 sets in its numbers (__X32_SYSCALL_BIT).
pub const X32_BIT: u32 = 0x4000_0000;

/// Nothing is known by a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unknown;

impl Architecture {
    /// The machine's own.
    #[cfg(target_arch = "x86_64")]
    pub const NATIVE: Self = Self::X86_64;
    /// The machine's own.
    #[cfg(target_arch = "aarch64")]
    pub const NATIVE: Self = Self::Aarch64;

    /// AUDIT_ARCH_* of linux/audit.h.
    pub const fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// The ones that a machine with this one runs besides it, where its kernel is built so.
    pub const fn relatives(self) -> &'static [Self] {
        match self {
            Self::X86_64 => &[Self::X86, Self::X32],
            Self::Aarch64 => &[Self::Arm],
            Self::X86 | Self::X32 | Self::Arm => &[],
        }
    }

    pub const fn has_narrow_arguments(self) -> bool {
        matches!(self, Self::X86 | Self::Arm)
    }

    /// What Go calls it, as profiles of Docker's form do.
    pub const fn go_name(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::X86 => "x86",
            Self::X32 => "x32",
            Self::Aarch64 => "arm64",
            Self::Arm => "arm",
        }
    }

    /// From its name in a profile: `None` for one that is known and never runs here.
    ///
    /// # Errors
    /// Nothing is known by that name.
    pub fn parse(name: &str) -> Result<Option<Self>, Unknown> {
        Ok(Some(match name {
            "SCMP_ARCH_NATIVE" => Self::NATIVE,
            "SCMP_ARCH_X86_64" => Self::X86_64,
            "SCMP_ARCH_X86" => Self::X86,
            "SCMP_ARCH_X32" => Self::X32,
            "SCMP_ARCH_AARCH64" => Self::Aarch64,
            "SCMP_ARCH_ARM" => Self::Arm,
            other if ELSEWHERE.contains(&other) => return Ok(None),
            _ => return Err(Unknown),
        }))
    }

    /// The numbers that a call has; none for one that this architecture, or this program, doesn't know.
    pub fn numbers(self, name: &str) -> Vec<u32> {
        let numbers = match self {
            Self::X86_64 => vec![number(syscalls::x86_64::Sysno::from_str(name).map(|call| call.id()))],
            Self::X86 => vec![number(syscalls::x86::Sysno::from_str(name).map(|call| call.id()))],
            Self::Aarch64 => vec![number(syscalls::aarch64::Sysno::from_str(name).map(|call| call.id()))],
            Self::Arm => {
                let own = ARM_OWN.iter().find(|(own, _)| *own == name).map(|(_, number)| *number);
                vec![own.or_else(|| number(syscalls::arm::Sysno::from_str(name).map(|call| call.id())))]
            }
            Self::X32 => {
                let own = X32_OWN.iter().position(|own| *own == name).and_then(|at| u32::try_from(at).ok());
                let shared = number(syscalls::x86_64::Sysno::from_str(name).map(|call| call.id()));
                vec![shared.map(|number| number | X32_BIT), own.map(|at| (at + X32_OWN_BEGIN) | X32_BIT)]
            }
        };
        numbers.into_iter().flatten().collect()
    }
}

fn number<E>(id: Result<i32, E>) -> Option<u32> {
    u32::try_from(id.ok()?).ok()
}

/// Calls of 32-bit ARM that stand in no list of the kernel's (asm/unistd.h, __ARM_NR_BASE).
const ARM_OWN: [(&str, u32); 5] = [
    ("breakpoint", 0xf0001),
    ("cacheflush", 0xf0002),
    ("usr26", 0xf0003),
    ("usr32", 0xf0004),
    ("set_tls", 0xf0005),
];

const X32_OWN_BEGIN: u32 = 512;
/// Calls with a number of their own on x32, from [`X32_OWN_BEGIN`] on (syscall_64.tbl of the kernel).
const X32_OWN: [&str; 36] = [
    "rt_sigaction",
    "rt_sigreturn",
    "ioctl",
    "readv",
    "writev",
    "recvfrom",
    "sendmsg",
    "recvmsg",
    "execve",
    "ptrace",
    "rt_sigpending",
    "rt_sigtimedwait",
    "rt_sigqueueinfo",
    "sigaltstack",
    "timer_create",
    "mq_notify",
    "kexec_load",
    "waitid",
    "set_robust_list",
    "get_robust_list",
    "vmsplice",
    "move_pages",
    "preadv",
    "pwritev",
    "rt_tgsigqueueinfo",
    "recvmmsg",
    "sendmmsg",
    "process_vm_readv",
    "process_vm_writev",
    "setsockopt",
    "getsockopt",
    "io_setup",
    "io_submit",
    "execveat",
    "preadv2",
    "pwritev2",
];

/// Architectures of the OCI runtime specification (config-linux, seccomp) that no machine of ours runs.
const ELSEWHERE: [&str; 19] = [
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
    "SCMP_ARCH_LOONGARCH32",
];

/// A call that stands for many.
pub struct Multiplexer {
    pub name: &'static str,
    /// The bits of its first argument that say which one is meant.
    pub mask: u64,
    /// Those, by what the argument is then.
    pub calls: &'static [(u64, &'static str)],
}

/// Calls of 32-bit x86 that stand for many (linux/net.h, linux/ipc.h).
pub const MULTIPLEXERS: [Multiplexer; 2] = [
    Multiplexer {
        name: "socketcall",
        mask: 0xffff_ffff,
        calls: &[
            (1, "socket"),
            (2, "bind"),
            (3, "connect"),
            (4, "listen"),
            (5, "accept"),
            (6, "getsockname"),
            (7, "getpeername"),
            (8, "socketpair"),
            (9, "send"),
            (10, "recv"),
            (11, "sendto"),
            (12, "recvfrom"),
            (13, "shutdown"),
            (14, "setsockopt"),
            (15, "getsockopt"),
            (16, "sendmsg"),
            (17, "recvmsg"),
            (18, "accept4"),
            (19, "recvmmsg"),
            (20, "sendmmsg"),
        ],
    },
    Multiplexer {
        name: "ipc",
        mask: 0xffff,
        calls: &[
            (1, "semop"),
            (2, "semget"),
            (3, "semctl"),
            (4, "semtimedop"),
            (11, "msgsnd"),
            (12, "msgrcv"),
            (13, "msgget"),
            (14, "msgctl"),
            (21, "shmat"),
            (22, "shmdt"),
            (23, "shmget"),
            (24, "shmctl"),
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_has_its_number_on_each_architecture() {
        for (architecture, name, numbers) in [
            (Architecture::X86_64, "chmod", &[90][..]),
            (Architecture::X86, "chmod", &[15]),
            (Architecture::Aarch64, "fchmodat", &[53]),
            (Architecture::Aarch64, "chmod", &[]),
            (Architecture::Arm, "chmod", &[15]),
            (Architecture::Arm, "set_tls", &[0xf0005]),
            (Architecture::X32, "chmod", &[X32_BIT | 90]),
            (Architecture::X32, "execve", &[X32_BIT | 59, X32_BIT | 520]),
            (Architecture::X32, "pwritev2", &[X32_BIT | 328, X32_BIT | 547]),
            (Architecture::X86_64, "no_such_call", &[]),
        ] {
            assert_eq!(architecture.numbers(name), numbers, "{architecture:?} {name}");
        }
    }

    #[test]
    fn the_tables_agree_with_the_c_library() {
        for (name, number) in [
            ("openat2", libc::SYS_openat2),
            ("clone3", libc::SYS_clone3),
            ("newfstatat", libc::SYS_newfstatat),
            ("io_uring_setup", libc::SYS_io_uring_setup),
            ("personality", libc::SYS_personality),
        ] {
            assert_eq!(Architecture::NATIVE.numbers(name), [u32::try_from(number).unwrap()], "{name}");
        }
    }

    #[test]
    fn every_call_behind_a_multiplexer_is_one() {
        let exists = |name: &str| {
            let all = [Architecture::X86, Architecture::X86_64, Architecture::Arm];
            all.iter().any(|architecture| !architecture.numbers(name).is_empty())
        };
        for Multiplexer { name, calls, .. } in MULTIPLEXERS {
            assert_eq!(Architecture::X86.numbers(name).len(), 1);
            assert!(calls.iter().all(|(_, name)| exists(name)), "{name}");
        }
    }
}
