//! The crate's error.

use std::time::Duration;

/// Why systemd did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address of the bus names no socket that can be used.
    #[error("the bus address \"{address}\" has no unix socket in it")]
    Address {
        /// As it was given.
        address: String,
    },
    /// The bus can't be reached.
    #[error("cannot connect to the bus at \"{address}\"")]
    Connect {
        /// Where it should be.
        address: String,
        /// The system's answer.
        #[source]
        cause: std::io::Error,
    },
    /// The bus doesn't let this process in.
    #[error("the bus at \"{address}\" refuses: \"{said}\"")]
    Authentication {
        /// Where it is.
        address: String,
        /// Its answer.
        said: String,
    },
    /// The connection ended before the answer came.
    #[error("the connection to the bus ended")]
    Closed,
    /// What came over the connection is no message.
    #[error("the bus sent a broken message: {why}")]
    Message {
        /// What is wrong with it.
        why: &'static str,
    },
    /// The call was answered with an error.
    #[error("{method} is refused: {message} ({name})")]
    Call {
        /// The method.
        method: &'static str,
        /// The error's name on the bus.
        name: String,
        /// What is said about it.
        message: String,
    },
    /// The job that was to do it did not.
    #[error("the job for \"{unit}\" ended with \"{result}\"")]
    Job {
        /// The unit.
        unit: String,
        /// Its result: `canceled`, `timeout`, `failed`, `dependency`, `skipped` and others.
        result: String,
    },
    /// Not done in time. When the call itself was not answered its connection was given up, so that it is not done any more;
    /// a job that systemd had begun goes on.
    #[error("no answer to {what} within {after:?}")]
    Deadline {
        /// What was asked.
        what: &'static str,
        /// The deadline.
        after: Duration,
    },
}

impl Error {
    /// Whether it says that there is no such unit.
    pub fn is_no_such_unit(&self) -> bool {
        matches!(self, Self::Call { name, .. } if name == "org.freedesktop.systemd1.NoSuchUnit")
    }
}
