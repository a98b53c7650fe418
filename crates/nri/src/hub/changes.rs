//! What plugins want of containers that are there: in answers about other ones, and by themselves.
//!
//! There is one queue for all of it, filled in the order of the answers, so that of two changes of one container the later one stays. Each is
//! begun before the next one is looked at, and ends by itself: a container that takes long keeps nobody but those who want
//! something of it, which its pod does in their order.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::{Core, Runtime};
use crate::api;
use crate::ttrpc::{Status, code};

/// What is wanted at a time.
pub(crate) struct Wanted {
    updates: Vec<api::ContainerUpdate>,
    evictions: Vec<api::ContainerEviction>,
    /// Where it is told what failed.
    told: oneshot::Sender<Vec<api::ContainerUpdate>>,
}

/// What comes of something that is wanted: what failed of it.
pub(crate) type Outcome = oneshot::Receiver<Vec<api::ContainerUpdate>>;

impl Core {
    /// Has changes and evictions carried out after all that was wanted before.
    pub(crate) fn want(
        &self,
        updates: Vec<api::ContainerUpdate>,
        evictions: Vec<api::ContainerEviction>,
    ) -> Option<Outcome> {
        if updates.is_empty() && evictions.is_empty() {
            return None;
        }
        let (told, outcome) = oneshot::channel();
        let _going_down = self.changes.send(Wanted { updates, evictions, told });
        Some(outcome)
    }

    /// Carries out what a plugin wants by itself, and returns what failed. Safe to cancel; it goes on.
    pub(crate) async fn unsolicited(
        &self,
        asked: api::UpdateContainersRequest,
    ) -> Result<Vec<api::ContainerUpdate>, Status> {
        let Some(outcome) = self.want(asked.update, asked.evict) else { return Ok(Vec::new()) };
        let gone = |_| Status { code: code::FAILED_PRECONDITION, message: "the runtime goes down".into() };
        outcome.await.map_err(gone)
    }

    /// Waits until what was wanted has come about, as long as a request may take: the container may be one that waits for whoever asks.
    /// Safe to cancel.
    pub(crate) async fn settled(&self, outcome: Option<Outcome>) {
        let Some(outcome) = outcome else { return };
        if tokio::time::timeout(self.config.request_timeout, outcome).await.is_err() {
            tracing::warn!("what a plugin wants of other containers takes long, and is not waited for");
        }
    }
}

/// Carries out what is wanted, for ever.
pub(super) async fn run(core: Arc<Core>, mut queue: mpsc::UnboundedReceiver<Wanted>) {
    let mut work = JoinSet::new();
    loop {
        tokio::select! {
            wanted = queue.recv() => {
                let (Some(wanted), Some(runtime)) = (wanted, core.runtime.get()) else { continue };
                for task in tasks(runtime.clone(), wanted) {
                    begin(&mut work, task).await;
                }
            }
            Some(_) = work.join_next() => {}
        }
    }
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

fn tasks(runtime: Arc<dyn Runtime>, wanted: Wanted) -> [Task; 2] {
    let Wanted { updates, evictions, told } = wanted;
    let evicting = runtime.clone();
    [
        Box::pin(async move { evicting.evict(evictions).await }),
        Box::pin(async move {
            let _has_gone = told.send(runtime.update(updates).await);
        }),
    ]
}

/// Brings a task to where it has to wait for the first time, and leaves it to itself.
async fn begin(work: &mut JoinSet<()>, mut task: Task) {
    let is_done = std::future::poll_fn(|context| Poll::Ready(task.as_mut().poll(context).is_ready())).await;
    if !is_done {
        work.spawn(task);
    }
}
