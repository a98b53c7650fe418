//! A process that joins a running container.

use std::os::fd::{AsFd, OwnedFd};

use super::birth::{Birth, become_process};
use super::launch::open_cgroup;
use super::{ExecRequest, Launched, finish};
use crate::handshake;
use crate::init::join::{self, Join};
use crate::init::process::Process;
use crate::init::{self, carry_out};
use crate::sys::{CloneFlags, Cloned, clone_process};
use crate::thread::SingleThread;
use crate::{FailedStep, Failure};

/// Starts a process in a running container: a child of the caller, in the container's namespaces and cgroup.
///
/// # Errors
/// What failed before the child ran, [`Gone`](crate::FailureKind::Gone) when the container has ended; later
/// failures come through the handshake.
pub fn exec(proof: &SingleThread, request: &ExecRequest<'_>) -> Result<Launched, Failure> {
    let (parent_end, reporter) = handshake::pair()?;
    let cgroup = open_cgroup(request.cgroup)?;
    let cloned = clone_process(proof, CloneFlags::default(), cgroup.as_ref().map(OwnedFd::as_fd));
    match cloned.map_err(|errno| Failure::system(FailedStep::Clone, errno, ""))? {
        Cloned::Child => {
            drop(parent_end);
            init::run_child(&reporter, || {
                let process = Process::new(request.process, request.cgroup, &request.streams, &reporter);
                let mut join = Join::new(process, request.container, request.user);
                carry_out(&join::steps(), &mut join)?;
                become_process(proof, &mut join.process, Birth::Ahead)
            })
        }
        Cloned::Parent(child) => finish(child, parent_end),
    }
}
