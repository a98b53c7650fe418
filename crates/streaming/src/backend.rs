//! What the server needs of whoever runs processes.

use async_trait::async_trait;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

/// Where a process reads from: what is written here is its standard input. Shutting it down, or dropping it, is end of file.
pub type Input = Box<dyn AsyncWrite + Send + Unpin>;

/// What a process writes.
pub type Output = Box<dyn AsyncRead + Send + Unpin>;

/// Changes the size of a terminal.
pub type Resize = Box<dyn Fn(Size) + Send + Sync>;

/// A connection to a port.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Runs what clients ask for.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Runs a command. Safe to cancel: what was begun is ended.
    ///
    /// # Errors
    /// [`Failure`] when it can't be started; the client is shown the message.
    async fn exec(&self, request: &ExecRequest) -> Result<Session, Failure>;

    /// Joins the streams of a container's first process. Safe to cancel.
    ///
    /// # Errors
    /// [`Failure`] when it doesn't run.
    async fn attach(&self, request: &AttachRequest) -> Result<Session, Failure>;

    /// Connects to a port of a pod. Safe to cancel.
    ///
    /// # Errors
    /// [`Failure`] when nobody listens there.
    async fn connect(&self, pod: &str, port: u16) -> Result<Box<dyn Duplex>, Failure>;
}

/// What a token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Run a command.
    Exec(ExecRequest),
    /// Join a container's streams.
    Attach(AttachRequest),
    /// Reach ports of a pod.
    PortForward {
        /// The pod.
        pod: String,
        /// Those that may be reached; empty for all.
        ports: Vec<u16>,
    },
}

/// A command to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecRequest {
    /// Where.
    pub container: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// What the client wants to be connected to.
    pub streams: Streams,
}

/// A container whose streams are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachRequest {
    /// Which.
    pub container: String,
    /// What the client wants to be connected to.
    pub streams: Streams,
}

/// Which streams a client is connected to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are the contract's, and independent of each other")]
pub struct Streams {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error; not together with a terminal, which has one output.
    pub stderr: bool,
    /// Whether there is a terminal.
    pub tty: bool,
}

/// The size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Its width.
    pub columns: u16,
    /// Its height.
    pub rows: u16,
}

/// A process that a client is connected to. Dropping it before the end ends a command with its children; a container that was
/// attached to goes on.
pub struct Session {
    /// Its standard input, when that was wanted and is there.
    pub stdin: Option<Input>,
    /// Its standard output, or its terminal's.
    pub stdout: Option<Output>,
    /// Its standard error.
    pub stderr: Option<Output>,
    /// For a terminal.
    pub resize: Option<Resize>,
    /// Its end.
    pub ended: BoxFuture<'static, Result<Ended, Failure>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Session").finish_non_exhaustive()
    }
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The command's exit status, or 128 and the number of the signal that ended it.
    Exited(i32),
    /// The container's output has ended, or the client was cut off: then why.
    Detached(Option<String>),
}

/// Why something couldn't be done, as the client is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);
