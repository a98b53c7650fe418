//! The daemon's end of a pod's supervisor.
//!
//! Not here: the supervisor itself, and the frames that go to and fro (the runtime crate's `supervisor` and `wire`).

pub(crate) mod client;
mod connection;
pub(crate) mod spawn;
pub(crate) mod trial;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::error::Error;
use crate::id::ContainerId;
use crate::pod::namespace::NetworkNamespace;
use crate::pod::state::ProcessId;
use client::{Client, ExitReport};

/// How long the end of a supervisor may take to follow that of its connection.
const END_OF_LOST: Duration = Duration::from_secs(1);

/// What a supervisor tells unasked.
#[derive(Debug)]
pub(crate) enum News {
    /// A container has ended.
    Exited(ContainerId, ExitReport),
    /// A container's log, or its copy, can't be written.
    LogFailed(ContainerId, PathBuf, io::Error),
    /// It can be again, or the container has ended: so many lines and bytes are lost.
    LogLost(ContainerId, PathBuf, (u64, u64)),
    /// The connection is gone. The supervisor may live: it gives up a daemon that doesn't read.
    OutOfTouch,
    /// The supervisor is gone.
    Lost,
}

/// A supervisor that answers.
#[derive(Debug)]
pub(crate) struct Minder {
    /// Its connection.
    pub(crate) client: Client,
    /// Which process it is.
    pub(crate) process: ProcessId,
    /// The pod's network namespace, once there is one.
    pub(crate) netns: Option<Arc<NetworkNamespace>>,
    /// A descriptor that cannot come to mean another process.
    pidfd: Child,
    news: mpsc::UnboundedReceiver<News>,
}

impl Minder {
    /// Takes charge of a connected supervisor, which says that it is this process; `None` when there is no such process any more.
    ///
    /// # Errors
    /// [`Error::Exhausted`] or [`Error::Step`] when it can't be told whether there is.
    pub(crate) fn new(
        client: Client,
        news: mpsc::UnboundedReceiver<News>,
        pid: i32,
    ) -> Result<Option<Self>, Error> {
        let found = identify(pid);
        let found = found.map_err(|cause| Error::step("finding the supervisor", pid.to_string(), cause))?;
        Ok(found.map(|(process, pidfd)| Self { client, process, netns: None, pidfd: Child(pidfd), news }))
    }

    /// What it tells next. Safe to cancel: a loss is told again.
    pub(crate) async fn news(&mut self) -> News {
        match self.news.recv().await {
            Some(news @ (News::Exited(..) | News::LogFailed(..) | News::LogLost(..))) => news,
            // Its end follows that of the connection at once, and has to be waited for as every child's.
            Some(News::OutOfTouch | News::Lost) | None => match self.ended(END_OF_LOST).await {
                true => News::Lost,
                false => News::OutOfTouch,
            },
        }
    }

    /// Ends it: by asking, and when that takes too long by SIGKILL.
    ///
    /// # Errors
    /// [`Error::Deadline`] when it does not even end then.
    pub(crate) async fn end(&self, after: Duration) -> Result<(), Error> {
        let asked = self.client.shutdown(after).await;
        if asked.is_ok() && self.ended(after).await {
            return Ok(());
        }
        // ESRCH: it has ended in the meantime.
        let _gone = pidfd_send_signal(&self.pidfd.0, Signal::KILL);
        match self.ended(after).await {
            true => Ok(()),
            false => Err(Error::Deadline {
                step: "the end of the supervisor",
                subject: self.process.pid.to_string(),
                after,
            }),
        }
    }

    /// Whether it ends in time.
    async fn ended(&self, after: Duration) -> bool {
        let Ok(pidfd) = self.pidfd.0.try_clone().and_then(polled) else { return false };
        // Waiting for readability is cancel-safe, and a pidfd stays readable once its process has ended.
        let ended = tokio::time::timeout(after, pidfd.readable()).await.is_ok_and(|ready| ready.is_ok());
        let _other = reaped(&self.pidfd.0);
        ended
    }
}

/// A supervisor's process, which has to be waited for as every child's: also one that was given up, and ends with its cgroup.
#[derive(Debug)]
struct Child(OwnedFd);

impl Drop for Child {
    fn drop(&mut self) {
        if reaped(&self.0) {
            return;
        }
        let (Ok(executor), Ok(pidfd)) = (Handle::try_current(), self.0.try_clone().and_then(polled)) else {
            return;
        };
        // Nobody waits for this: it ends with the supervisor, or with the daemon, whose children are then init's.
        executor.spawn(async move {
            let _ended = pidfd.readable().await.map(drop);
            reaped(pidfd.get_ref());
        });
    }
}

/// Reaps a process that has ended. Whether there is nothing more to wait for; ECHILD: it was a child of an earlier daemon's.
fn reaped(pidfd: &OwnedFd) -> bool {
    let waited = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    !matches!(waited, Ok(None))
}

/// Has the executor poll a descriptor that its owner keeps open and the same until it is dropped.
///
/// # Errors
/// What epoll refuses.
#[expect(
    deprecated,
    reason = "what replaces it can't be called without `unsafe`, which this crate has none of; owned descriptors meet its terms"
)]
pub(crate) fn polled<T: AsRawFd>(descriptor: T) -> std::io::Result<AsyncFd<T>> {
    AsyncFd::new(descriptor)
}

/// Which process has this number now, with a descriptor of it; `None` when none has.
///
/// # Errors
/// What keeps from finding out, such as no descriptor that is left: it says nothing about the process.
fn identify(pid: i32) -> io::Result<Option<(ProcessId, OwnedFd)>> {
    let Some(number) = rustix::process::Pid::from_raw(pid.max(0)) else { return Ok(None) };
    let found = start_time(pid).and_then(|start_time| {
        let pidfd = pidfd_open(number, PidfdFlags::NONBLOCK)?;
        Ok((ProcessId { pid, start_time }, pidfd))
    });
    // The descriptor between two equal times: it cannot be that of another process.
    let same = found.and_then(|found| Ok((start_time(pid)? == found.0.start_time).then_some(found)));
    match same {
        Err(error) if is_no_process(&error) => Ok(None),
        told => told,
    }
}

/// proc(5): ENOENT where none has the number, ESRCH where it ended while it was read; pidfd_open(2): ESRCH.
fn is_no_process(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::SRCH))
}

/// When a process started, in clock ticks since boot (proc(5), field 22 of `stat`).
fn start_time(pid: i32) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the name in parentheses, which may have blanks and parentheses in it.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    // Fields from the third on: the 22nd is the 20th of them.
    let time = rest.split_whitespace().nth(19).and_then(|field| field.parse().ok());
    time.ok_or_else(|| io::Error::other("it has no time of its start in /proc"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_number_and_the_time_of_its_start() {
        let own = std::process::id().cast_signed();
        let (process, _) = identify(own).unwrap().unwrap();
        assert!(process.pid == own && process.start_time > 0);
        assert_eq!(identify(own).unwrap().unwrap().0, process);
    }

    #[test]
    fn a_number_that_nobody_has_is_of_no_process() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        for pid in [child.id().cast_signed(), 0, -1] {
            assert!(identify(pid).unwrap().is_none(), "{pid}");
        }
    }
}
