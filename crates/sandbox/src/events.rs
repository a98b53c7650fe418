//! What happened to pods and containers, for whoever listens.

use std::sync::Arc;

use tokio::sync::broadcast;

use crate::container::status::ContainerStatus;
use crate::pod::status::PodStatus;

/// Events that a slow listener may be behind before it loses the oldest and is told so (`RecvError::Lagged`).
pub const EVENT_BACKLOG: usize = 1024;

/// Something that happened, with the pod as it was right after it.
#[derive(Debug, Clone)]
pub struct Event {
    /// The container, or the pod itself for events of the sandbox.
    pub id: String,
    /// What happened.
    pub kind: EventKind,
    /// When, in nanoseconds since the epoch.
    pub at: i64,
    /// The pod.
    pub pod: Arc<PodStatus>,
    /// All its containers.
    pub containers: Vec<Arc<ContainerStatus>>,
}

/// What can happen (CRI ContainerEventType).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It is there.
    Created,
    /// It runs (a sandbox: it is ready).
    Started,
    /// It ended.
    Stopped,
    /// It is gone.
    Deleted,
}

/// Where events are published.
#[derive(Debug, Clone)]
pub(crate) struct Events(broadcast::Sender<Event>);

impl Events {
    pub(crate) fn new() -> Self {
        Self(broadcast::channel(EVENT_BACKLOG).0)
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.0.subscribe()
    }

    /// Tells everyone who listens; nobody listening is no failure.
    pub(crate) fn publish(&self, event: Event) {
        let _listeners = self.0.send(event);
    }
}
