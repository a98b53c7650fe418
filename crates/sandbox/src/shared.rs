//! What all actors have in common.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use runtime::cgroup;

use crate::config::Config;
use crate::error::Error;
use crate::events::Events;
use crate::network::Network;
use crate::record::Store;
use crate::registry::Registry;
use crate::rootfs::RootFilesystems;
use crate::supervisor::spawn::Binary;

/// What all actors have in common.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) host: cgroup::Host,
    pub(crate) registry: Registry,
    pub(crate) events: Events,
    pub(crate) network: Arc<dyn Network>,
    pub(crate) rootfs: Arc<dyn RootFilesystems>,
    pub(crate) supervisor: Binary,
    /// The daemon is going down; nothing new is begun.
    pub(crate) closing: AtomicBool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// Gives a step its deadline.
///
/// # Errors
/// Those of the step, and [`Error::Deadline`].
pub(crate) async fn within<T>(
    (step, subject, after): (&'static str, &str, Duration),
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(after, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::Deadline { step, subject: subject.to_owned(), after }),
    }
}

/// Does work that may block on a thread of its own, with a deadline. Work that hangs (a dead network filesystem) keeps
/// its thread; the caller goes on.
///
/// # Errors
/// Those of the work, and [`Error::Deadline`].
pub(crate) async fn blocking<T: Send + 'static>(
    (step, subject, after): (&'static str, &str, Duration),
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let task = tokio::task::spawn_blocking(work);
    let joined = async { task.await.map_err(|cause| Error::step(step, subject, cause))? };
    within((step, subject, after), joined).await
}
