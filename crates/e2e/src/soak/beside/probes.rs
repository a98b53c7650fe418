//! Exec probes in random pods, as kubelet makes them: most answer at once, some are killed at their time-out.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tonic::{Code, Status};

use super::every;
use crate::client::Output;
use crate::soak::latencies::Call;
use crate::soak::life::Life;
use crate::soak::place::Place;
use crate::{Client, Dice};

/// One in so many takes longer than it may.
const SLOW: u64 = 50;

/// Probes under way at once: slow ones don't hold the others up.
const AT_ONCE: usize = 16;

pub(super) async fn probe(place: Arc<Place>) {
    let client = place.client();
    let mut dice = Dice::new(1);
    let mut ticks = every(Duration::from_secs(1) / place.plan.probes);
    let mut probes = JoinSet::new();
    while !place.is_over() {
        ticks.tick().await;
        if probes.len() == AT_ONCE {
            let _ = probes.join_next().await;
        }
        let Some(life) = place.crowd.any(&mut dice) else { continue };
        let (place, client, is_slow) = (Arc::clone(&place), client.clone(), dice.below(SLOW) == 0);
        if is_slow {
            probes.spawn(async move { slow(&place, &client, &life).await });
        } else {
            probes.spawn(async move { quick(&place, &client, &life).await });
        }
    }
    while probes.join_next().await.is_some() {}
}

async fn quick(place: &Place, client: &Client, life: &Life) {
    let exec = place.insist(|| client.exec(&life.container, &["echo", "well"], 30));
    match place.clock.timed(Call::Exec, exec).await {
        Ok(Output { exit_code: 0, stdout, .. }) if stdout == "well\n" => {}
        answer if life.is_leaving() => drop(answer),
        other => place.complain(format!("a probe of {}: {other:?}", life.container)),
    }
}

async fn slow(place: &Place, client: &Client, life: &Life) {
    let exec = async {
        match place.insist(|| client.exec(&life.container, &["sleep", "1000"], 1)).await {
            Err(status) if status.code() == Code::DeadlineExceeded => Ok(()),
            Err(status) => Err(status),
            Ok(output) => Err(Status::internal(format!("{output:?}"))),
        }
    };
    match place.clock.timed(Call::SlowExec, exec).await {
        Ok(()) => {}
        Err(_) if life.is_leaving() => {}
        Err(status) => place.complain(format!("a slow probe of {}: {status}", life.container)),
    }
}
