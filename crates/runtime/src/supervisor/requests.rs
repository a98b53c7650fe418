//! What each request does. An answer that has to wait for something is given by the event loop when that has
//! happened.

use std::os::fd::AsRawFd;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use super::attachments::Attachment;
use super::container::{Container, Stage, State, Surroundings};
use super::event_loop::Supervisor;
use super::exec::{Exec, Joined, KILL};
use super::kin::Reach;
use crate::namespaces::{PodNamespaces, create_pod};
use crate::plan::{NamespaceSource, PodPlan};
use crate::wire::{
    ContainerSnapshot, PodCreated, Reply, Request, Scope, Snapshot, StartContainer, StartExec, Stream,
    Target, VERSION,
};
use crate::{FailedStep, Failure, FailureKind};

impl Supervisor {
    /// Does what is asked; none when the answer comes later.
    pub(super) fn answer(
        &mut self,
        sequence: u64,
        request: Request,
        descriptors: Vec<OwnedFd>,
    ) -> Option<Reply> {
        if self.is_ending()
            && matches!(
                request,
                Request::CreatePod(_) | Request::Start(_) | Request::Execute { .. } | Request::Exec(_)
            )
        {
            return Some(Reply::Failed(refused(FailureKind::Gone, "the supervisor is about to end")));
        }
        match request {
            Request::Hello { version: _ } => Some(Reply::Welcome {
                version: VERSION,
                pod: self.place.pod.clone(),
                pid: std::process::id().cast_signed(),
            }),
            Request::CreatePod(plan) => Some(self.create_pod(&plan, descriptors)),
            Request::Snapshot => Some(Reply::Snapshot(self.snapshot())),
            Request::Start(start) => self.start(sequence, *start, descriptors),
            Request::Execute { container, deadline_ms } => self.execute(&container, (sequence, deadline_ms)),
            Request::Exec(start) => self.exec(sequence, *start, descriptors),
            Request::Signal { target, signal, scope } => self.signal(sequence, &target, (signal, scope)),
            Request::Attach { container, attachment, streams } => {
                let attached = self.attach(&container, (attachment, &streams), descriptors);
                let (reply, descriptor) = attached.unwrap_or_else(|failure| (Reply::Failed(failure), None));
                self.reply_with(sequence, reply, descriptor.into_iter().collect());
                None
            }
            Request::Detach { attachment, streams } => {
                let input_of = self.attachments.detach(&attachment, &streams);
                input_of.into_iter().for_each(|container| self.input_gone(container));
                Some(Reply::Done)
            }
            Request::ReopenLog { container } => Some(self.reopen_log(&container)),
            Request::Forget { container } => Some(self.forget(&container)),
            Request::Shutdown => {
                self.shut_down(sequence);
                None
            }
        }
    }

    fn create_pod(&mut self, plan: &PodPlan, descriptors: Vec<OwnedFd>) -> Reply {
        if self.pod.is_none() {
            match create_pod(&self.proof, plan, descriptors.into_iter().next()) {
                Ok(namespaces) => self.pod = Some(namespaces),
                Err(failure) => return Reply::Failed(failure),
            }
        }
        self.pod.as_ref().map_or(Reply::Gone, |pod| Reply::PodCreated(created(pod)))
    }

    fn snapshot(&self) -> Snapshot {
        let containers = self.containers.iter().map(|(_, container)| ContainerSnapshot {
            container: container.id.clone(),
            state: container.snapshot(),
        });
        Snapshot { pod: self.pod.as_ref().map(created), containers: containers.collect() }
    }

    fn start(
        &mut self,
        sequence: u64,
        mut start: StartContainer,
        descriptors: Vec<OwnedFd>,
    ) -> Option<Reply> {
        if !super::arguments::is_id(&start.container) {
            let why = format!("{:?} is not an id", start.container);
            return Some(Reply::Failed(refused(FailureKind::Unsafe, &why)));
        }
        if let Some(at) = self.find(&start.container) {
            return again(&mut self.containers[at].1, sequence);
        }
        let process = &mut start.plan.process;
        process.oom_score_adj = process.oom_score_adj.or(self.place.oom_score_adj);
        if let Some(external) = start.external.take() {
            return self.start_external(start, external, sequence).err().map(Reply::Failed);
        }
        let started = {
            let Some(pod) = &self.pod else {
                let why = "the pod's namespaces have not been made";
                return Some(Reply::Failed(refused(FailureKind::Gone, why)));
            };
            let pid_target = self.pid_target(&start.plan.namespaces.pid);
            let around = Surroundings { proof: &self.proof, pod, pid_target };
            Container::start(&around, start, descriptors, sequence)
        };
        match started {
            Ok((container, birth)) => self.add(container, birth),
            Err(failure) => return Some(Reply::Failed(failure)),
        }
        None
    }

    fn pid_target(&self, source: &NamespaceSource) -> Option<BorrowedFd<'_>> {
        match source {
            NamespaceSource::Container(id) => {
                let (_, container) = self.containers.get(self.find(id)?)?;
                Some(container.process()?.as_fd())
            }
            NamespaceSource::Host | NamespaceSource::Pod | NamespaceSource::Own => None,
        }
    }

    fn exec(&mut self, sequence: u64, mut start: StartExec, descriptors: Vec<OwnedFd>) -> Option<Reply> {
        if let Some((key, container)) = self.find(&start.container).map(|at| &self.containers[at])
            && container.external.is_some()
        {
            let key = *key;
            if running(container).is_none() {
                return Some(Reply::Gone);
            }
            return self.exec_external((key, sequence), start, descriptors).err().map(Reply::Failed);
        }
        start.process.oom_score_adj = start.process.oom_score_adj.or(self.place.oom_score_adj);
        let started = {
            let Some((key, found)) = self.find(&start.container).map(|at| &self.containers[at]) else {
                return Some(Reply::Gone);
            };
            let Some((process, cgroup)) = running(found) else { return Some(Reply::Gone) };
            let user = self.pod.as_ref().and_then(|pod| pod.user.as_ref());
            let container = Joined { key: *key, process, cgroup, user };
            Exec::start(&self.proof, start, container, (&descriptors, sequence))
        };
        match started {
            Ok(expected) => self.expect(expected),
            Err(failure) => return Some(Reply::Failed(failure)),
        }
        None
    }

    fn attach(
        &mut self,
        container: &str,
        (name, streams): (String, &[Stream]),
        descriptors: Vec<OwnedFd>,
    ) -> Result<(Reply, Option<OwnedFd>), Failure> {
        let gone = Ok((Reply::Gone, None));
        let Some((container, found)) = self.find(container).map(|at| &self.containers[at]) else {
            return gone;
        };
        let Some(handed) = found.attached_input(streams.contains(&Stream::Stdin)) else { return gone };
        let (input, descriptor) =
            handed.map_err(|errno| Failure::system(FailedStep::Stdio, errno, "attachment"))?;
        self.attachments.check(&name)?;
        let attachment = Attachment::new((name, *container), streams, descriptors)?;
        let key = self.key();
        self.attachments.add(key, attachment);
        Ok((Reply::Attached { input }, descriptor))
    }

    fn signal(&mut self, sequence: u64, target: &Target, wanted: (i32, Scope)) -> Option<Reply> {
        match target {
            Target::Container(id) => self.signal_container(sequence, id, wanted),
            Target::Exec(name) => Some(self.signal_exec(name, wanted)),
        }
    }

    fn signal_container(&mut self, sequence: u64, id: &str, (signal, scope): (i32, Scope)) -> Option<Reply> {
        let Some((key, container)) = self.find(id).and_then(|at| self.containers.get(at)) else {
            return Some(Reply::Gone);
        };
        if let (State::Making { .. }, Scope::All | Scope::Session) = (&container.state, scope) {
            self.abort(*key);
            let _ = container.cgroup.kill();
            return Some(Reply::Done);
        }
        if let (State::Expected { .. }, Scope::All) = (&container.state, scope) {
            self.abort_birth(*key);
            let _ = container.cgroup.kill();
            return Some(Reply::Done);
        }
        if let (Some(_), State::Running { .. }, Scope::Init) = (&container.external, &container.state, scope)
        {
            let key = *key;
            return self.call_kill(key, signal, sequence).err().map(Reply::Failed);
        }
        let Some(process) = container.process() else { return Some(Reply::Gone) };
        let sent = match scope {
            Scope::Init => process.signal(signal),
            Scope::All | Scope::Session => {
                // What the cgroup can't reach is the first process of a start that has not joined it yet.
                let _ = container.cgroup.kill();
                process.kill();
                Ok(())
            }
        };
        Some(signalled(sent, signal))
    }

    fn signal_exec(&mut self, name: &str, (signal, scope): (i32, Scope)) -> Reply {
        let Some((_, exec)) = self.execs.iter().find(|(_, exec)| exec.name == name) else {
            let is_abandoned = self.abandon_execs(Some(name)) || self.abandon_birth(name);
            return if is_abandoned { Reply::Done } else { Reply::Gone };
        };
        let sent = match scope {
            Scope::Init => exec.process.signal(signal),
            Scope::All if signal == KILL => {
                self.kill_exec(exec, Reach::Descendants);
                Ok(())
            }
            Scope::Session => {
                self.kill_exec(exec, Reach::Session);
                Ok(())
            }
            // One that was cloned just now leads no group yet.
            Scope::All => exec.process.signal_group(signal).or_else(|_| exec.process.signal(signal)),
        };
        signalled(sent, signal)
    }

    fn reopen_log(&mut self, id: &str) -> Reply {
        let Some(at) = self.find(id) else { return Reply::Gone };
        match self.containers[at].1.output().map(super::streams::Output::reopen) {
            None => Reply::Gone,
            Some(Ok(news)) => {
                self.report(id, news);
                Reply::Done
            }
            Some(Err(failure)) => Reply::Failed(failure),
        }
    }

    fn forget(&mut self, id: &str) -> Reply {
        let exited = |container: &Container| matches!(container.state, State::Exited(_));
        if let Some(at) = self.find(id).filter(|at| exited(&self.containers[*at].1)) {
            self.containers.swap_remove(at);
        }
        Reply::Done
    }
}

/// The answer to a request for a signal.
pub(super) fn signalled(sent: Result<(), rustix::io::Errno>, signal: i32) -> Reply {
    match sent {
        Ok(()) => Reply::Done,
        Err(rustix::io::Errno::SRCH) => Reply::Gone,
        Err(errno) => {
            Reply::Failed(Failure::system(FailedStep::Handshake, errno, format!("signal {signal}")))
        }
    }
}

/// A start of a container that is there already.
pub(super) fn again(container: &mut Container, sequence: u64) -> Option<Reply> {
    match &mut container.state {
        State::Starting { stage: Stage::Held, process, .. } => {
            Some(Reply::Created { pid: process.pid, start_time: process.start_time })
        }
        State::Expected { waiting, .. } | State::Starting { waiting, .. } | State::Making { waiting, .. } => {
            waiting.push(sequence);
            None
        }
        State::Running { process, started_at, .. } => {
            Some(Reply::Started { pid: process.pid, start_time: process.start_time, started_at: *started_at })
        }
        State::Draining { exit, .. } | State::Clearing { exit } | State::Exited(exit) => {
            Some(Reply::Exited(exit.clone()))
        }
    }
}

fn running(container: &Container) -> Option<(BorrowedFd<'_>, &crate::cgroup::Cgroup)> {
    match &container.state {
        State::Running { process, .. } | State::Starting { process, stage: Stage::Held, .. } => {
            Some((process.as_fd(), &container.cgroup))
        }
        State::Expected { .. }
        | State::Starting { .. }
        | State::Making { .. }
        | State::Draining { .. }
        | State::Clearing { .. }
        | State::Exited(_) => None,
    }
}

/// A path that means the namespace for as long as this process lives and keeps the descriptor.
fn created(pod: &PodNamespaces) -> PodCreated {
    let path = |descriptor: &OwnedFd| {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), descriptor.as_raw_fd()))
    };
    PodCreated {
        network: pod.network.as_ref().map(path),
        init: pod.pid.as_ref().map(|pid| pid.init),
        user: pod.user.as_ref().map(|user| path(&user.namespace)),
        ipc: pod.ipc.as_ref().map(path),
        uts: pod.uts.as_ref().map(path),
        pid: pod.pid.as_ref().map(|pid| path(&pid.namespace)),
    }
}

/// A request that is not even tried.
fn refused(kind: FailureKind, why: &str) -> Failure {
    Failure { kind, step: FailedStep::Prepare, errno: None, subject: why.to_owned() }
}
