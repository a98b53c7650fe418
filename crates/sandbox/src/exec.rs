//! Running a command in a container and collecting what it prints.

use std::time::Duration;

/// The most of each stream that is kept (the limit that CRI clients know from other runtimes).
pub const OUTPUT_LIMIT: usize = 16 << 20;

/// A command to run in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecRequest {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// After this time it is killed; `None` for no limit.
    pub timeout: Option<Duration>,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Exit status, or 128 and the number of the signal.
    pub exit_code: i32,
    /// Standard output, at most [`OUTPUT_LIMIT`] bytes of it.
    pub stdout: Vec<u8>,
    /// Standard error, likewise.
    pub stderr: Vec<u8>,
}
