//! The bytes: pipes and terminals as tokio reads and writes them.
//!
//! Not here: whose they are (the parent module), and a container's input that is for one (`for_one`).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe::{Receiver, Sender};

use super::for_one::InputForOne;
use crate::error::Error;
use crate::id::ContainerId;
use crate::supervisor::client::{InputEnd, Killer};
use crate::supervisor::polled;

/// What is written here a process reads.
#[derive(Debug)]
pub struct Input {
    /// Before `end`: whoever hears of the end finds the pipe closed.
    to: Option<To>,
    end: Option<InputEnd>,
}

#[derive(Debug)]
enum To {
    Pipe(Sender),
    /// One of those who write there, by its number.
    ForOne(Arc<InputForOne>, usize),
    Terminal(Arc<Master>),
}

/// What is read here a process has written. A terminal that its last process has closed is at its end.
#[derive(Debug)]
pub struct Output(From);

#[derive(Debug)]
enum From {
    Pipe(Receiver),
    Terminal(Arc<Master>),
}

/// A terminal. Cloning gives another handle.
#[derive(Debug, Clone)]
pub struct Terminal(Arc<Master>);

/// The master side of a terminal.
#[derive(Debug)]
struct Master {
    master: AsyncFd<Polled>,
    /// Who is killed when nobody holds it any more. Before it is closed: a shell that ended by the hang-up would leave its jobs behind.
    process: Option<Killer>,
}

impl Drop for Master {
    fn drop(&mut self) {
        if let Some(process) = &self.process {
            process.kill();
        }
    }
}

#[derive(Debug)]
struct Polled(OwnedFd);

impl AsRawFd for Polled {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Terminal {
    /// Takes the master side of a terminal, and the process whose it is alone. To be called within a runtime.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub(crate) fn new(master: OwnedFd, process: Option<Killer>) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&master, true)?;
        let master = polled(Polled(master))?;
        Ok(Self(Arc::new(Master { master, process })))
    }

    /// What is typed.
    pub(crate) fn input(&self) -> Input {
        Input { to: Some(To::Terminal(self.0.clone())), end: None }
    }

    /// What is shown.
    pub(crate) fn output(&self) -> Output {
        Output(From::Terminal(self.0.clone()))
    }

    /// Changes its size. The foreground process group hears of it (SIGWINCH) when it is another one.
    ///
    /// # Errors
    /// [`Error::Step`] with what the kernel says.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<(), Error> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let subject = || format!("{columns}x{rows}");
        tcsetwinsize(&self.0.master.get_ref().0, size)
            .map_err(|errno| Error::step("resizing the terminal", subject(), io::Error::from(errno)))
    }
}

impl Input {
    /// The writing end of a pipe. To be called within a runtime.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub(crate) fn pipe(writing: OwnedFd) -> io::Result<Self> {
        let sender = Sender::from_owned_fd(writing)?;
        Ok(Self { to: Some(To::Pipe(sender)), end: None })
    }

    /// One of those who write to a container's input that is for one.
    pub(super) fn for_one(input: Arc<InputForOne>, number: usize) -> Self {
        Self { to: Some(To::ForOne(input, number)), end: None }
    }

    /// Has somebody told when it ends.
    pub(crate) fn ending(mut self, end: InputEnd) -> Self {
        self.end = Some(end);
        self
    }

    fn close(&mut self) {
        if let Some(To::ForOne(input, _)) = self.to.take() {
            input.end();
        }
        if let Some(end) = self.end.take() {
            end.say();
        }
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.close();
    }
}

impl AsyncWrite for Input {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.to {
            Some(To::Pipe(sender)) => Pin::new(sender).poll_write(context, bytes),
            Some(To::ForOne(input, number)) => input.poll_write(*number, context, bytes),
            Some(To::Terminal(master)) => master.poll_write(context, bytes),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.close();
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Output {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.0 {
            From::Pipe(receiver) => Pin::new(receiver).poll_read(context, buffer),
            From::Terminal(master) => master.poll_read(context, buffer),
        }
    }
}

impl Master {
    fn poll_write(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.master.poll_write_ready(context))?;
            let attempt = |master: &AsyncFd<Polled>| Ok(rustix::io::write(&master.get_ref().0, bytes)?);
            match guard.try_io(attempt) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(outcome) => return Poll::Ready(outcome),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_read(&self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.master.poll_read_ready(context))?;
            let room = buffer.initialize_unfilled();
            let attempt = |master: &AsyncFd<Polled>| Ok(rustix::io::read(&master.get_ref().0, &mut *room)?);
            match guard.try_io(attempt) {
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                // The last process that had it open has closed it (tty_ioctl, "hangup").
                Ok(Err(error)) if is_hung_up(&error) => return Poll::Ready(Ok(())),
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

fn is_hung_up(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::IO)
}

/// How much a pipe of an attachment's holds, in bytes: the most that may be had without privileges (pipe(7), pipe-max-size).
const ATTACHED: usize = 1 << 20;

/// How large a pipe is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pipe {
    /// As large as they are.
    Ordinary,
    /// For somebody who must not keep the writer waiting.
    Large,
}

/// A pipe that is read here; its other end is for somebody else. To be called within a runtime.
///
/// # Errors
/// What the kernel refuses.
pub(crate) fn read_pipe(pipe: Pipe) -> io::Result<(Output, OwnedFd)> {
    let (reading, writing) = pipe_with(PipeFlags::CLOEXEC)?;
    if pipe == Pipe::Large {
        // Best effort: past its user's share the kernel leaves it as it is (pipe(7), pipe-user-pages-soft).
        let _smaller = fcntl_setpipe_size(&reading, ATTACHED);
    }
    Ok((Output(From::Pipe(Receiver::from_owned_fd(reading)?)), writing))
}

/// A pipe that is written here; its other end is for somebody else. To be called within a runtime.
///
/// # Errors
/// What the kernel refuses.
pub(crate) fn write_pipe() -> io::Result<(Input, OwnedFd)> {
    let (reading, writing) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((Input::pipe(writing)?, reading))
}

/// When the streams of somebody who is connected, or their pipes, can't be made.
pub(crate) fn failed(container: &ContainerId) -> impl Fn(io::Error) -> Error {
    |cause| Error::step("making the streams", container.as_str(), cause)
}
