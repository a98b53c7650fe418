//! The steady crowd: new pods at the pace that the machine allows, the oldest go, and figures are taken all the while.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::census::sample;
use super::figures::Sample;
use super::life::Life;
use super::place::Place;
use super::{beside, must_live};
use crate::Node;

/// Pods come and go, beside everything else, until the plan's number is reached and all have gone.
///
/// # Panics
/// When the daemon ends by itself.
pub async fn run(node: &mut Node, place: &Arc<Place>) -> Vec<Sample> {
    let mut others = beside::all(place);
    let mut workers = workers(place, place.plan.pods);
    let begun = Instant::now();
    let mut ticks = interval(place.plan.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut samples = Vec::new();
    loop {
        tokio::select! {
            ended = workers.join_next() => match ended {
                Some(ended) => ended.expect("a worker"),
                None => break,
            },
            _ = ticks.tick() => {
                must_live(node);
                let taken = sample(node, place, begun.elapsed().as_secs_f64()).await;
                say(samples.last(), &taken);
                samples.push(taken);
            }
        }
    }
    finish(place, &mut others).await;
    samples
}

/// Says how far the run is, at each of so many pods.
fn say(last: Option<&Sample>, now: &Sample) {
    const STEP: usize = 500;
    if last.is_some_and(|last| last.made / STEP != now.made / STEP) {
        eprintln!("soak: {} pods made in {:.0} s", now.made, now.at);
    }
}

/// Starts those who make `pods` pods and end the oldest.
pub fn workers(place: &Arc<Place>, pods: usize) -> JoinSet<()> {
    place.crowd.starts_over();
    (0..place.plan.at_once).map(|_| worker(Arc::clone(place), pods)).collect()
}

/// Ends those beside, then all pods.
///
/// # Panics
/// When one of those beside did.
pub async fn finish(place: &Arc<Place>, others: &mut JoinSet<()>) {
    place.over.store(true, Ordering::Relaxed);
    while let Some(ended) = others.join_next().await {
        ended.expect("one of those beside");
    }
    place.over.store(false, Ordering::Relaxed);
    let mut leaving: JoinSet<()> = (0..place.plan.at_once).map(|_| ender(Arc::clone(place), 0)).collect();
    while let Some(ended) = leaving.join_next().await {
        ended.expect("a worker");
    }
}

/// A few lives before anything is counted: they make what the daemon then keeps.
///
/// # Panics
/// When one fails.
pub async fn first_pods(place: &Place) {
    let client = place.client();
    for _ in 0..10 {
        let life = Life::begin(place, &client).await.expect("a pod");
        life.end(place, &client).await.expect("a pod's end");
    }
}

async fn worker(place: Arc<Place>, pods: usize) {
    let client = place.client();
    while !place.is_hopeless() && place.crowd.begins(pods) {
        match Life::begin(&place, &client).await {
            Ok(life) => place.crowd.enters(life),
            Err(said) => place.complain(said),
        }
        end_beyond(&place, &client, place.plan.alive).await;
    }
}

async fn ender(place: Arc<Place>, most: usize) {
    end_beyond(&place, &place.client(), most).await;
}

/// Ends the oldest until there are no more than `most`.
async fn end_beyond(place: &Place, client: &crate::Client, most: usize) {
    while let Some(oldest) = place.crowd.leaves(most) {
        if let Err(said) = oldest.end(place, client).await {
            place.complain(said);
        }
    }
}
