//! Two clones instead of one: a starter, which is the host's and prepares, clones the process that is meant, which finds
//! itself where it belongs. That one is a sibling of the starter, and so a child of the supervisor's.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::Timespec;
use rustix::io::Errno;

use super::launch::open_cgroup;
use super::{Launched, finish};
use crate::cgroup::Cgroup;
use crate::handshake::{self, Message, Reporter};
use crate::init;
use crate::sys::{Child, CloneFlags, Cloned, clone_process};
use crate::thread::SingleThread;
use crate::{FailedStep, Failure};

/// How long a starter may take: a dozen system calls, none of which waits for anything.
const BOUND: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// What a starter reports to.
pub(super) struct Reporters {
    /// Of the process that is meant.
    pub(super) process: Reporter,
    /// Of the starter itself.
    pub(super) starter: Reporter,
}

/// Clones a starter into a cgroup and waits for the process that it is to [`bear`].
pub(super) fn by_starter(
    proof: &SingleThread,
    cgroup: &Cgroup,
    work: impl FnOnce(&Reporters) -> Result<(), Failure>,
) -> Result<Launched, Failure> {
    let (parent_end, process) = handshake::pair()?;
    let (mut births, starter) = handshake::pair()?;
    let reporters = Reporters { process, starter };
    let cgroup = open_cgroup(cgroup)?;
    match clone_process(proof, CloneFlags::default(), cgroup.as_ref().map(OwnedFd::as_fd)).map_err(failed)? {
        Cloned::Child => {
            drop((parent_end, births));
            init::run_child(&reporters.starter, || work(&reporters))
        }
        Cloned::Parent(starter) => {
            drop(reporters);
            let (pid, pidfd) = births.wait_for_birth(&BOUND)?;
            let child = Child::adopt(pid, pidfd);
            // Its work is done.
            drop(starter);
            finish(child, parent_end)
        }
    }
}

/// What a starter does last: clones the process that is meant, and says which it is.
pub(super) fn bear(
    proof: &SingleThread,
    namespaces: CloneFlags,
    reporters: &Reporters,
    work: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    match clone_process(proof, namespaces.with(CloneFlags::SIBLING), None).map_err(failed)? {
        Cloned::Child => init::run_child(&reporters.process, work),
        Cloned::Parent(child) => {
            let (pid, pidfd) = child.hand_over().ok_or_else(|| failed(Errno::CHILD))?;
            reporters.starter.send_with(&Message::Born(pid), Some(pidfd.as_fd())).map_err(failed)
        }
    }
}

fn failed(errno: Errno) -> Failure {
    Failure::system(FailedStep::Clone, errno, "")
}
