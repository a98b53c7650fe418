//! What all actors have in common, and how they do what may block or take too long.
//!
//! Not here: anything of one pod, which is its actor's alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use runtime::cgroup;
use tokio::sync::watch;
use tracing::Span;

use crate::apparmor::Apparmor;
use crate::config::{Config, Features};
use crate::current::Current;
use crate::error::Error;
use crate::events::Events;
use crate::figures::ContactCounts;
use crate::handler::Handler;
use crate::id::{ContainerId, PodId};
use crate::network::Network;
use crate::prepared::PreparedNetworks;
use crate::record::Store;
use crate::registry::Registry;
use crate::rootfs::RootFilesystems;
use crate::selinux::Selinux;
use crate::sources::Sources;
use crate::stats::Looks;
use crate::supervisor::spawn::Binary;
use crate::user_namespaces::UserNamespaces;

/// What all actors have in common.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) host: cgroup::Host,
    /// Whether the kernel can make mounts read-only with all below them.
    pub(crate) recursive_read_only_mounts: bool,
    /// Exchanged by [`Pods::change_over`](crate::Pods::change_over).
    pub(crate) current: watch::Sender<Arc<Current>>,
    pub(crate) apparmor: Apparmor,
    pub(crate) selinux: Selinux,
    pub(crate) registry: Registry,
    pub(crate) events: Events,
    pub(crate) network: Arc<dyn Network>,
    pub(crate) rootfs: Arc<dyn RootFilesystems>,
    pub(crate) supervisor: Binary,
    pub(crate) prepared_networks: Arc<PreparedNetworks>,
    /// Mount sources that are being looked at.
    pub(crate) sources: Sources,
    /// Who looks at what pods use.
    pub(crate) looks: Looks,
    pub(crate) leftovers: Leftovers,
    /// Whether the network has freed what belonged to no pod after a boot, so that the first pods find addresses.
    pub(crate) is_collected: watch::Sender<bool>,
    /// Bytes that may still be kept of what commands print.
    pub(crate) exec_output: Arc<AtomicUsize>,
    pub(crate) contacts: ContactCounts,
    /// Whether this node can do user namespaces, and what stands in the way.
    pub(crate) users: UserNamespaces,
    /// The daemon is going down; nothing new is begun.
    pub(crate) closing: AtomicBool,
}

impl Shared {
    /// What whatever begins now is made by.
    pub(crate) fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.borrow())
    }

    /// What the internal runtime can do.
    pub(crate) fn own_features(&self) -> Features {
        let Self { recursive_read_only_mounts, users, .. } = self;
        Features {
            user_namespaces: users.last().is_ok(),
            recursive_read_only_mounts: *recursive_read_only_mounts,
        }
    }

    /// What a pod can have that was made with a handler, whatever is configured under its name now.
    pub(crate) fn features_of(&self, handler: &Handler) -> Features {
        self.current().features_of(handler, self.own_features())
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// Root filesystems of containers that could be neither made nor undone: thrown away with their pod at the latest.
#[derive(Debug, Default)]
pub(crate) struct Leftovers(Mutex<BTreeMap<PodId, BTreeSet<ContainerId>>>);

impl Leftovers {
    pub(crate) fn add(&self, pod: &PodId, container: &ContainerId) {
        self.lock().entry(pod.clone()).or_default().insert(container.clone());
    }

    /// Takes those of a pod; what can't be thrown away now either is to be added again.
    pub(crate) fn take(&self, pod: &PodId) -> BTreeSet<ContainerId> {
        self.lock().remove(pod).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PodId, BTreeSet<ContainerId>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
    // What is logged over there is of the same request; and a thread that hangs keeps its stage open.
    let span = Span::current();
    let task = tokio::task::spawn_blocking(move || span.in_scope(work));
    let joined = async { task.await.map_err(|cause| Error::step(step, subject, cause))? };
    within((step, subject, after), joined).await
}
