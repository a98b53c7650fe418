//! What ends a connection.

use std::time::Duration;

use super::frame::GoAwayStatus;

/// Why a connection ended before its time. Whatever the peer is told is in [`Error::status`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes couldn't be had.
    #[error("read from the peer")]
    Read(#[source] std::io::Error),
    /// The bytes couldn't be handed over.
    #[error("write to the peer")]
    Write(#[source] std::io::Error),
    /// A control frame of a version that isn't ours (3).
    #[error("control frame of version {0}")]
    Version(u16),
    /// A control frame above the limit.
    #[error("control frame of type {kind} with {length} bytes, above the limit of {limit}")]
    TooLong {
        /// Its type.
        kind: u16,
        /// What it announced.
        length: usize,
        /// What is allowed.
        limit: usize,
    },
    /// A control frame that doesn't have its type's form.
    #[error("malformed control frame of type {kind}: {why}")]
    Malformed {
        /// Its type.
        kind: u16,
        /// What is wrong.
        why: &'static str,
    },
    /// A header block that can't be used; the compression context is lost with it.
    #[error("header block of stream {stream}")]
    Headers {
        /// Whose.
        stream: u32,
        /// What is wrong.
        #[source]
        cause: super::headers::HeaderError,
    },
    /// A stream was opened with a number that is even, zero or not above the last one.
    #[error("stream opened with number {stream} after {last}")]
    StreamId {
        /// The number.
        stream: u32,
        /// The last one before.
        last: u32,
    },
    /// More in a second than is allowed.
    #[error("flood of {0}")]
    Flood(&'static str),
    /// A window above 2^31 - 1 (draft 3.1, section 2.6.8).
    #[error("window of the connection overflows")]
    Window,
    /// Nothing happened for too long.
    #[error("idle for {} s", .0.as_secs())]
    Idle(Duration),
}

impl Error {
    /// What GOAWAY says of it; nothing when the peer can't be told.
    pub fn status(&self) -> Option<GoAwayStatus> {
        match self {
            Self::Read(_) | Self::Write(_) => None,
            Self::Idle(_) => Some(GoAwayStatus::Ok),
            Self::Version(_)
            | Self::TooLong { .. }
            | Self::Malformed { .. }
            | Self::Headers { .. }
            | Self::StreamId { .. }
            | Self::Flood(_)
            | Self::Window => Some(GoAwayStatus::ProtocolError),
        }
    }
}
