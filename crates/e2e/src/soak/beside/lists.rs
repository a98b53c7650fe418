//! What kubelet and a monitoring system ask for again and again: lists, statistics, the daemon's own figures. Who is alive all the
//! time is in each list.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use k8s_cri::v1::{ContainerState, ListContainerStatsRequest, ListPodSandboxStatsRequest, PodSandboxState};
use tonic::Status;

use super::{LISTS, every};
use crate::Client;
use crate::soak::latencies::Call;
use crate::soak::life::Life;
use crate::soak::place::Place;

pub(super) async fn list(place: Arc<Place>) {
    let client = place.client();
    let mut ticks = every(LISTS);
    while !place.is_over() {
        ticks.tick().await;
        let there = place.crowd.all();
        let listed = place.clock.timed(Call::List, place.insist(|| lists(&client))).await;
        look(&place, ("lists", &there), listed);
        let counted = place.clock.timed(Call::Stats, place.insist(|| statistics(&client))).await;
        look(&place, ("statistics", &there), counted);
        let kills = place.kills();
        match place.clock.timed(Call::Scrape, scrape(&place)).await {
            Err(said) if !place.was_killed_since(kills) => place.complain(said),
            _ => {}
        }
    }
}

/// Ids of pods and containers.
type Ids = BTreeSet<String>;

/// Pods that are ready and containers that run.
async fn lists(client: &Client) -> Result<Ids, Status> {
    let pods = client.pods().await?.into_iter();
    let ready = pods.filter(|pod| pod.state() == PodSandboxState::SandboxReady).map(|pod| pod.id);
    let containers = client.containers().await?.into_iter();
    let run = containers.filter(|one| one.state() == ContainerState::ContainerRunning).map(|one| one.id);
    Ok(ready.chain(run).collect())
}

/// Pods and containers of which there are statistics.
async fn statistics(client: &Client) -> Result<Ids, Status> {
    let request = ListContainerStatsRequest::default();
    let containers = client.runtime.clone().list_container_stats(request).await?.into_inner().stats;
    let pods = client.runtime.clone().list_pod_sandbox_stats(ListPodSandboxStatsRequest::default()).await?;
    let containers = containers.into_iter().filter_map(|one| one.attributes.map(|of| of.id));
    let pods = pods.into_inner().stats.into_iter().filter_map(|one| one.attributes.map(|of| of.id));
    Ok(containers.chain(pods).collect())
}

/// Complains of everybody who was there before and is still, and isn't in the answer.
fn look(place: &Place, (what, there): (&str, &[Arc<Life>]), answer: Result<Ids, Status>) {
    let ids = match answer {
        Ok(ids) => ids,
        Err(status) => return place.complain(format!("{what}: {status}")),
    };
    for life in there {
        let has = ids.contains(&life.pod) && ids.contains(&life.container);
        if !has && !life.is_leaving() {
            place.complain(format!("{what} lack pod {} or its container {}", life.pod, life.container));
        }
    }
}

async fn scrape(place: &Place) -> Result<(), String> {
    let address = place.metrics.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let said = |error: reqwest::Error| format!("the daemon's metrics: {error}");
    let answer = reqwest::get(format!("http://{address}/metrics")).await.map_err(said)?;
    let text = answer.text().await.map_err(said)?;
    if text.contains("knarr_") { Ok(()) } else { Err(format!("the daemon's metrics: {text:?}")) }
}
