//! What a process asks of the kernel's schedulers.

use rustix::io::Errno;

use super::clone::last_error;
use crate::plan::Policy;

fn check(returned: libc::c_long) -> Result<(), Errno> {
    if returned < 0 { Err(last_error()) } else { Ok(()) }
}

/// Sets the execution domain of the calling process.
pub(crate) fn set_personality(domain: u32) -> Result<(), Errno> {
    // SAFETY: personality(2) takes a number and touches no memory.
    check(libc::c_long::from(unsafe { libc::personality(libc::c_ulong::from(domain)) }))
}

/// Sets class and priority of the calling process's input and output.
pub(crate) fn set_io_priority(priority: u16) -> Result<(), Errno> {
    /// IOPRIO_WHO_PROCESS of linux/ioprio.h.
    const PROCESS: libc::c_int = 1;
    // SAFETY: ioprio_set(2) takes numbers; process 0 is the caller.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, PROCESS, 0, libc::c_int::from(priority)) })
}

/// struct sched_attr of linux/sched/types.h, its first version.
#[repr(C)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Sets the scheduling policy of the calling process.
pub(crate) fn set_policy(policy: &Policy) -> Result<(), Errno> {
    let attributes = Attributes {
        size: size_of::<Attributes>() as u32,
        policy: policy.policy,
        flags: policy.flags,
        nice: policy.nice,
        priority: policy.priority,
        runtime: policy.runtime,
        deadline: policy.deadline,
        period: policy.period,
    };
    // SAFETY: process 0 is the caller; the structure lives through the call, which reads as many bytes of it as
    // it says itself.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, std::ptr::from_ref(&attributes), 0) })
}
