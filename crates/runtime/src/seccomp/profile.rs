//! A profile as this crate understands it: verdicts, conditions, rules. Pure data.
//!
//! Not here: the form in which profiles are written (`parse`), numbers of calls (`resolve`), instructions (`bpf`).

use std::borrow::Cow;

use super::architecture::Architecture;

/// What becomes of a call: a return value of a filter with its data (SECCOMP_RET_* of linux/seccomp.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Verdict(u32);

impl Verdict {
    pub const KILL_PROCESS: Self = Self(0x8000_0000);
    pub const KILL_THREAD: Self = Self(0);
    pub const TRAP: Self = Self(0x0003_0000);
    pub const LOG: Self = Self(0x7ffc_0000);
    pub const ALLOW: Self = Self(0x7fff_0000);

    /// The call is not made and answers this error; 0 for success.
    pub const fn errno(number: u16) -> Self {
        Self(0x0005_0000 | number as u32)
    }

    /// A tracer is told, with this word; without one the call answers ENOSYS.
    pub const fn trace(word: u16) -> Self {
        Self(0x7ff0_0000 | word as u32)
    }

    pub const fn value(self) -> u32 {
        self.0
    }

    /// Stricter ones are smaller: the order in which the kernel chooses among several filters (seccomp(2)).
    pub const fn leniency(self) -> i32 {
        (self.0 & 0xffff_0000).cast_signed()
    }
}

/// A comparison of an argument, without sign, over all of its 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Test {
    Equal(u64),
    NotEqual(u64),
    Less(u64),
    LessOrEqual(u64),
    Greater(u64),
    GreaterOrEqual(u64),
    /// What the mask leaves of the argument equals what it leaves of the value.
    Masked {
        mask: u64,
        value: u64,
    },
}

impl Test {
    /// The same for an architecture whose arguments have 32 bits.
    pub fn narrowed(self) -> Self {
        let low = |value: u64| value & 0xffff_ffff;
        match self {
            Self::Equal(value) => Self::Equal(low(value)),
            Self::NotEqual(value) => Self::NotEqual(low(value)),
            Self::Less(value) => Self::Less(low(value)),
            Self::LessOrEqual(value) => Self::LessOrEqual(low(value)),
            Self::Greater(value) => Self::Greater(low(value)),
            Self::GreaterOrEqual(value) => Self::GreaterOrEqual(low(value)),
            Self::Masked { mask, value } => Self::Masked { mask: low(mask), value: low(value) },
        }
    }
}

/// A test of one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Condition {
    /// Which argument: 0 to 5.
    pub index: u8,
    pub test: Test,
}

/// A rule for some calls. It holds when all its conditions do; there is at most one for each argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub names: Vec<Cow<'static, str>>,
    pub conditions: Vec<Condition>,
    pub verdict: Verdict,
}

/// A profile.
///
/// The order of its rules means nothing. A rule without conditions speaks for its call as a whole and outweighs those with
/// conditions, as libseccomp has it, unless it only says what holds anyway; of several that hold, the strictest verdict counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// For calls that no rule holds for.
    pub default: Verdict,
    /// Besides the machine's own.
    pub architectures: Vec<Architecture>,
    /// SECCOMP_FILTER_FLAG_* of linux/seccomp.h.
    pub flags: u32,
    pub rules: Vec<Rule>,
    /// What holds instead of the default for a call that only has rules with conditions. Not to be had in a written profile.
    pub exceptions: Vec<(&'static str, Verdict)>,
}

/// All verdicts but ALLOW are logged.
pub const FLAG_LOG: u32 = 2;
/// All threads of the process at once; a container's process has one.
pub const FLAG_TSYNC: u32 = 1;
/// No mitigation of speculative store bypass comes with the filter.
pub const FLAG_SPEC_ALLOW: u32 = 4;
