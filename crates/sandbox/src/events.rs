//! What happened to pods and containers, for whoever listens.
//!
//! Events have an order and times that never go back: kubelet takes one that is older than what it knows for stale. What
//! a daemon finds out about the time it was away, and all until somebody listens, is kept for the first listener: who
//! listened to the daemon before this one comes back as soon as it can.
//! Not here: which events there are (see `pod::state` and `container::state`), how clients get them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::clock;
use crate::container::status::ContainerStatus;
use crate::pod::status::PodStatus;

/// Events that a slow listener may be behind before it loses the oldest and is told so (`RecvError::Lagged`).
pub const EVENT_BACKLOG: usize = 1024;

/// Events that are kept for the first listener. More than kubelet has pods on a node (110), few enough for memory.
const KEPT: usize = 256;

/// How long they are kept: kubelet comes back within seconds, and who comes much later has no use for them.
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
#[derive(Debug)]
pub(crate) struct Events {
    sender: broadcast::Sender<Event>,
    order: Mutex<Order>,
}

/// What is the same for all listeners.
#[derive(Debug)]
struct Order {
    /// When the last event was.
    last: i64,
    /// What nobody has listened to yet; `None` once somebody has, or nobody came for too long.
    kept: Option<VecDeque<Event>>,
    begun: Instant,
}

/// Somebody who listens.
#[derive(Debug)]
pub struct Listener {
    kept: VecDeque<Event>,
    events: broadcast::Receiver<Event>,
}

impl Events {
    pub(crate) fn new() -> Self {
        let order = Order { last: 0, kept: Some(VecDeque::new()), begun: Instant::now() };
        Self { sender: broadcast::channel(EVENT_BACKLOG).0, order: Mutex::new(order) }
    }

    pub(crate) fn subscribe(&self) -> Listener {
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        order.give_up();
        Listener { kept: order.kept.take().unwrap_or_default(), events: self.sender.subscribe() }
    }

    /// Whether there is anybody to tell.
    pub(crate) fn is_wanted(&self) -> bool {
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        order.give_up();
        order.kept.is_some() || self.listeners() > 0
    }

    pub(crate) fn listeners(&self) -> usize {
        self.sender.receiver_count()
    }

    /// Tells everyone who listens what has happened now.
    pub(crate) fn publish(
        &self,
        (id, kind): (String, EventKind),
        (pod, containers): (Arc<PodStatus>, Vec<Arc<ContainerStatus>>),
    ) {
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        order.last = clock::now().max(order.last.saturating_add(1));
        let event = Event { id, kind, at: order.last, pod, containers };
        if let Some(kept) = &mut order.kept {
            if kept.len() == KEPT {
                kept.pop_front();
            }
            kept.push_back(event.clone());
        }
        // Nobody listening is no failure. Sent under the lock, so that the order is that of the times.
        let _listeners = self.sender.send(event);
    }
}

impl Order {
    fn give_up(&mut self) {
        if self.begun.elapsed() > KEPT_FOR {
            self.kept = None;
        }
    }
}

impl Listener {
    /// The next event. Safe to cancel.
    ///
    /// # Errors
    /// As for [`broadcast::Receiver::recv`]: how many were lost, or that there will be none any more.
    pub async fn recv(&mut self) -> Result<Event, RecvError> {
        match self.kept.pop_front() {
            Some(event) => Ok(event),
            None => self.events.recv().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn happened(events: &Events, id: &str) {
        let pod = PodStatus {
            id: crate::id::PodId::random(),
            config: Arc::default(),
            phase: crate::pod::status::PodPhase::Ready,
            created_at: 1,
            ips: Vec::new(),
            supervisor: None,
            netns: None,
            cgroup: String::new(),
            limits: Default::default(),
            message: String::new(),
        };
        events.publish((id.to_owned(), EventKind::Stopped), (Arc::new(pod), Vec::new()));
    }

    #[tokio::test]
    async fn what_nobody_heard_is_for_the_first_listener_alone_and_in_order() {
        let events = Events::new();
        (0..KEPT + 10).for_each(|number| happened(&events, &number.to_string()));
        let (mut first, mut second) = (events.subscribe(), events.subscribe());
        happened(&events, "last");
        let mut times = vec![];
        for number in 10..KEPT + 10 {
            let event = first.recv().await.unwrap();
            assert_eq!(event.id, number.to_string());
            times.push(event.at);
        }
        assert!(times.is_sorted_by(|one, next| one < next), "{times:?}");
        assert_eq!(first.recv().await.unwrap().id, "last");
        assert_eq!(second.recv().await.unwrap().id, "last");
    }

    #[tokio::test]
    async fn nothing_is_built_once_the_listeners_have_gone() {
        let events = Events::new();
        assert!(events.is_wanted(), "somebody may come");
        let listener = events.subscribe();
        assert!(events.is_wanted());
        drop(listener);
        assert!(!events.is_wanted());
    }

    #[tokio::test]
    async fn who_is_too_slow_is_told() {
        let events = Events::new();
        let mut slow = events.subscribe();
        (0..EVENT_BACKLOG + 5).for_each(|number| happened(&events, &number.to_string()));
        assert!(matches!(slow.recv().await, Err(RecvError::Lagged(5))));
        assert_eq!(slow.recv().await.unwrap().id, "5");
    }
}
