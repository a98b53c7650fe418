//! What external runtimes and their containers leave behind: orphans come to the supervisor, and are waited for when they have ended.
//!
//! Only a supervisor with such a container adopts orphans: one that makes all of its processes itself has none.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use rustix::process::{getpid, set_child_subreaper};

use super::Supervisor;
use crate::handshake::to_rustix;
use crate::supervisor::container::{Stage, State};
use crate::{FailedStep, Failure};

/// The word that a child has ended.
#[derive(Debug)]
pub(in crate::supervisor) struct Orphans(SignalFd);

impl AsFd for Orphans {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Orphans {
    /// Has this process adopt orphans from now on.
    fn adopt() -> Result<Self, Failure> {
        let failed = |errno| Failure::system(FailedStep::Prepare, errno, "adopting orphans");
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        // Blocked, or it would be thrown away before it is read.
        mask.thread_block().map_err(|errno| failed(to_rustix(errno)))?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let signals = SignalFd::with_flags(&mask, flags).map_err(|errno| failed(to_rustix(errno)))?;
        set_child_subreaper(Some(getpid())).map_err(failed)?;
        Ok(Self(signals))
    }
}

impl Supervisor {
    pub(super) fn adopt_orphans(&mut self) -> Result<(), Failure> {
        if self.orphans.is_none() {
            self.orphans = Some(Orphans::adopt()?);
        }
        Ok(())
    }

    /// A child has ended; which one is found out by [`Supervisor::reap_orphans`] and by pidfds.
    pub(in crate::supervisor) fn heard_of_an_end(&mut self) {
        if let Some(Orphans(signals)) = &self.orphans {
            while let Ok(Some(_)) = signals.read_signal() {}
        }
    }

    /// Waits for children that ended and that nobody else here waits for. While a runtime is at work its orphans may be those that
    /// it has yet to name, whose ends count: nothing is done then.
    pub(in crate::supervisor) fn reap_orphans(&mut self) {
        if self.orphans.is_none() || self.expects_a_process() {
            return;
        }
        let ended = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        while let Ok(status) = waitid(Id::All, ended | WaitPidFlag::WNOWAIT) {
            let Some(pid) = status.pid() else { return };
            // Its pidfd says so, too.
            if self.minds(pid.as_raw()) {
                return;
            }
            let _reaped = waitid(Id::Pid(pid), ended);
        }
    }

    fn expects_a_process(&self) -> bool {
        self.work.iter().any(|(_, work)| work.expects_a_process())
    }

    /// Whether something here waits for this child.
    pub(in crate::supervisor) fn minds(&self, pid: i32) -> bool {
        let containers = self
            .containers
            .iter()
            .filter_map(|(_, container)| container.process().map(|process| process.pid));
        let execs = self.execs.iter().map(|(_, exec)| exec.process.pid);
        let births = self.births.iter().map(|(_, expected)| expected.birth.starter());
        let stages = self.containers.iter().filter_map(|(_, container)| match &container.state {
            State::Starting { stage: Stage::Hooks(hooking) | Stage::Executed(hooking), .. } => {
                Some(hooking.pid())
            }
            _ => None,
        });
        let hooks = stages.chain(self.poststops.iter().map(|(_, hooking)| hooking.pid()));
        let leaving = self.leaving.iter().map(|(_, left)| left.process.pid);
        let work = self.work.iter().map(|(_, work)| work.call.process.pid);
        let init = self.pod.as_ref().and_then(|pod| pod.pid.as_ref()).map(|pid| pid.init);
        containers
            .chain(execs)
            .chain(births)
            .chain(hooks)
            .chain(leaving)
            .chain(work)
            .chain(init)
            .any(|minded| minded == pid)
    }
}
