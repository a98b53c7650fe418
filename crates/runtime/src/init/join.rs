//! Entering a running container.

use std::os::fd::BorrowedFd;

use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::Step;
use super::path::Root;
use super::process::Process;
use crate::container::ExecRequest;
use crate::{FailedStep, Failure};

/// What is done by a process that nobody in the container sees, in this order. It clones the one that joins afterwards.
pub(crate) fn outside_steps<'a>() -> [Step<Join<'a>>; 7] {
    [
        |join| join.process.prepare(),
        |join| join.process.join_cgroup(),
        |join| join.process.adjust_oom_score(),
        Join::give_streams,
        |join| join.process.label(),
        Join::enter,
        Join::let_go,
    ]
}

/// What that one does, in this order.
pub(crate) fn inside_steps<'a>() -> [Step<Join<'a>>; 1] {
    [|join| join.process.open_terminal()]
}

/// A process on its way into a container.
pub(crate) struct Join<'a> {
    pub(crate) process: Process<'a>,
    request: &'a ExecRequest<'a>,
    /// What the starter reports to.
    starter: BorrowedFd<'a>,
}

impl<'a> Join<'a> {
    pub(crate) fn new(process: Process<'a>, request: &'a ExecRequest<'a>, starter: BorrowedFd<'a>) -> Self {
        Self { process, request, starter }
    }

    fn give_streams(&mut self) -> Result<(), Failure> {
        self.request.user.map_or(Ok(()), |user| self.process.give_streams(&user.ids))
    }

    fn let_go(&mut self) -> Result<(), Failure> {
        self.process.let_go_of_the_host(self.starter)
    }

    fn enter(&mut self) -> Result<(), Failure> {
        let failed = |errno| Failure::system(FailedStep::JoinNamespace, errno, "container");
        let mut kinds = ThreadNameSpaceType::MOUNT
            | ThreadNameSpaceType::NETWORK
            | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
            | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
            | ThreadNameSpaceType::CONTROL_GROUP
            // That is where the next child is born; this process stays where it is.
            | ThreadNameSpaceType::PROCESS_ID;
        if self.request.user.is_some() {
            kinds |= ThreadNameSpaceType::USER;
        }
        // All or none, in one call; root and working directory are those of the mount namespace afterwards.
        move_into_thread_name_spaces(self.request.container, kinds).map_err(failed)?;
        if self.request.user.is_some() {
            super::become_root()?;
        }
        self.process.root = Some(Root::own().map_err(failed)?);
        Ok(())
    }
}
