//! Getting into the supervisor's own cgroup, without the wait that writing to `cgroup.procs` costs.
//!
//! Moving a process in version 2 takes a lock against all forks and exits of the machine, and an RCU period
//! with it: 5 to 20 ms, more than the whole start of a pod takes. A child that is cloned into its cgroup pays
//! nothing of that. So the process that the daemon started makes a copy of itself there, and ends; in version
//! 1, where a single thread may move itself cheaply, the copy joins by itself.

use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};

use super::SupervisorError;
use crate::Error;
use crate::cgroup::Cgroup;
use crate::sys::{CloneFlags, Cloned, clone_process};
use crate::thread::SingleThread;

/// How long a process waits that is to become a supervisor when it is called: longer than any daemon takes for a scope. One
/// whose daemon is gone must not wait for ever.
const PATIENCE: Timespec = Timespec { tv_sec: 120, tv_nsec: 0 };

/// Waits until somebody connects to the socket on standard input.
pub(super) fn wait_for_call() -> std::io::Result<()> {
    // Not the standard library's, which makes a buffer for it.
    let listener = rustix::stdio::stdin();
    let mut descriptors = [PollFd::from_borrowed_fd(listener, PollFlags::IN)];
    match rustix::io::retry_on_intr(|| poll(&mut descriptors, Some(&PATIENCE)))? {
        0 => Err(std::io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

/// Which side of the copy this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The supervisor to be.
    Supervisor,
    /// The process that the daemon started, which has done its part.
    Starter,
}

/// Moves the supervisor to be into `cgroup`. Both sides of a copy return.
pub(super) fn enter(proof: &SingleThread, cgroup: &Cgroup) -> Result<Side, SupervisorError> {
    if let Some(directory) = &cgroup.unified {
        let failed = |operation, errno: rustix::io::Errno| Error::Cgroup {
            operation,
            path: directory.clone(),
            source: errno.into(),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened =
            openat(CWD, directory, flags, Mode::empty()).map_err(|errno| failed("open cgroup", errno))?;
        let cloned = clone_process(proof, CloneFlags::SIBLING, Some(opened.as_fd()));
        match cloned.map_err(|errno| failed("clone a process into cgroup", errno))? {
            Cloned::Child => {}
            Cloned::Parent(child) => {
                // It is a child of the daemon's, which waits for it; of whoever adopts orphans once that is
                // gone.
                child.hand_over();
                return Ok(Side::Starter);
            }
        }
    }
    cgroup.join_legacy_as_single_thread().map_err(|(errno, path)| Error::Cgroup {
        operation: "write cgroup file",
        path,
        source: errno.into(),
    })?;
    Ok(Side::Supervisor)
}
