//! What goes on beside the coming and going: probes, sessions, logs, pulls, lists, scrapes; and the stream of events, which is read
//! from the first pod to the last.
//!
//! Each looks whether the answer is right. A call to a pod that goes meanwhile may fail, one to a daemon that is killed is made again.

pub mod events;
mod images;
mod lists;
mod logs;
mod probes;
mod streams;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior};

use super::place::Place;

/// Between two sessions of exec or attach.
const SESSIONS: Duration = Duration::from_millis(200);

/// Between two logs.
const LOGS: Duration = Duration::from_millis(100);

/// Between two pulls.
const PULLS: Duration = Duration::from_secs(1);

/// Between two lists, as kubelet asks for them.
const LISTS: Duration = Duration::from_secs(1);

/// Starts all of them, until the place is over.
pub fn all(place: &Arc<Place>) -> JoinSet<()> {
    let mut others = JoinSet::new();
    others.spawn(probes::probe(Arc::clone(place)));
    others.spawn(streams::talk(Arc::clone(place)));
    others.spawn(logs::read(Arc::clone(place)));
    others.spawn(images::change(Arc::clone(place)));
    others.spawn(lists::list(Arc::clone(place)));
    others
}

/// A pace that doesn't catch up on what it has missed.
fn every(period: Duration) -> Interval {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
