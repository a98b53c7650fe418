//! A child process: signalled and waited for by its pidfd, never by its number.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, pidfd_send_signal, waitid,
};

use crate::container::start_time;

/// A child that has not been waited for.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    /// In clock ticks since boot.
    pub(super) start_time: u64,
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended {
    /// Exit status, or 128 and the number of the signal.
    pub(super) code: i32,
    /// The signal that ended it.
    pub(super) signal: Option<i32>,
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Process {
    /// Waits for it, if it has ended.
    pub(super) fn reap(&self) -> Option<Ended> {
        reap(self.pidfd.as_fd())
    }

    /// Kills it. It is still to be waited for.
    pub(super) fn kill(&self) {
        // It can only have ended already.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Sends a signal to it alone.
    pub(super) fn signal(&self, number: i32) -> Result<(), Errno> {
        pidfd_send_signal(&self.pidfd, signal(number)?)
    }

    /// Sends a signal to its process group. It leads one, and has not been waited for, so the number means no
    /// other.
    pub(super) fn signal_group(&self, number: i32) -> Result<(), Errno> {
        let pid = Pid::from_raw(self.pid).ok_or(Errno::SRCH)?;
        kill_process_group(pid, signal(number)?)
    }
}

/// Waits for a child, if it has ended.
pub(super) fn reap(pidfd: BorrowedFd<'_>) -> Option<Ended> {
    let status = waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    match status {
        Ok(Some(status)) => Some(match (status.exit_status(), status.terminating_signal()) {
            (_, Some(signal)) => Ended { code: 128 + signal, signal: Some(signal) },
            (code, None) => Ended { code: code.unwrap_or_default(), signal: None },
        }),
        // Somebody else's child, or waited for: it will never tell more than that it is gone.
        Err(Errno::CHILD) => Some(Ended { code: 255, signal: None }),
        Ok(None) | Err(_) => None,
    }
}

/// The process with this number, which is a child of this one: ESRCH when there is none, and whatever keeps from finding out.
pub(super) fn identify(pid: i32) -> Result<Process, Errno> {
    let number = Pid::from_raw(pid).ok_or(Errno::SRCH)?;
    let pidfd = pidfd_open(number, PidfdFlags::empty())?;
    let start_time =
        start_time(pid).map_err(|failure| match failure.errno.map(Errno::from_raw_os_error) {
            // None has the number in /proc (proc(5)).
            None | Some(Errno::NOENT) => Errno::SRCH,
            Some(errno) => errno,
        })?;
    Ok(Process { pid, pidfd, start_time })
}

/// The children of a process (proc_pid_task_tid_children(5)).
pub(super) fn children(pid: i32) -> Vec<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let listed = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let listed: Vec<String> = listed.collect();
    listed.iter().flat_map(|line| line.split_whitespace()).filter_map(|pid| pid.parse().ok()).collect()
}

fn signal(number: i32) -> Result<Signal, Errno> {
    // Real-time signals have no names in rustix, and are as good as others.
    Signal::from_named_raw(number).or_else(|| crate::sys::signal(number)).ok_or(Errno::INVAL)
}
