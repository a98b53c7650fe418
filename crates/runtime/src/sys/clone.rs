//! clone3(2) without a stack of its own: fork, with namespaces, a pidfd and a cgroup.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use crate::thread::SingleThread;

/// Namespaces to make, as CLONE_NEW* bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CloneFlags(u64);

impl CloneFlags {
    pub(crate) const MOUNT: Self = Self(libc::CLONE_NEWNS as u64);
    pub(crate) const PID: Self = Self(libc::CLONE_NEWPID as u64);
    pub(crate) const NETWORK: Self = Self(libc::CLONE_NEWNET as u64);
    pub(crate) const IPC: Self = Self(libc::CLONE_NEWIPC as u64);
    pub(crate) const UTS: Self = Self(libc::CLONE_NEWUTS as u64);
    pub(crate) const USER: Self = Self(libc::CLONE_NEWUSER as u64);

    /// No namespace: the parent of the caller is to be that of the child, too.
    pub(crate) const SIBLING: Self = Self(libc::CLONE_PARENT as u64);

    pub(crate) fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// struct clone_args of linux/sched.h, up to the fields of Linux 5.7.
#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// CLONE_INTO_CGROUP of linux/sched.h, which has more than 32 bits.
const INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which side of the clone this is.
pub(crate) enum Cloned {
    /// The new process.
    Child,
    /// The caller.
    Parent(Child),
}

/// A child process: killed and reaped when dropped, until it is handed over.
#[derive(Debug)]
pub(crate) struct Child {
    pid: i32,
    pidfd: Option<OwnedFd>,
}

impl Child {
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Takes over a process that another one cloned as a sibling of its own.
    pub(crate) fn adopt(pid: i32, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd: Some(pidfd) }
    }

    /// Gives the duty to wait for it to the caller.
    pub(crate) fn hand_over(mut self) -> Option<(i32, OwnedFd)> {
        self.pidfd.take().map(|pidfd| (self.pid, pidfd))
    }
}

fn wait(pidfd: &OwnedFd) -> Result<(), Errno> {
    use std::os::fd::AsFd;
    rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)).map(drop)
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Some(pidfd) = self.pidfd.take() {
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            let _ = wait(&pidfd);
        }
    }
}

/// Clones this process, which has one thread. Both sides return; the child has a copy of all memory and
/// descriptors.
pub(crate) fn clone_process(
    _proof: &SingleThread,
    namespaces: CloneFlags,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Cloned, Errno> {
    let mut pidfd: libc::c_int = -1;
    let mut arguments = CloneArguments {
        flags: namespaces.0 | libc::CLONE_PIDFD as u64,
        pidfd: std::ptr::from_mut(&mut pidfd) as u64,
        // The kernel takes that of the caller for a sibling, and nothing else.
        exit_signal: if namespaces.0 & CloneFlags::SIBLING.0 != 0 { 0 } else { libc::SIGCHLD as u64 },
        ..CloneArguments::default()
    };
    if let Some(cgroup) = cgroup {
        arguments.flags |= INTO_CGROUP;
        arguments.cgroup = u64::try_from(cgroup.as_raw_fd()).unwrap_or(u64::MAX);
    }
    // SAFETY: without CLONE_VM and with no stack given this is fork(2): the child goes on here with a copy of
    // the memory. The token shows that no other thread exists, so no lock of the allocator or of the standard
    // library is held by a thread that the copy lacks. `arguments` has the size passed, and `pidfd` outlives
    // the call that writes it.
    let returned = unsafe {
        libc::syscall(libc::SYS_clone3, std::ptr::from_mut(&mut arguments), size_of::<CloneArguments>())
    };
    match returned {
        0 => Ok(Cloned::Child),
        pid if pid > 0 => {
            // SAFETY: a successful clone3 with CLONE_PIDFD has stored a new descriptor that nothing else
            // knows.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).map_or(0, Pid::as_raw_pid);
            Ok(Cloned::Parent(Child { pid, pidfd: Some(pidfd) }))
        }
        _ => Err(last_error()),
    }
}

pub(super) fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}
