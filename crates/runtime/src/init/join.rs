//! Entering a running container. Its pid namespace is entered by the child of this process that becomes what was asked for.

use std::os::fd::BorrowedFd;

use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::Step;
use super::path::Root;
use super::process::Process;
use crate::namespaces::PodUser;
use crate::{FailedStep, Failure};

/// What is done, in this order.
pub(crate) fn steps<'a>() -> [Step<Join<'a>>; 6] {
    [
        |join| join.process.prepare(),
        |join| join.process.join_cgroup(),
        |join| join.process.adjust_oom_score(),
        Join::give_streams,
        Join::enter,
        |join| join.process.open_terminal(),
    ]
}

/// A process on its way into a container.
pub(crate) struct Join<'a> {
    pub(crate) process: Process<'a>,
    container: BorrowedFd<'a>,
    user: Option<&'a PodUser>,
}

impl<'a> Join<'a> {
    pub(crate) fn new(process: Process<'a>, container: BorrowedFd<'a>, user: Option<&'a PodUser>) -> Self {
        Self { process, container, user }
    }

    fn give_streams(&mut self) -> Result<(), Failure> {
        self.user.map_or(Ok(()), |user| self.process.give_streams(&user.ids))
    }

    fn enter(&mut self) -> Result<(), Failure> {
        let failed = |errno| Failure::system(FailedStep::JoinNamespace, errno, "container");
        let mut kinds = ThreadNameSpaceType::MOUNT
            | ThreadNameSpaceType::NETWORK
            | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
            | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
            | ThreadNameSpaceType::CONTROL_GROUP
            | ThreadNameSpaceType::PROCESS_ID;
        if self.user.is_some() {
            kinds |= ThreadNameSpaceType::USER;
        }
        // All or none, in one call; root and working directory are those of the mount namespace afterwards.
        move_into_thread_name_spaces(self.container, kinds).map_err(failed)?;
        if self.user.is_some() {
            super::become_root()?;
        }
        self.process.root = Some(Root::own().map_err(failed)?);
        Ok(())
    }
}
