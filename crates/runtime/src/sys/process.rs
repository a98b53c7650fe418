//! What a process does to itself: signals, limits, descriptors, filters.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::SigSet;
use rustix::io::Errno;

use super::clone::last_error;
use crate::open_files;
use crate::plan::{ResourceLimit, SeccompFilter};

fn check(returned: libc::c_long) -> Result<(), Errno> {
    if returned < 0 { Err(last_error()) } else { Ok(()) }
}

/// Gives every signal its default disposition: handlers do not survive execve(2), but ignored signals do.
///
/// The C library keeps two signals for itself and would leave them as they are, so the kernel is asked.
pub(crate) fn reset_signal_dispositions() {
    /// Bytes of the kernel's sigset_t.
    const SET: usize = 8;
    /// The kernel's struct sigaction, all zeroes: SIG_DFL, no flags, no restorer, no mask.
    const DEFAULT: [u64; 4] = [0; 4];
    for signal in 1..=64 {
        // SAFETY: the action is no function that could run, and is as large as the kernel's structure on
        // x86-64 (larger than on arm64, which has no restorer). SIGKILL and SIGSTOP are refused, which
        // changes nothing.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, DEFAULT.as_ptr(), std::ptr::null_mut::<u64>(), SET);
        }
    }
}

/// Has a program begin with no signal blocked, whatever its parent blocks, and with the limit of open files that is to be given
/// back: the standard library leaves both as they are.
pub(crate) fn shed_in(command: &mut Command) {
    // SAFETY: what runs between fork and execve are system calls on what is on the stack, and an exchange of an atomic number; it
    // allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(|| {
            SigSet::empty().thread_set_mask()?;
            Ok(open_files::give_back()?)
        });
    }
}

/// Sets one limit of the calling process.
pub(crate) fn set_resource_limit(limit: &ResourceLimit) -> Result<(), Errno> {
    let values = libc::rlimit64 { rlim_cur: limit.soft, rlim_max: limit.hard };
    // SAFETY: process 0 is the caller; the new limit lives through the call, and no old limit is asked for.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            limit.resource,
            std::ptr::from_ref(&values),
            std::ptr::null_mut::<libc::rlimit64>(),
        )
    })
}

/// CLOSE_RANGE_CLOEXEC of linux/close_range.h.
const CLOEXEC: libc::c_uint = 4;

/// Has every descriptor above 2 that there is now closed by the next execve(2).
///
/// # Errors
/// The kernel's: ENOSYS before Linux 5.9, EINVAL before 5.11.
pub fn close_on_exec_above_stdio() -> Result<(), Errno> {
    // SAFETY: the flag only marks descriptors; none is closed under an owner.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, CLOEXEC) })
}

/// Closes every descriptor above 2, in a process that has opened none itself.
pub(crate) fn close_inherited() {
    // SAFETY: the caller is the supervisor at its very beginning: nothing in it owns a descriptor but the
    // three standard ones. The call can only fail on kernels that don't have it, where what was inherited
    // stays open.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
}

/// Closes every descriptor above 2 but these, in a copy of a process that never uses or drops the others.
pub(crate) fn close_all_but<'a>(kept: impl Iterator<Item = BorrowedFd<'a>>) -> Result<(), Errno> {
    let mut kept: Vec<u32> = kept.map(|fd| fd.as_raw_fd().cast_unsigned()).filter(|fd| *fd > 2).collect();
    kept.sort_unstable();
    kept.push(u32::MAX);
    let mut from = 3;
    for next in kept {
        if next > from {
            // SAFETY: the caller is a child between clone and execve, whose copies of the parent's owners are neither used nor
            // dropped any more; what it does use is kept.
            check(unsafe { libc::syscall(libc::SYS_close_range, from, next - 1, 0) })?;
        }
        from = next.saturating_add(1);
    }
    Ok(())
}

/// Closes every descriptor of a process that uses none any more and never returns to code that owns one.
pub(crate) fn close_all() -> Result<(), Errno> {
    // SAFETY: the caller is the pod's first process, which has finished with all its descriptors, forgets
    // their owners without dropping them, and ends by _exit.
    check(unsafe { libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0) })
}

/// Installs a filter for the calling thread.
pub(crate) fn install_seccomp(filter: &SeccompFilter) -> Result<(), Errno> {
    let instructions: Vec<libc::sock_filter> = filter
        .program
        .iter()
        .map(|i| libc::sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k })
        .collect();
    let program = libc::sock_fprog {
        len: u16::try_from(instructions.len()).map_err(|_| Errno::TOOBIG)?,
        filter: instructions.as_ptr().cast_mut(),
    };
    // SAFETY: `program` points to as many instructions as it says, both live through the call, and the kernel
    // only reads them (and refuses a program that is not valid).
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            filter.flags,
            std::ptr::from_ref(&program),
        )
    })
}

/// What a process was woken by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// A child changed its state.
    Child,
    /// Somebody outside of this pid namespace (or the kernel) asked it to end.
    Terminate,
    /// Anything else.
    Other,
}

/// Waits for SIGCHLD or SIGTERM, which the caller has blocked.
pub(crate) fn wait_for_signal() -> Awaited {
    // SAFETY: sigset_t and siginfo_t are plain data for which all zeroes is a value; sigemptyset and
    // sigaddset then make a proper set, and sigwaitinfo fills the information that it is given a place for.
    let (signal, sender) = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        let mut information: libc::siginfo_t = std::mem::zeroed();
        let signal = libc::sigwaitinfo(&raw const set, &raw mut information);
        (signal, information.si_pid())
    };
    match signal {
        libc::SIGCHLD => Awaited::Child,
        // The number of a sender in an outer namespace reads as 0 (pid_namespaces(7)).
        libc::SIGTERM if sender == 0 => Awaited::Terminate,
        _ => Awaited::Other,
    }
}

/// Ends the process at once: nothing of the copied parent is flushed or run.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) has no preconditions.
    unsafe { libc::_exit(code) }
}
