//! Choosing the pid namespace of the next child. A process never changes its own; setns(2) says where its
//! children are born.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::thread::{
    LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces,
};

use crate::{FailedStep, Failure};

/// What says which namespace is meant.
pub(super) enum Target<'a> {
    /// A process in it.
    Process(BorrowedFd<'a>),
    /// Itself.
    Namespace(BorrowedFd<'a>),
}

/// A choice that is taken back when this is dropped.
pub(super) struct Chosen {
    own: Option<OwnedFd>,
}

impl Chosen {
    /// Has the next children born in a pid namespace, or leaves everything as it is.
    pub(super) fn enter(target: Option<Target<'_>>) -> Result<Self, Failure> {
        let Some(target) = target else { return Ok(Self { own: None }) };
        let failed = |errno| Failure::system(FailedStep::JoinNamespace, errno, "pid");
        let own = openat(CWD, "/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed)?;
        match target {
            Target::Process(process) => {
                move_into_thread_name_spaces(process, ThreadNameSpaceType::PROCESS_ID)
            }
            Target::Namespace(namespace) => {
                move_into_link_name_space(namespace, Some(LinkNameSpaceType::ProcessID))
            }
        }
        .map_err(failed)?;
        Ok(Self { own: Some(own) })
    }

    /// Takes the choice back.
    pub(super) fn leave(&mut self) -> Result<(), Failure> {
        self.restore().map_err(|errno| Failure::system(FailedStep::JoinNamespace, errno, "own pid namespace"))
    }

    /// In the child there is nothing to take back.
    pub(super) fn forget(&mut self) {
        self.own = None;
    }

    fn restore(&mut self) -> Result<(), Errno> {
        match self.own.take() {
            Some(own) => move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::ProcessID)),
            None => Ok(()),
        }
    }
}

impl Drop for Chosen {
    fn drop(&mut self) {
        // Only reached with a choice still made when cloning failed, which is what the caller reports.
        let _ = self.restore();
    }
}
