//! Many pods at once: each caller asks for one after another, all are ready, all are listed, all go.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_cri::v1::{ContainerState, ListContainerStatsRequest, PodSandboxState};
use tokio::task::JoinSet;

use super::census::{Below, View};
use super::churn::finish;
use super::latencies::{Call, percentile};
use super::life::Life;
use super::place::Place;
use crate::{Client, Node};

/// The most inodes that a pod with one container may take below the state directory: those that ARCHITECTURE.md lists, and room for
/// what is beside pods.
const FILES: f64 = 16.0;

/// The most KiB: specification and plan are JSON of some kilobytes each.
const KIB: f64 = 96.0;

/// Does all that and gives what it took.
///
/// # Panics
/// When a list fails.
pub async fn run(node: &Node, place: &Arc<Place>) -> Vec<(String, f64)> {
    place.crowd.starts_over();
    let begun = Instant::now();
    let mut callers: JoinSet<()> = (0..place.plan.callers).map(|_| caller(Arc::clone(place))).collect();
    while let Some(ended) = callers.join_next().await {
        ended.expect("a caller");
    }
    let mut took =
        vec![(format!("{} pods ready, {} callers, s", place.plan.burst, place.plan.callers), seconds(begun))];
    let starts = std::mem::take(&mut place.clock.take()[Call::Start as usize]);
    for percent in [50, 99] {
        took.push((
            format!("start of one of them, p{percent}, ms"),
            percentile(&starts, percent).unwrap_or(f64::NAN),
        ));
    }
    let client = place.client();
    let lists = Instant::now();
    all_are_listed(place, &client).await;
    took.push(("ListPodSandbox and ListContainers, ms".into(), millis(lists.elapsed())));
    let lists = Instant::now();
    let stats = client.runtime.clone().list_container_stats(ListContainerStatsRequest::default()).await;
    took.push(("ListContainerStats, ms".into(), millis(lists.elapsed())));
    let have = stats.map(|answer| answer.into_inner().stats.len());
    if have.as_ref().ok() != Some(&place.plan.burst) {
        place.complain(format!("statistics of {have:?} containers"));
    }
    let relist = Instant::now();
    ask_of_all(place, &client).await;
    took.push(("both lists and a status of every pod and container, s".into(), seconds(relist)));
    footprint(node, place, &mut took);
    let (supervisors, daemon) = View::of(node).memory();
    took.push(("daemon, PSS, MiB".into(), daemon as f64 / 1024.0));
    took.push(("all supervisors, PSS, MiB".into(), supervisors as f64 / 1024.0));
    let begun = Instant::now();
    finish(place, &mut JoinSet::new()).await;
    took.push(("all of them stopped and removed, s".into(), seconds(begun)));
    took
}

async fn caller(place: Arc<Place>) {
    let client = place.client();
    while !place.is_hopeless() && place.crowd.begins(place.plan.burst) {
        match Life::begin(&place, &client).await {
            Ok(life) => place.crowd.enters(life),
            Err(said) => place.complain(said),
        }
    }
}

/// What a kubelet asks for that has lost sight of everything: its PLEG lists pods and containers, then asks for one after another.
async fn ask_of_all(place: &Place, client: &Client) {
    all_are_listed(place, client).await;
    for life in place.crowd.all() {
        let (pod, container) = (client.pod(&life.pod).await, client.container(&life.container).await);
        if let Some(status) = pod.err().or(container.err()) {
            place.complain(format!("a status of {} or {}: {status}", life.pod, life.container));
        }
    }
}

/// What a pod takes of the directory that is a tmpfs on a node (/run): it has inodes and bytes for so many.
fn footprint(node: &Node, place: &Place, took: &mut Vec<(String, f64)>) {
    let below = Below::of(&node.path("state"));
    let of_each = |all: u64| all as f64 / place.plan.burst as f64;
    let (files, kib) = (of_each(below.files), of_each(below.bytes) / 1024.0);
    if files > FILES || kib > KIB {
        place.complain(format!("a pod takes {files:.1} files and {kib:.0} KiB of the state directory"));
    }
    took.push(("inodes below state, a pod with a container".into(), files));
    took.push(("space below state, a pod with a container, KiB".into(), kib));
}

async fn all_are_listed(place: &Place, client: &Client) {
    let pods = client.pods().await.expect("a list of pods");
    let containers = client.containers().await.expect("a list of containers");
    let ready = pods.iter().filter(|pod| pod.state() == PodSandboxState::SandboxReady).count();
    let run = containers.iter().filter(|one| one.state() == ContainerState::ContainerRunning).count();
    if (ready, run) != (place.plan.burst, place.plan.burst) {
        place.complain(format!("{ready} pods are ready and {run} containers run of {}", place.plan.burst));
    }
}

fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

fn millis(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}
