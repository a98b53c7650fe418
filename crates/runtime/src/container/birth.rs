//! Two clones instead of one: a starter, which is the host's and prepares, clones the process that is meant, which finds
//! itself where it belongs. That one is a sibling of the starter, and so a child of the supervisor's.
//!
//! Every step of a starter's is subject to the limits of the container's cgroup: throttled it takes seconds, frozen it takes
//! for ever. So nobody waits for it: a [`Birth`] is minded like everything else that takes its time.
//!
//! ```text
//!            clone                Born
//! (nothing) ───────► Birth ────────────────► Launched, and a starter that ends
//!                      │ Failed
//!                      ├───────────────────► a failure, and a starter that ends
//!                      │ the starter's end
//!                      └───────────────────► a failure; the process may be there all the same
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use super::launch::open_cgroup;
use super::{Begun, Launched, start_time};
use crate::cgroup::Cgroup;
use crate::handshake::{self, BirthReport, Handshake, Message, Reporter};
use crate::init;
use crate::sys::{Child, CloneFlags, Cloned, clone_process};
use crate::thread::SingleThread;
use crate::{FailedStep, Failure};

/// What a starter reports to.
pub(super) struct Reporters {
    /// Of the process that is meant.
    pub(super) process: Reporter,
    /// Of the starter itself.
    pub(super) starter: Reporter,
}

/// The process that bears another one: a child of the caller's, to be waited for.
#[derive(Debug)]
pub struct Starter {
    /// Its number in the supervisor's pid namespace.
    pub pid: i32,
    /// A descriptor that cannot come to mean another process.
    pub pidfd: OwnedFd,
    /// When it started, in clock ticks since boot.
    pub start_time: u64,
}

/// A process that a starter is about to bear.
#[derive(Debug)]
#[must_use = "its starter is to be waited for"]
pub struct Birth {
    starter: Starter,
    /// Where the starter reports; none when nothing can come from there any more.
    births: Option<Handshake>,
    /// Where the process will report.
    handshake: Handshake,
}

/// What has become of a [`Birth`].
#[derive(Debug)]
pub enum Delivery {
    /// Nothing new.
    Pending(Birth),
    /// The process runs. The starter has done its work, and ends.
    Born(Launched, Starter),
    /// The starter failed, and ends.
    Failed(Failure, Starter),
    /// The starter has ended without a word, and has been waited for. When it was killed just after it had borne the process,
    /// that is a child of the caller's which nobody has told it of. It finds nobody to report to, and doesn't execute.
    Silent(Failure),
}

/// Clones a starter into a cgroup, for the process that it is to [`bear`].
pub(super) fn by_starter(
    proof: &SingleThread,
    cgroup: &Cgroup,
    work: impl FnOnce(&Reporters) -> Result<(), Failure>,
) -> Result<Birth, Failure> {
    let (handshake, process) = handshake::pair()?;
    let (births, starter) = handshake::pair()?;
    let reporters = Reporters { process, starter };
    let cgroup = open_cgroup(cgroup)?;
    match clone_process(proof, CloneFlags::default(), cgroup.as_ref().map(OwnedFd::as_fd)).map_err(failed)? {
        Cloned::Child => {
            drop((handshake, births));
            init::run_child(&reporters.starter, || work(&reporters))
        }
        Cloned::Parent(child) => {
            let start_time = start_time(child.pid())?;
            let (pid, pidfd) = child.hand_over().ok_or_else(|| failed(Errno::CHILD))?;
            Ok(Birth { starter: Starter { pid, pidfd, start_time }, births: Some(births), handshake })
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

impl Birth {
    /// The number of its starter.
    pub fn starter(&self) -> i32 {
        self.starter.pid
    }

    /// To be polled for reading: when one of them is ready, [`look`](Self::look).
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [self.starter.pidfd.as_fd()].into_iter().chain(self.births.as_ref().map(AsFd::as_fd))
    }

    /// What has become of it, without waiting.
    pub fn look(mut self) -> Delivery {
        // In this order: what a starter says it says before it ends.
        let has_ended = self.starter.reap();
        match self.births.as_ref().map_or(BirthReport::Ended, Handshake::receive_birth) {
            BirthReport::Born(pid, pidfd) => self.born(pid, pidfd),
            BirthReport::Failed(failure) => self.failed(failure),
            BirthReport::Pending | BirthReport::Ended if has_ended => {
                self.handshake.close();
                Delivery::Silent(handshake::died())
            }
            BirthReport::Pending => Delivery::Pending(self),
            BirthReport::Ended => {
                // It would be ready for reading until the starter is gone.
                self.births = None;
                Delivery::Pending(self)
            }
        }
    }

    fn born(self, pid: i32, pidfd: OwnedFd) -> Delivery {
        match start_time(pid) {
            Ok(start_time) => {
                let launched = Launched { pid, pidfd, start_time, handshake: self.handshake };
                Delivery::Born(launched, self.starter)
            }
            Err(failure) => self.failed(failure),
        }
    }

    fn failed(self, failure: Failure) -> Delivery {
        self.handshake.close();
        Delivery::Failed(failure, self.starter)
    }

    /// Kills the starter, and has a process that it has borne meanwhile end before it executes its command. It is still to be
    /// looked after: [`look`](Self::look) says when the starter is gone.
    pub fn kill(&self) {
        self.handshake.shut();
        self.starter.kill();
    }

    /// Waits for it, for callers who have nothing else to do.
    ///
    /// # Errors
    /// The starter's failure, or that it took longer than that: then it is killed and waited for.
    pub fn wait(self, patience: Duration) -> Result<Launched, Failure> {
        let until = Instant::now() + patience;
        let mut birth = self;
        loop {
            match birth.look() {
                Delivery::Pending(pending) => birth = pending,
                Delivery::Born(launched, starter) => {
                    starter.end();
                    return Ok(launched);
                }
                Delivery::Failed(failure, starter) => {
                    starter.end();
                    return Err(failure);
                }
                Delivery::Silent(failure) => return Err(failure),
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                birth.starter.end();
                return Err(Failure::system(FailedStep::Handshake, Errno::TIMEDOUT, "clone"));
            }
            let left = Timespec::try_from(left).ok();
            let mut polled: Vec<_> =
                birth.descriptors().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
            match poll(&mut polled, left.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
    }
}

impl Starter {
    /// Waits for it, if it has ended. By its descriptor: afterwards this says the same.
    fn reap(&self) -> bool {
        let status = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        matches!(status, Ok(Some(_)) | Err(Errno::CHILD))
    }

    /// Kills it. It is still to be waited for.
    pub fn kill(&self) {
        // It can only have ended already.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Kills it and waits for its end.
    fn end(self) {
        drop(Child::adopt(self.pid, self.pidfd));
    }
}

impl Begun {
    /// Waits until it runs, as [`Birth::wait`] does.
    ///
    /// # Errors
    /// As there.
    pub fn wait(self, patience: Duration) -> Result<Launched, Failure> {
        match self {
            Self::Launched(launched) => Ok(launched),
            Self::Expected(birth) => birth.wait(patience),
        }
    }
}

fn failed(errno: Errno) -> Failure {
    Failure::system(FailedStep::Clone, errno, "")
}
