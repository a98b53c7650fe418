//! Remote commands: a client's channels, however they came, joined with a process.
//!
//! | version | its name, `channel.k8s.io` after it | what it adds |
//! |---|---|---|
//! | 1 | (none) | standard streams; text on the error stream, nothing on success |
//! | 2 | `v2.` | |
//! | 3 | `v3.` | the size of the terminal |
//! | 4 | `v4.` | a Status on the error stream, with the exit code |
//! | 5 | `v5.` | half-close; over WebSocket alone, since SPDY can do it by itself |
//!
//! The joining is in [`pump`], the Status in [`status`], SPDY's streams in `spdy`, WebSocket's in `crate::websocket`. Not here:
//! how a process is run.

pub(crate) mod pump;
pub(crate) mod spdy;
pub(crate) mod status;

use futures::future::BoxFuture;

use crate::backend::{Input, Output};

/// A version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    /// `channel.k8s.io`
    V1,
    /// `v2.channel.k8s.io`
    V2,
    /// `v3.channel.k8s.io`
    V3,
    /// `v4.channel.k8s.io`
    V4,
    /// `v5.channel.k8s.io`
    V5,
}

/// What SPDY clients may choose from, and their names, as `X-Stream-Protocol-Version` has them.
pub(crate) const SPDY_VERSIONS: [(&str, Version); 4] = [
    ("v4.channel.k8s.io", Version::V4),
    ("v3.channel.k8s.io", Version::V3),
    ("v2.channel.k8s.io", Version::V2),
    ("channel.k8s.io", Version::V1),
];

/// A client's side of a session. Dropping it ends the connection at once.
pub(crate) struct Channels {
    /// Where the end is told.
    pub(crate) error: Input,
    /// What the client sends to the process, when that is wanted.
    pub(crate) stdin: Option<Output>,
    /// What the process writes; shutting it down tells the client that nothing more comes.
    pub(crate) stdout: Option<Input>,
    /// Likewise.
    pub(crate) stderr: Option<Input>,
    /// Sizes of the terminal: JSON objects one after the other.
    pub(crate) resize: Option<Output>,
    /// Is there when the client has gone, or all is sent and closed. It is polled all along: it may be what moves the bytes.
    pub(crate) gone: BoxFuture<'static, ()>,
    /// Sends what is written and closes the connection; awaited last.
    pub(crate) finish: BoxFuture<'static, ()>,
}
