//! A container's first process.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::pid_namespace::{Chosen, Target};
use super::{Begun, LaunchRequest, Launched, finish};
use crate::cgroup::Cgroup;
use crate::handshake;
use crate::init::launch::{self, Launch};
use crate::init::process::Process;
use crate::init::{self, carry_out};
use crate::plan::{Hooks, NamespacePlan, NamespaceSource};
use crate::sys::{CloneFlags, Cloned, clone_process};
use crate::thread::SingleThread;
use crate::{FailedStep, Failure, FailureKind};

/// Starts a container's first process.
///
/// # Errors
/// What failed before the child (in a user namespace: its starter) ran; later failures come through the handshake or the birth.
pub fn launch(proof: &SingleThread, request: &LaunchRequest<'_>) -> Result<Begun, Failure> {
    check_descriptors(request)?;
    super::ids::map_sources(proof, request)?;
    match (&request.plan.namespaces.user, &request.pod.user) {
        (NamespaceSource::Pod, Some(_)) => super::user::launch(proof, request).map(Begun::Expected),
        (NamespaceSource::Pod, None) => Err(init::launch::missing("user namespace of the pod")),
        (NamespaceSource::Host | NamespaceSource::Own | NamespaceSource::Container(_), _) => {
            launch_on_host(proof, request).map(Begun::Launched)
        }
    }
}

fn launch_on_host(proof: &SingleThread, request: &LaunchRequest<'_>) -> Result<Launched, Failure> {
    let (parent_end, reporter) = handshake::pair()?;
    let cgroup = open_cgroup(request.cgroup)?;
    let mut pid_namespace = Chosen::enter(pid_namespace(request)?)?;
    let cloned =
        clone_process(proof, namespaces(&request.plan.namespaces), cgroup.as_ref().map(OwnedFd::as_fd));
    match cloned.map_err(|errno| Failure::system(FailedStep::Clone, errno, ""))? {
        Cloned::Child => {
            pid_namespace.forget();
            drop(parent_end);
            init::run_child(&reporter, || {
                let process =
                    Process::new(&request.plan.process, request.cgroup, &request.streams, &reporter)
                        .before_start(proof, request);
                let mut launch = Launch::new(process, request);
                match hooks_before_pivot(request) {
                    None => carry_out(&launch::steps(), &mut launch)?,
                    Some(_) => carry_out(&launch::steps_with_hooks(), &mut launch)?,
                }
                carry_out(&init::process::steps(), &mut launch.finished())
            })
        }
        Cloned::Parent(child) => {
            pid_namespace.leave()?;
            finish(child, parent_end)
        }
    }
}

fn hooks_before_pivot<'a>(request: &LaunchRequest<'a>) -> Option<&'a Hooks> {
    request.plan.hooks.as_deref().filter(|hooks| hooks.are_before_pivot())
}

fn check_descriptors(request: &LaunchRequest<'_>) -> Result<(), Failure> {
    let (given, wanted) = (request.sources.len(), request.plan.sources.len());
    if given == wanted {
        return Ok(());
    }
    Err(Failure {
        kind: FailureKind::System,
        step: FailedStep::Prepare,
        errno: None,
        subject: format!("{given} descriptors for {wanted} volumes"),
    })
}

/// The version 2 cgroup, for clone3(2) to put the child into.
pub(super) fn open_cgroup(cgroup: &Cgroup) -> Result<Option<OwnedFd>, Failure> {
    let Some(directory) = &cgroup.unified else { return Ok(None) };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, directory, flags, Mode::empty())
        .map(Some)
        .map_err(|errno| Failure::system(FailedStep::JoinCgroup, errno, directory.to_string_lossy()))
}

pub(super) fn pid_namespace<'a>(request: &LaunchRequest<'a>) -> Result<Option<Target<'a>>, Failure> {
    match &request.plan.namespaces.pid {
        NamespaceSource::Host | NamespaceSource::Own => Ok(None),
        NamespaceSource::Pod => match (&request.pod.pid, &request.pod.joined_pid) {
            (Some(pid), _) => Ok(Some(Target::Process(pid.init_pidfd.as_fd()))),
            (None, Some(namespace)) => Ok(Some(Target::Namespace(namespace.as_fd()))),
            (None, None) => Err(init::launch::missing("pid namespace of the pod")),
        },
        NamespaceSource::Container(name) => match request.pid_target {
            Some(target) => Ok(Some(Target::Process(target))),
            None => Err(Failure {
                kind: FailureKind::Gone,
                step: FailedStep::JoinNamespace,
                errno: None,
                subject: name.clone(),
            }),
        },
    }
}

pub(super) fn namespaces(plan: &NamespacePlan) -> CloneFlags {
    let mut flags = CloneFlags::MOUNT;
    for (source, flag) in [
        (&plan.network, CloneFlags::NETWORK),
        (&plan.ipc, CloneFlags::IPC),
        (&plan.uts, CloneFlags::UTS),
        (&plan.pid, CloneFlags::PID),
    ] {
        if *source == NamespaceSource::Own {
            flags = flags.with(flag);
        }
    }
    flags
}
