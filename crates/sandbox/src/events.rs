//! What happened to pods and containers, for whoever listens.
//!
//! Events have an order and times that never go back: kubelet takes one that is older than what it knows for stale, and
//! compares them with the times of statuses, which therefore come from here as well (`Events::now`). What a daemon finds
//! out about the time it was away, and all until somebody listens, is kept for the first listener: who listened to the daemon
//! before this one comes back as soon as it can. Only that it happened is kept; how things are is looked up when it is told.
//! Not here: which events there are (see `pod::state`, `pod::told` and `container::state`), how clients get them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::clock;
use crate::container::status::ContainerStatus;
use crate::id::{ContainerId, PodId};
use crate::pod::status::PodStatus;

/// Events that a slow listener may be behind before it loses the oldest and is told so (`RecvError::Lagged`).
pub const EVENT_BACKLOG: usize = 1024;

/// How long events are kept for the first listener: kubelet comes back within seconds, and who comes much later has no use for them.
const KEPT_FOR: Duration = Duration::from_secs(300);

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

/// What can happen (CRI ContainerEventType), in the order in which it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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

/// A pod with its containers.
pub(crate) type Statuses = (Arc<PodStatus>, Vec<Arc<ContainerStatus>>);

/// Something that happened, without how things are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) pod: PodId,
    /// `None` for events of the sandbox.
    pub(crate) container: Option<ContainerId>,
    pub(crate) kind: EventKind,
}

/// Where events are published.
#[derive(Debug)]
pub(crate) struct Events {
    sender: broadcast::Sender<Event>,
    order: Mutex<Order>,
}

/// What is the same for all listeners.
#[derive(Debug)]
struct Order {
    /// The latest time that was given to an event or a status.
    last: i64,
    /// What nobody has listened to yet; `None` once somebody has, or nobody came for too long.
    kept: Option<Kept>,
    begun: Instant,
}

/// What is kept for the first listener, who may be as far behind as any other.
#[derive(Debug, Default)]
struct Kept {
    notes: VecDeque<Note>,
    /// Once there was no room for all of them: how many there were. Whoever has missed one has to list, and needs none of the others.
    lost: u64,
}

/// Somebody who listens.
#[derive(Debug)]
pub struct Listener {
    /// Of what was kept for it, how many are lost: told before anything else.
    lost: u64,
    kept: VecDeque<Event>,
    events: broadcast::Receiver<Event>,
}

impl Events {
    pub(crate) fn new() -> Self {
        let order = Order { last: 0, kept: Some(Kept::default()), begun: Instant::now() };
        Self { sender: broadcast::channel(EVENT_BACKLOG).0, order: Mutex::new(order) }
    }

    /// Listens from now on, the first time also to what was kept; `look` finds a pod as it is.
    pub(crate) fn subscribe(&self, look: impl Fn(&PodId) -> Option<Statuses>) -> Listener {
        self.give_up_on_listeners();
        let (events, kept, first) = {
            let mut order = self.lock();
            let kept = order.kept.take().unwrap_or_default();
            let first = order.times(kept.notes.len(), clock::now());
            (self.sender.subscribe(), kept, first)
        };
        // Looked up after the times were given: what is seen is no older than its event says.
        let events_kept = (first..).zip(kept.notes).filter_map(|(at, note)| {
            let statuses = look(&note.pod)?;
            note.told(at, statuses)
        });
        Listener { lost: kept.lost, kept: events_kept.collect(), events }
    }

    pub(crate) fn listeners(&self) -> usize {
        self.sender.receiver_count()
    }

    /// The time for a look at how things are that begins now: no event before it has a later time, none after it an earlier one.
    pub(crate) fn now(&self) -> i64 {
        self.lock().now(clock::now())
    }

    /// Tells everyone who listens what has happened now. `statuses` isn't asked when nobody does.
    pub(crate) fn publish(&self, note: Note, statuses: impl Fn() -> Statuses) {
        // Before the lock, which all pods share, but for the first who begins to listen in between.
        let seen = (self.listeners() > 0).then(&statuses);
        let mut order = self.lock();
        let at = order.times(1, clock::now());
        if self.listeners() > 0 {
            // Nobody listening any more is no failure. Sent under the lock, so that the order is that of the times.
            let _listeners = self.sender.send(note.clone().event(at, seen.unwrap_or_else(statuses)));
        }
        if let Some(kept) = &mut order.kept {
            kept.add(note);
        }
    }

    /// Lets go of what is kept for a first listener who has had time enough to come.
    pub(crate) fn give_up_on_listeners(&self) {
        let mut order = self.lock();
        if order.begun.elapsed() > KEPT_FOR {
            order.kept = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Order> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Order {
    fn now(&mut self, clock: i64) -> i64 {
        self.last = self.last.max(clock);
        self.last
    }

    /// The first of so many times, one after the other, that nothing has had yet.
    fn times(&mut self, count: usize, clock: i64) -> i64 {
        let first = clock.max(self.last.saturating_add(1));
        let others = i64::try_from(count).unwrap_or(i64::MAX).saturating_sub(1);
        self.last = first.saturating_add(others);
        first
    }
}

impl Kept {
    fn add(&mut self, note: Note) {
        if note.kind == EventKind::Deleted {
            // Whoever comes finds nothing of it in lists; and kubelet would take it for the end of what has its place by then.
            return self.notes.retain(|kept| !note.ends(kept));
        }
        if self.notes.len() == EVENT_BACKLOG {
            self.lost = std::mem::take(&mut self.notes).len() as u64;
        }
        match self.lost {
            0 => self.notes.push_back(note),
            lost => self.lost = lost.saturating_add(1),
        }
    }
}

impl Note {
    /// Whether another one is about what is gone with this one's.
    fn ends(&self, other: &Self) -> bool {
        self.pod == other.pod && (self.container.is_none() || self.container == other.container)
    }

    fn event(self, at: i64, (pod, containers): Statuses) -> Event {
        let id = self.container.map_or_else(|| self.pod.to_string(), |container| container.to_string());
        Event { id, kind: self.kind, at, pod, containers }
    }

    /// Tells of it later; `None` when what it is about has gone meanwhile.
    fn told(self, at: i64, statuses: Statuses) -> Option<Event> {
        let is_there = |id: &ContainerId| statuses.1.iter().any(|container| container.id == *id);
        self.container.as_ref().is_none_or(is_there).then(|| self.event(at, statuses))
    }
}

impl Listener {
    /// The next event. Safe to cancel.
    ///
    /// # Errors
    /// As for [`broadcast::Receiver::recv`]: how many were lost, or that there will be none any more.
    pub async fn recv(&mut self) -> Result<Event, RecvError> {
        match std::mem::take(&mut self.lost) {
            0 => {}
            lost => return Err(RecvError::Lagged(lost)),
        }
        match self.kept.pop_front() {
            Some(event) => Ok(event),
            None => self.events.recv().await,
        }
    }
}

#[cfg(test)]
mod tests;
