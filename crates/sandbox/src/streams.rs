//! A process and somebody who is connected to it: which streams, how they are read and written, what comes of it.
//!
//! ```text
//! Pods::exec ────┐                      ┌── stdin, stdout, stderr: bytes, past the pod's actor and (exec, input) past the supervisor
//!                ├─► StreamSession ─────┼── terminal: its size
//! Pods::attach ──┘                      └── ending: how it ended; dropping it ends a command, and leaves a container alone
//! ```
//!
//! Not here: how a command is started (see `exec`), how a container's output gets here (the runtime crate's `supervisor`), and what
//! clients speak.

mod for_one;
mod io;

pub(crate) use for_one::InputForOne;
pub use io::{Input, Output, Terminal};
pub(crate) use io::{Pipe, failed, read_pipe, write_pipe};

use crate::error::Error;
use crate::supervisor::client::{Attachment, Exec};

/// Which streams somebody wants to be connected to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are CRI's, and independent of each other")]
pub struct StreamChoice {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error. A terminal has one output, which is standard output.
    pub stderr: bool,
    /// A command: whether it gets a terminal. Attaching: whether the caller takes the container to have one, which is refused where
    /// it has none.
    pub terminal: bool,
}

/// A process that somebody is connected to.
///
/// Its parts may be taken out and used apart. A command's terminal is hung up, and the command killed, when its input, its
/// output and [`Terminal`] are all dropped.
#[derive(Debug)]
pub struct StreamSession {
    /// What is written here the process reads; dropping it, or shutting it down, is end of file (but for a terminal, whose
    /// reader finds that in what is typed). `None` when it was not asked for, or the container has none.
    pub stdin: Option<Input>,
    /// Its standard output, or that of its terminal.
    pub stdout: Option<Output>,
    /// Its standard error.
    pub stderr: Option<Output>,
    /// Its terminal, if it has one.
    pub terminal: Option<Terminal>,
    /// Its end. Dropped before that, a command is killed with its process group and its
    /// session, and a container goes on.
    pub ending: Ending,
}

impl StreamSession {
    /// How it ended: see [`Ending::ended`]. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::OutOfTouch`] when the connection to the supervisor is lost.
    pub async fn ended(&mut self) -> Result<End, Error> {
        self.ending.ended().await
    }

    /// Changes the size of the terminal; nothing where there is none.
    ///
    /// # Errors
    /// [`Error::Step`] with what the kernel says.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<(), Error> {
        self.terminal.as_ref().map_or(Ok(()), |terminal| terminal.resize(columns, rows))
    }
}

/// Where the end of a session is told.
#[derive(Debug)]
pub struct Ending(pub(crate) Of);

/// Whose end it is.
#[derive(Debug)]
pub(crate) enum Of {
    /// A command's.
    Exec(Exec),
    /// That of a connection to a container.
    Attachment(Attachment),
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The command has ended with this exit status, or 128 and the number of the signal. What it has written may still be on its
    /// way, and a process that it left behind may go on writing.
    Exited(i32),
    /// The container has ended, and all of its output is there to be read, with the end of file behind it.
    OutputEnded,
    /// The output was not read fast enough: what the container wrote since is lost here, and in its log.
    TooSlow,
}

impl Ending {
    /// Waits for the end. Safe to cancel; asked again after the end it doesn't answer.
    ///
    /// # Errors
    /// [`Error::OutOfTouch`] when the connection to the supervisor is lost: a command has been killed then, a container goes on.
    pub async fn ended(&mut self) -> Result<End, Error> {
        match &mut self.0 {
            Of::Exec(exec) => exec.exited().await.map(End::Exited),
            Of::Attachment(attachment) => attachment.detached().await,
        }
    }
}
