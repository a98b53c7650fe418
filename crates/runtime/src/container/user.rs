//! The first process of a container in a user namespace.
//!
//! Two clones. The first child is the host's root: it takes along what only that one can, enters the pod's user
//! namespace, and clones the container's first process from there, so that its mount and pid namespaces belong to
//! the user namespace. That one is a sibling of the first child, and so a child of the supervisor's.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::Timespec;

use super::birth::{Birth, become_process};
use super::launch::{namespaces, open_cgroup, pid_namespace};
use super::pid_namespace::Chosen;
use super::{LaunchRequest, Launched, finish};
use crate::handshake::{self, Message, Reporter};
use crate::init::launch::{self, Launch};
use crate::init::process::Process;
use crate::init::{self, carry_out};
use crate::sys::{Child, CloneFlags, Cloned, clone_process};
use crate::thread::SingleThread;
use crate::{FailedStep, Failure};

/// How long the first child may take: a dozen system calls, none of which waits for anything.
const BOUND: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// Starts the container's first process in the pod's user namespace.
pub(super) fn launch(proof: &SingleThread, request: &LaunchRequest<'_>) -> Result<Launched, Failure> {
    let (parent_end, reporter) = handshake::pair()?;
    let (mut births, herald) = handshake::pair()?;
    let cgroup = open_cgroup(request.cgroup)?;
    let cloned = clone_process(proof, CloneFlags::default(), cgroup.as_ref().map(OwnedFd::as_fd));
    match cloned.map_err(|errno| Failure::system(FailedStep::Clone, errno, ""))? {
        Cloned::Child => {
            drop((parent_end, births));
            init::run_child(&herald, || prepare_and_clone(proof, request, (&reporter, &herald)))
        }
        Cloned::Parent(starter) => {
            drop((reporter, herald));
            let (pid, pidfd) = births.wait_for_birth(&BOUND)?;
            let child = Child::adopt(pid, pidfd);
            // Its work is done.
            drop(starter);
            finish(child, parent_end)
        }
    }
}

fn prepare_and_clone(
    proof: &SingleThread,
    request: &LaunchRequest<'_>,
    (reporter, herald): (&Reporter, &Reporter),
) -> Result<(), Failure> {
    let process = Process::new(&request.plan.process, request.cgroup, &request.streams, reporter)
        .before_start(proof, request);
    let mut launch = Launch::new(process, request);
    // Chosen as the host's root, who may look into any process.
    let mut pid_namespace = Chosen::enter(pid_namespace(request)?)?;
    pid_namespace.forget();
    carry_out(&launch::outside_steps(), &mut launch)?;
    let flags = namespaces(&request.plan.namespaces).with(CloneFlags::SIBLING);
    let failed = |errno| Failure::system(FailedStep::Clone, errno, "");
    match clone_process(proof, flags, None).map_err(failed)? {
        Cloned::Child => init::run_child(reporter, || {
            carry_out(&launch::inside_steps(), &mut launch)?;
            become_process(proof, &mut launch.process, Birth::Over)
        }),
        Cloned::Parent(child) => {
            let (pid, pidfd) = child.hand_over().ok_or_else(|| failed(rustix::io::Errno::CHILD))?;
            herald.send_with(&Message::Born(pid), Some(pidfd.as_fd())).map_err(failed)
        }
    }
}
