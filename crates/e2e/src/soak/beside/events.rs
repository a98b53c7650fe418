//! The stream of events, read from the first pod to the last: whoever lived while one stream was open must have all of his events in
//! it, once each and in order.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_cri::v1::ContainerEventType::{
    ContainerCreatedEvent, ContainerDeletedEvent, ContainerStartedEvent, ContainerStoppedEvent,
};
use k8s_cri::v1::{ContainerEventResponse, ContainerEventType, GetEventsRequest};
use tokio_stream::StreamExt;
use tonic::{Status, Streaming};

use crate::soak::life::Life;
use crate::soak::place::Place;
use crate::until_each;

/// Everything that can happen, in its order.
const LIFE: [ContainerEventType; 4] =
    [ContainerCreatedEvent, ContainerStartedEvent, ContainerStoppedEvent, ContainerDeletedEvent];

/// How long the last events may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two tries to have a stream, or two looks at what came.
const AGAIN: Duration = Duration::from_millis(20);

/// What was heard, and what has to be.
#[derive(Default)]
pub struct Heard {
    /// The number of the stream that is open; 0 for none.
    stream: AtomicU64,
    streams: AtomicU64,
    told: Mutex<BTreeMap<String, Vec<ContainerEventType>>>,
    expected: Mutex<Vec<String>>,
}

impl Heard {
    /// The stream that is open, if one is.
    pub fn stream(&self) -> Option<u64> {
        Some(self.stream.load(Ordering::SeqCst)).filter(|stream| *stream != 0)
    }

    /// A life has ended; of one whose whole length one stream was open, all is expected.
    pub fn expect(&self, life: &Life) {
        let ids = [&life.pod, &life.container];
        if life.stream.is_some() && life.stream == self.stream() {
            locked(&self.expected).extend(ids.map(Clone::clone));
        } else {
            locked(&self.told).retain(|id, _| !ids.contains(&id));
        }
    }

    fn note(&self, event: &ContainerEventResponse) {
        let kind = event.container_event_type();
        locked(&self.told).entry(event.container_id.clone()).or_default().push(kind);
    }

    /// Forgets those whose events are as they should be; says what the others have.
    fn wrong(&self) -> Vec<String> {
        let (mut told, mut expected) = (locked(&self.told), locked(&self.expected));
        expected.retain(|id| match told.get(id) {
            Some(events) if events[..] == LIFE => told.remove(id).is_none(),
            _ => true,
        });
        expected.iter().take(5).map(|id| format!("{id} had {:?}", told.get(id))).collect()
    }
}

/// Reads events for as long as it isn't dropped; after the daemon was killed, those of the next.
pub async fn listen(place: Arc<Place>) {
    let client = place.client();
    loop {
        let kills = place.kills();
        let stream = client.runtime.clone().get_container_events(GetEventsRequest {}).await;
        let ended = match stream {
            Ok(stream) => read(&place.heard, stream.into_inner()).await,
            Err(status) => Some(status),
        };
        place.heard.stream.store(0, Ordering::SeqCst);
        if !place.was_killed_since(kills) {
            place.complain(format!("the stream of events ended: {ended:?}"));
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn read(heard: &Heard, mut events: Streaming<ContainerEventResponse>) -> Option<Status> {
    let number = heard.streams.fetch_add(1, Ordering::SeqCst) + 1;
    heard.stream.store(number, Ordering::SeqCst);
    loop {
        match events.next().await? {
            Ok(event) => heard.note(&event),
            Err(status) => return Some(status),
        }
    }
}

/// Waits until the first stream is open.
///
/// # Panics
/// When there is none.
pub async fn listening(place: &Place) {
    until_each((AGAIN, PATIENCE), "a stream of events", || async { place.heard.stream().ok_or(()) }).await;
}

/// Waits for the last events, and complains of those that never came or came otherwise.
pub async fn judge(place: &Place) {
    let end = tokio::time::Instant::now() + crate::patience(PATIENCE);
    loop {
        let wrong = place.heard.wrong();
        if wrong.is_empty() {
            return;
        }
        if tokio::time::Instant::now() > end {
            return place.complain(format!("events aren't those of whole lives: {wrong:?}"));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
