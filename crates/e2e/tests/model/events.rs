//! Listens to a node's events, and judges them once a run is over.
//!
//! Each life has its events in order, none twice; while no daemon was ended they are complete. A daemon that is killed between what it does
//! and what it tells may leave the next one to tell it again, or take what was under way to its client along: across that only the order
//! is judged.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use e2e::Client;
use e2e::cri::ContainerEventType::{
    ContainerCreatedEvent, ContainerDeletedEvent, ContainerStartedEvent, ContainerStoppedEvent,
};
use e2e::cri::{ContainerEventType, GetEventsRequest};
use tokio_stream::StreamExt;

/// One event: of which daemon (counted), of what, and which.
type Told = (usize, String, ContainerEventType);

/// What was told since the last run began.
#[derive(Default)]
pub struct Events {
    told: Arc<Mutex<Vec<Told>>>,
    daemons: usize,
}

/// Whether a run had one daemon all the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Daemons {
    One,
    More,
}

impl Events {
    /// Listens to a daemon, as long as that lives.
    pub async fn listen(&mut self, client: Client) {
        self.daemons += 1;
        let (daemon, told) = (self.daemons, Arc::clone(&self.told));
        let mut runtime = client.runtime.clone();
        let stream = runtime.get_container_events(GetEventsRequest {}).await.expect("events");
        let mut stream = stream.into_inner();
        tokio::spawn(async move {
            while let Some(Ok(event)) = stream.next().await {
                let one = (daemon, event.container_id.clone(), event.container_event_type());
                told.lock().unwrap_or_else(PoisonError::into_inner).push(one);
            }
        });
    }

    /// Forgets what was told.
    pub fn clear(&self) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// What is wrong with what was told of these ids by now.
    ///
    /// # Errors
    /// That, for a person.
    pub fn judge(&self, ids: &[String], daemons: Daemons) -> Result<(), String> {
        let mut of: BTreeMap<&str, Vec<(usize, ContainerEventType)>> = BTreeMap::new();
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for (daemon, id, kind) in told.iter() {
            of.entry(id).or_default().push((*daemon, *kind));
        }
        for id in ids {
            let told = of.remove(id.as_str()).unwrap_or_default();
            in_order(&told)
                .and_then(|()| if daemons == Daemons::One { is_whole(&told) } else { Ok(()) })
                .map_err(|why| format!("events of {id}: {why}: {told:?}"))?;
        }
        Ok(())
    }
}

fn in_order(told: &[(usize, ContainerEventType)]) -> Result<(), String> {
    let is_next = |pair: &[(usize, ContainerEventType)]| {
        let ((before, first), (after, second)) = (pair[0], pair[1]);
        let (first, second) = (first as i32, second as i32);
        // Another daemon may tell the last one again.
        first < second || (first == second && before != after && second != ContainerDeletedEvent as i32)
    };
    if told.windows(2).all(is_next) { Ok(()) } else { Err("not in order".to_owned()) }
}

/// The life of something that has gone.
fn is_whole(told: &[(usize, ContainerEventType)]) -> Result<(), String> {
    let has = |kind| told.iter().any(|(_, one)| *one == kind);
    for kind in [ContainerCreatedEvent, ContainerDeletedEvent] {
        if !has(kind) {
            return Err(format!("without {kind:?}"));
        }
    }
    if has(ContainerStartedEvent) && !has(ContainerStoppedEvent) {
        return Err("it never stopped".to_owned());
    }
    Ok(())
}
