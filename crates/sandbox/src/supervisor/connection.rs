//! Requests and replies over one socket: any number at once, told apart by their sequence numbers.
//!
//! A task of its own reads the socket; it ends with the last handle. When the supervisor goes, everybody who waits is told.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use runtime::wire::frame::Kind;
use runtime::wire::{DetachReason, Event, ExecExit, Message, Received, Reply, Request, Socket, WireError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::error::Error;
use crate::id::ContainerId;
use crate::supervisor::client::ExitReport;
use crate::supervisor::{News, polled};

/// A handle of a connection. Cloning gives another to the same one.
#[derive(Debug, Clone)]
pub(crate) struct Connection(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    inner: Arc<Inner>,
    reader: AbortHandle,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// A socket in the form that the executor polls.
#[derive(Debug)]
struct Polled(Socket);

impl AsRawFd for Polled {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

#[derive(Debug)]
struct Inner {
    socket: AsyncFd<Polled>,
    /// Whose supervisor it is, for messages.
    pod: String,
    sequence: AtomicU64,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    is_closed: bool,
    replies: HashMap<u64, oneshot::Sender<io::Result<Answer>>>,
    execs: HashMap<String, oneshot::Sender<ExecExit>>,
    attachments: HashMap<String, oneshot::Sender<DetachReason>>,
}

/// A reply, and what came with it.
type Answer = (Reply, Vec<OwnedFd>);

/// What is done by asking, on what, and how long the answer may take.
pub(crate) type Attempt<'a> = (&'static str, &'a str, Duration);

impl Connection {
    /// Begins to read a connected socket.
    ///
    /// # Errors
    /// [`Error::Step`] when the socket can't be polled.
    pub(crate) fn new(socket: Socket, pod: &str) -> Result<(Self, mpsc::UnboundedReceiver<News>), Error> {
        let socket = polled(Polled(socket))
            .map_err(|cause| Error::step("polling the supervisor's socket", pod, cause))?;
        let inner = Arc::new(Inner {
            socket,
            pod: pod.to_owned(),
            sequence: AtomicU64::new(1),
            waiting: Mutex::default(),
        });
        let (news, receiver) = mpsc::unbounded_channel();
        let reader = tokio::spawn(read(inner.clone(), news)).abort_handle();
        Ok((Self(Arc::new(Handle { inner, reader })), receiver))
    }

    /// Whose supervisor it is.
    pub(crate) fn pod(&self) -> &str {
        &self.0.inner.pod
    }

    /// Whether the other end is open still, which the kernel closes before it gives the number of the process to another one.
    pub(crate) fn is_open(&self) -> bool {
        let socket = &self.0.inner.socket.get_ref().0;
        let mut polled = [PollFd::new(socket, PollFlags::empty())];
        // Nothing to wait for: an end that is closed is told whether it was asked for or not.
        let told = poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        told.is_ok() && !polled[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
    }

    /// Asks, and waits for the reply. Safe to cancel: the reply is dropped then.
    ///
    /// # Errors
    /// [`Error::OutOfTouch`] when the connection is gone, [`Error::Step`] when the request can't be sent, [`Error::Deadline`],
    /// [`Error::Exhausted`] when there was no descriptor left for what the reply brought: what it tells of has happened.
    pub(crate) async fn ask(
        &self,
        request: Request,
        descriptors: Vec<OwnedFd>,
        attempt: Attempt<'_>,
    ) -> Result<Reply, Error> {
        self.ask_for_descriptors(request, descriptors, attempt).await.map(|(reply, _)| reply)
    }

    /// The same, for a reply that descriptors come with. Safe to cancel: they are closed then.
    ///
    /// # Errors
    /// As those of [`ask`](Self::ask).
    pub(crate) async fn ask_for_descriptors(
        &self,
        request: Request,
        descriptors: Vec<OwnedFd>,
        (step, subject, after): Attempt<'_>,
    ) -> Result<Answer, Error> {
        let inner = &self.0.inner;
        let work = async {
            let (awaited, reply) = inner.expect_reply()?;
            let sent = inner.send(awaited.sequence, &Message::Request(request), &descriptors).await;
            sent.map_err(|cause| Error::step(step, subject, cause))?;
            // The supervisor has its own now.
            drop(descriptors);
            let reply = reply.await.map_err(|_| Error::OutOfTouch { pod: inner.pod.clone() })?;
            reply.map_err(|cause| Error::step(step, subject, cause))
        };
        crate::shared::within((step, subject, after), work).await
    }

    /// Says something whose reply nobody needs, without waiting: behind a full socket it waits on its own, a closed one swallows it.
    pub(crate) fn say(&self, request: Request) {
        let inner = self.0.inner.clone();
        let sequence = inner.sequence.fetch_add(1, Ordering::Relaxed);
        let message = Message::Request(request);
        if let Err(WireError::Full) = inner.socket.get_ref().0.send(sequence, &message, &[]) {
            // Owned by nobody, but it ends: with room in the socket, or with the other end.
            tokio::spawn(async move {
                let _swallowed = inner.send(sequence, &message, &[]).await;
            });
        }
    }

    /// Where the end of a process that joins a container will be told. To be asked for before the process is.
    pub(crate) fn expect_exec(&self, exec: &str) -> oneshot::Receiver<ExecExit> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.0.inner.waiting();
        if !waiting.is_closed {
            waiting.execs.insert(exec.to_owned(), sender);
        }
        receiver
    }

    /// Its end is of no interest any more.
    pub(crate) fn forget_exec(&self, exec: &str) {
        self.0.inner.waiting().execs.remove(exec);
    }

    /// Where the end of an attachment will be told. To be asked for before it is.
    pub(crate) fn expect_detached(&self, attachment: &str) -> oneshot::Receiver<DetachReason> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.0.inner.waiting();
        if !waiting.is_closed {
            waiting.attachments.insert(attachment.to_owned(), sender);
        }
        receiver
    }

    /// Its end is of no interest any more.
    pub(crate) fn forget_attachment(&self, attachment: &str) {
        self.0.inner.waiting().attachments.remove(attachment);
    }
}

/// A request that a reply is expected to; dropping it gives the expectation up.
struct Awaited<'a> {
    inner: &'a Inner,
    sequence: u64,
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        self.inner.waiting().replies.remove(&self.sequence);
    }
}

impl Inner {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expect_reply(&self) -> Result<(Awaited<'_>, oneshot::Receiver<io::Result<Answer>>), Error> {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.waiting();
        if waiting.is_closed {
            return Err(Error::OutOfTouch { pod: self.pod.clone() });
        }
        waiting.replies.insert(sequence, sender);
        drop(waiting);
        Ok((Awaited { inner: self, sequence }, receiver))
    }

    async fn send(&self, sequence: u64, message: &Message, descriptors: &[OwnedFd]) -> io::Result<()> {
        let attempt = |socket: &Polled| {
            let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            socket.0.send(sequence, message, &borrowed).map_err(|error| match error {
                WireError::Full => io::ErrorKind::WouldBlock.into(),
                other => io::Error::other(other),
            })
        };
        // There is nearly always room, and trying is cheaper than asking.
        match attempt(self.socket.get_ref()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.socket.async_io(Interest::WRITABLE, attempt).await
            }
            outcome => outcome,
        }
    }

    async fn receive(&self) -> io::Result<Received> {
        let attempt = |socket: &Polled| match socket.0.receive() {
            Ok(Received::Pending) => Err(io::ErrorKind::WouldBlock.into()),
            Ok(received) => Ok(received),
            Err(error) => Err(io::Error::other(error)),
        };
        self.socket.async_io(Interest::READABLE, attempt).await
    }

    fn close(&self) {
        let mut waiting = self.waiting();
        waiting.is_closed = true;
        // Dropping the senders tells everybody who waits.
        waiting.replies.clear();
        waiting.execs.clear();
        waiting.attachments.clear();
    }

    fn take(&self, sequence: u64, message: Message, descriptors: Vec<OwnedFd>) -> Option<News> {
        match message {
            Message::Reply(reply) => {
                if let Some(sender) = self.waiting().replies.remove(&sequence) {
                    let _nobody_waits = sender.send(Ok((reply, descriptors)));
                }
                None
            }
            Message::Event(Event::ExecExited(exit)) => {
                if let Some(sender) = self.waiting().execs.remove(&exit.exec) {
                    let _nobody_waits = sender.send(exit);
                }
                None
            }
            Message::Event(Event::Detached { attachment, why }) => {
                if let Some(sender) = self.waiting().attachments.remove(&attachment) {
                    let _nobody_waits = sender.send(why);
                }
                None
            }
            Message::Event(Event::ContainerExited(exit)) => {
                let id = ContainerId::try_from(exit.container.clone()).ok()?;
                Some(News::Exited(id, ExitReport::from(&exit)))
            }
            Message::Event(Event::LogWriteFailed { container, path, errno }) => {
                let id = ContainerId::try_from(container).ok()?;
                Some(News::LogFailed(id, path, io::Error::from_raw_os_error(errno)))
            }
            Message::Event(Event::LogLost { container, path, lines, bytes }) => {
                let id = ContainerId::try_from(container).ok()?;
                Some(News::LogLost(id, path, (lines, bytes)))
            }
            Message::Request(_) => {
                tracing::warn!(pod = self.pod, "a supervisor asked its daemon something");
                None
            }
        }
    }
}

async fn read(inner: Arc<Inner>, news: mpsc::UnboundedSender<News>) {
    loop {
        let told = match inner.receive().await {
            Ok(Received::Message { sequence, message, descriptors, .. }) => {
                inner.take(sequence, *message, descriptors)
            }
            Ok(Received::Unreadable { sequence, why, .. }) => {
                tracing::warn!(
                    pod = inner.pod,
                    why,
                    "a newer supervisor tells what this daemon does not know"
                );
                // Whoever waits for it must not wait in vain.
                inner.waiting().replies.remove(&sequence);
                None
            }
            // Of that request alone: whoever waits gives up what it was for, as if its client had gone.
            Ok(Received::Incomplete { sequence, kind: Kind::Reply }) => {
                tracing::warn!(pod = inner.pod, "no descriptor is left for what a supervisor answered");
                if let Some(sender) = inner.waiting().replies.remove(&sequence) {
                    let _nobody_waits = sender.send(Err(Errno::MFILE.into()));
                }
                None
            }
            Ok(Received::Incomplete { kind: Kind::Request | Kind::Event, .. }) => {
                // It can't be done without: whoever calls again is told what there is.
                tracing::warn!(pod = inner.pod, "no descriptor is left for what a supervisor tells");
                break;
            }
            Ok(Received::Pending) => None,
            Ok(Received::Closed) => break,
            Err(error) => {
                tracing::warn!(pod = inner.pod, %error, "the connection to a supervisor broke");
                break;
            }
        };
        if let Some(told) = told
            && news.send(told).is_err()
        {
            break;
        }
    }
    inner.close();
    let _nobody_listens = news.send(News::OutOfTouch);
}
