//! All that can be done to images, at once and in any order, while the daemon is killed again and again: nothing is lost, nothing
//! leaks, nothing is stuck, and nobody ever sees a wrong byte.
//!
//! KNARR_STORM_SECONDS makes it longer (10), KNARR_STORM_SEED repeats the order of what single workers do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod judge;
mod place;
mod works;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use e2e::{Dice, Network, Setup};

use crate::judge::Judge;
use crate::place::Place;

/// Workers of each kind.
const WORKERS: u64 = 2;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_leaked_or_stuck_whatever_comes_at_once() {
    storm(Setup::new(Network::None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_where_layers_are_directories() {
    storm(Setup::new(Network::None).section("[images]\nlayers = \"directory\"")).await;
}

async fn storm(setup: Setup) {
    let mut node = setup.start().await;
    let place = Arc::new(Place::new(&node).await);
    let judge = Judge::new(&node, &place).await;
    let mut workers = tokio::task::JoinSet::new();
    for number in 0..WORKERS {
        for work in works::ALL {
            workers.spawn(works::until_it_ends(Arc::clone(&place), work, place.seed + number));
        }
    }
    let mut dice = Dice::new(place.seed);
    let end = Instant::now() + seconds();
    let mut killed = 0;
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(dice.below(2500))).await;
        node.kill_daemon();
        node.start_daemon();
        killed += 1;
        judge.keeps_what_was_there().await;
        // Who has panicked is heard at once.
        while let Some(ended) = workers.try_join_next() {
            ended.unwrap();
        }
    }
    place.over.store(true, Ordering::Relaxed);
    while let Some(ended) = workers.join_next().await {
        ended.unwrap();
    }
    println!("killed {killed} times\n{}", place.counted());
    judge.all_are_good().await;
    judge.containers_can_be_removed().await;
    judge.nothing_is_left_beside_images(&node).await;
    judge.all_can_be_removed(&node).await;
}

fn seconds() -> Duration {
    let said = std::env::var("KNARR_STORM_SECONDS").ok();
    Duration::from_secs(said.map_or(10, |text| text.parse().expect("KNARR_STORM_SECONDS is a number")))
}
