//! Work that blocks, off the threads of the runtime.

use std::io;

use crate::error::Error;

/// Runs `work` on a thread for blocking work. Safe to cancel: the work goes on to its end.
///
/// # Errors
/// Those of the work; [`Error::Thread`] if it ended without an answer.
pub(crate) async fn blocking<T, F>(what: &'static str, work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, Error> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(cause) => Err(Error::Thread { what, cause: io::Error::other(cause) }),
    }
}
