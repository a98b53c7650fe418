//! A process that joins a running container.
//!
//! It comes in where the container's processes see it, and one that may trace others could look into it. So a starter that nobody
//! inside sees enters everything else first, lets go of what is the host's, and bears it then: as a process with the
//! container's root and no descriptor of the supervisor's (CVE-2016-9962, and what CAP_SYS_PTRACE makes of it).

use std::os::fd::AsFd;

use super::birth::{Reporters, bear, by_starter};
use super::{Birth, ExecRequest};
use crate::Failure;
use crate::init::join::{self, Join};
use crate::init::process::Process;
use crate::init::{self, carry_out};
use crate::sys::CloneFlags;
use crate::thread::SingleThread;

/// Starts a process in a running container: a child of the caller, in the container's namespaces and cgroup.
///
/// # Errors
/// What failed before its starter ran; [`Gone`](crate::FailureKind::Gone), when the container has ended, comes from the birth,
/// later failures through the handshake.
pub fn exec(proof: &SingleThread, request: &ExecRequest<'_>) -> Result<Birth, Failure> {
    by_starter(proof, request.cgroup, |reporters| enter_and_bear(proof, request, reporters))
}

fn enter_and_bear(
    proof: &SingleThread,
    request: &ExecRequest<'_>,
    reporters: &Reporters,
) -> Result<(), Failure> {
    let process = Process::new(request.process, request.cgroup, &request.streams, &reporters.process);
    let mut join = Join::new(process, request, reporters.starter.as_fd());
    carry_out(&join::outside_steps(), &mut join)?;
    bear(proof, CloneFlags::default(), reporters, || {
        carry_out(&join::inside_steps(), &mut join)?;
        carry_out(&init::process::steps(), &mut join.process)
    })
}
