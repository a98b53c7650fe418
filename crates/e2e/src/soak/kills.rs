//! The same crowd while the daemon is killed again and again, in the middle of whatever it does: calls that lose their answer are
//! made again, and nobody loses a pod, a line of a log or an exit code.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::latencies::percentile;
use super::place::Place;
use super::{beside, churn, must_live};
use crate::Node;

/// How often one looks whether it is time to kill.
const AGAIN: Duration = Duration::from_millis(20);

/// Does that and gives how long the daemon took until it served again.
///
/// # Panics
/// When the daemon ends by itself.
pub async fn run(node: &mut Node, place: &Arc<Place>) -> Vec<(String, f64)> {
    let plan = place.plan;
    if plan.kills == 0 {
        return Vec::new();
    }
    let (begun, mut others) = (Instant::now(), beside::all(place));
    let mut workers = churn::workers(place, plan.alive + plan.kills * plan.between_kills);
    let mut took = Vec::new();
    while !workers.is_empty() {
        must_live(node);
        let is_time = place.crowd.made() >= plan.alive + took.len() * plan.between_kills;
        if is_time && took.len() < plan.kills {
            took.push(place.kill(node).as_secs_f64() * 1e3);
        }
        tokio::time::sleep(AGAIN).await;
        while let Some(ended) = workers.try_join_next() {
            ended.expect("a worker");
        }
    }
    churn::finish(place, &mut others).await;
    took.sort_by(f64::total_cmp);
    vec![
        (format!("the daemon killed with {} pods alive, times", plan.alive), took.len() as f64),
        ("serves again with all pods adopted, p50, ms".into(), percentile(&took, 50).unwrap_or(f64::NAN)),
        ("the same, the longest, ms".into(), percentile(&took, 100).unwrap_or(f64::NAN)),
        (format!("{} pods meanwhile, s", place.crowd.made()), begun.elapsed().as_secs_f64()),
    ]
}
