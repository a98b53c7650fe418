//! The first process of a container in a user namespace.
//!
//! The starter is the host's root: it takes along what only that one can, enters the pod's user namespace, and bears the
//! container's first process there, so that its mount and pid namespaces belong to the user namespace.

use super::birth::{Reporters, bear, by_starter};
use super::launch::{namespaces, pid_namespace};
use super::pid_namespace::Chosen;
use super::{Birth, LaunchRequest};
use crate::Failure;
use crate::init::launch::{self, Launch};
use crate::init::process::Process;
use crate::init::{self, carry_out};
use crate::thread::SingleThread;

/// Starts the container's first process in the pod's user namespace.
pub(super) fn launch(proof: &SingleThread, request: &LaunchRequest<'_>) -> Result<Birth, Failure> {
    by_starter(proof, request.cgroup, |reporters| prepare_and_bear(proof, request, reporters))
}

fn prepare_and_bear(
    proof: &SingleThread,
    request: &LaunchRequest<'_>,
    reporters: &Reporters,
) -> Result<(), Failure> {
    let process = Process::new(&request.plan.process, request.cgroup, &request.streams, &reporters.process)
        .before_start(proof, request);
    let mut launch = Launch::new(process, request);
    // Chosen as the host's root, who may look into any process.
    let mut pid_namespace = Chosen::enter(pid_namespace(request)?)?;
    pid_namespace.forget();
    carry_out(&launch::outside_steps(), &mut launch)?;
    bear(proof, namespaces(&request.plan.namespaces), reporters, || {
        carry_out(&launch::inside_steps(), &mut launch)?;
        carry_out(&init::process::steps(), &mut launch.finished())
    })
}
