//! Processes that join a container, and connections to the streams of its first one: the daemon's handles of them.
//!
//! Not here: how their bytes are read and written (the crate's `streams`).

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use runtime::plan::ProcessPlan;
use runtime::wire::{
    AttachedInput, DetachReason, ExecExit, Reply, Request, Scope, StartExec, Stream, Target,
};
use runtime::{FailedStep, Failure, FailureKind};
use tokio::sync::oneshot;

use super::{Client, MARGIN, PROMPT, failed, milliseconds};
use crate::error::{Error, Kind};
use crate::id::ContainerId;
use crate::signal::Signal;
use crate::streams::End;

/// A process to be run in a container.
#[derive(Debug)]
pub(crate) struct ExecStart<'a> {
    pub(crate) container: &'a ContainerId,
    pub(crate) process: ProcessPlan,
    /// Its streams; none with a terminal.
    pub(crate) streams: Vec<(Stream, OwnedFd)>,
    /// Until its execve.
    pub(crate) after: Duration,
    /// What is killed with it when nobody wants it any more.
    pub(crate) reach: Scope,
}

/// A process that joined a container. Dropping it before its end kills it with what it has started.
#[derive(Debug)]
pub(crate) struct Exec {
    killer: Killer,
    ended: Option<oneshot::Receiver<ExecExit>>,
}

/// Kills a process that joined a container, unless its end was told.
#[derive(Debug, Clone)]
pub(crate) struct Killer {
    name: String,
    client: Client,
    reach: Scope,
    has_ended: Arc<AtomicBool>,
}

/// It, with the master side of its terminal if it has one.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) exec: Exec,
    pub(crate) terminal: Option<OwnedFd>,
}

/// A container to be attached to.
#[derive(Debug)]
pub(crate) struct Attach<'a> {
    pub(crate) container: &'a ContainerId,
    /// Whether its input is wanted.
    pub(crate) stdin: bool,
    /// Where its output goes.
    pub(crate) outputs: Vec<(Stream, OwnedFd)>,
}

/// A connection to a container's streams. Dropping it before its end ends it; the container goes on.
#[derive(Debug)]
pub(crate) struct Attachment {
    name: String,
    client: Client,
    ended: Option<oneshot::Receiver<DetachReason>>,
}

/// Says that the input of an attachment is not used any more.
#[derive(Debug)]
pub(crate) struct InputEnd {
    name: String,
    client: Client,
}

impl Client {
    /// Has a process join a running container; what it writes goes to the streams, or to its terminal.
    ///
    /// Safe to cancel: the process is killed then.
    ///
    /// # Errors
    /// [`Error::Exec`] with the step that failed, [`Error::WrongState`] when the container has ended, [`Error::Exhausted`] when there
    /// is no descriptor left for its terminal: it is killed then.
    pub(crate) async fn exec(&self, start: ExecStart<'_>) -> Result<Joined, Error> {
        let step = "starting the command";
        let container = start.container.to_string();
        let name = ContainerId::random().to_string();
        let ended = Some(self.connection.expect_exec(&name));
        let (client, has_ended) = (self.clone(), Arc::default());
        let killer = Killer { name: name.clone(), client, reach: start.reach, has_ended };
        let exec = Exec { killer, ended };
        let (streams, descriptors) = start.streams.into_iter().unzip();
        let request = Request::Exec(Box::new(StartExec {
            exec: name,
            container: container.clone(),
            process: start.process,
            streams,
            deadline_ms: milliseconds(start.after),
        }));
        let attempt = (step, container.as_str(), start.after + MARGIN);
        match self.connection.ask_for_descriptors(request, descriptors, attempt).await? {
            (Reply::ExecStarted { .. }, mut descriptors) => Ok(Joined { exec, terminal: descriptors.pop() }),
            (Reply::Failed(failure), _) => Err(not_joined(container, failure)),
            (Reply::Gone, _) => Err(ended_already(container, "have a command run in it")),
            (other, _) => Err(failed((step, &container), other)),
        }
    }

    /// Attaches to a running container. Safe to cancel: the attachment ends then.
    ///
    /// What comes with it is where the container reads from, or its terminal.
    ///
    /// # Errors
    /// [`Error::WrongState`] when it has ended, [`Error::Step`] when it can't be attached to.
    pub(crate) async fn attach(
        &self,
        attach: Attach<'_>,
    ) -> Result<(Attachment, AttachedInput, Option<OwnedFd>), Error> {
        let step = "connecting to the streams";
        let container = attach.container.to_string();
        let name = ContainerId::random().to_string();
        let ended = Some(self.connection.expect_detached(&name));
        let attachment = Attachment { name: name.clone(), client: self.clone(), ended };
        let (mut streams, descriptors): (Vec<_>, Vec<_>) = attach.outputs.into_iter().unzip();
        if attach.stdin {
            streams.push(Stream::Stdin);
        }
        let request = Request::Attach { container: container.clone(), attachment: name, streams };
        let attempt = (step, container.as_str(), PROMPT);
        match self.connection.ask_for_descriptors(request, descriptors, attempt).await? {
            (Reply::Attached { input }, mut descriptors) => Ok((attachment, input, descriptors.pop())),
            (Reply::Gone, _) => Err(ended_already(container, "be attached to")),
            (other, _) => Err(failed((step, &container), other)),
        }
    }
}

fn ended_already(id: String, wish: &'static str) -> Error {
    Error::WrongState { kind: Kind::Container, id, state: "exited", wish }
}

/// Why a command could not be started. A process lets go of its namespaces a moment before its end can be seen.
fn not_joined(container: String, failure: Failure) -> Error {
    if failure.kind == FailureKind::Gone && failure.step == FailedStep::JoinNamespace {
        return ended_already(container, "have a command run in it");
    }
    Error::Exec { container, cause: Arc::new(failure) }
}

impl Exec {
    /// Its exit code, once it has ended. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::OutOfTouch`] when the connection to the supervisor is gone.
    pub(crate) async fn exited(&mut self) -> Result<i32, Error> {
        let exit = ended(&mut self.ended, &self.killer.client).await;
        self.killer.has_ended.store(true, Ordering::Relaxed);
        exit.map(|exit| exit.exit_code)
    }

    /// Kills it, and waits for a moment until it has ended.
    pub(crate) async fn kill(&mut self) {
        self.killer.kill();
        // A process that doesn't even end now is left to the supervisor, which keeps watching it.
        let _overdue = tokio::time::timeout(PROMPT, self.exited()).await;
    }

    /// For somebody else who has to kill it.
    pub(crate) fn killer(&self) -> Killer {
        self.killer.clone()
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        if self.ended.take().is_some() {
            self.killer.kill();
            self.killer.client.connection.forget_exec(&self.killer.name);
        }
    }
}

impl Killer {
    /// Has it killed. Said once and not waited for.
    pub(crate) fn kill(&self) {
        if self.has_ended.swap(true, Ordering::Relaxed) {
            return;
        }
        let target = Target::Exec(self.name.clone());
        let signal = Signal::KILL.number();
        self.client.connection.say(Request::Signal { target, signal, scope: self.reach });
    }
}

impl Attachment {
    /// Why it ended, once it has. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::OutOfTouch`] when the connection to the supervisor is gone.
    pub(crate) async fn detached(&mut self) -> Result<End, Error> {
        ended(&mut self.ended, &self.client).await.map(|why| match why {
            DetachReason::Ended => End::OutputEnded,
            DetachReason::TooSlow => End::TooSlow,
        })
    }

    /// To be said when its input is not used any more.
    pub(crate) fn input_end(&self) -> InputEnd {
        InputEnd { name: self.name.clone(), client: self.client.clone() }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if self.ended.take().is_some() {
            detach(&self.client, &self.name, Vec::new());
            self.client.connection.forget_attachment(&self.name);
        }
    }
}

impl InputEnd {
    /// Says it.
    pub(crate) fn say(self) {
        detach(&self.client, &self.name, vec![Stream::Stdin]);
    }
}

fn detach(client: &Client, name: &str, streams: Vec<Stream>) {
    client.connection.say(Request::Detach { attachment: name.to_owned(), streams });
}

/// What is told at an end. After it there is nothing to wait for.
async fn ended<T>(told: &mut Option<oneshot::Receiver<T>>, client: &Client) -> Result<T, Error> {
    let gone = || Error::OutOfTouch { pod: client.connection.pod().to_owned() };
    let receiver = told.as_mut().ok_or_else(gone)?;
    let outcome = receiver.await;
    *told = None;
    outcome.map_err(|_| gone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_has_let_go_of_its_namespaces_is_said_to_have_ended() {
        let failure = |kind, step| Failure { kind, step, errno: None, subject: "container".to_owned() };
        let gone = not_joined("c".to_owned(), failure(FailureKind::Gone, FailedStep::JoinNamespace));
        assert!(matches!(gone, Error::WrongState { state: "exited", .. }), "{gone:?}");
        for (kind, step) in
            [(FailureKind::NotPermitted, FailedStep::JoinNamespace), (FailureKind::Gone, FailedStep::Prepare)]
        {
            let other = not_joined("c".to_owned(), failure(kind, step));
            assert!(matches!(other, Error::Exec { .. }), "{other:?}");
        }
    }
}
