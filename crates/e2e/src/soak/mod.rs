//! A long run of pods that come and go beside everything else that a node is asked for, and the proof that nothing grows.
//!
//! [`run`] has three phases on one node: [`burst`] (many pods at once), [`churn`] (a steady crowd whose oldest always go, with all
//! of [`beside`] going on) and [`kills`] (the same while the daemon is killed again and again). Figures are taken all the time
//! ([`census`], [`latencies`], by the table in [`figures`]); [`judge`] says of each whether it grew, after the churn and at
//! the end everything has to be as it was before the first. [`report`] and [`chart`] show the run.
//!
//! Not here: what a single call has to do, which the tests of each part say.

pub mod beside;
pub mod burst;
pub mod census;
pub mod chart;
pub mod churn;
pub mod crowd;
pub mod figures;
pub mod judge;
pub mod kills;
pub mod latencies;
pub mod life;
pub mod place;
pub mod plan;
pub mod report;

use std::sync::Arc;

use tokio::task::JoinSet;

use self::beside::events;
use self::census::Census;
use self::figures::Sample;
use self::judge::Verdict;
use self::place::Place;
use self::plan::Plan;
use crate::{Network, Node, Setup};

/// What a run has found.
pub struct Report {
    /// What was to be done.
    pub plan: Plan,
    /// What many pods at once took.
    pub burst: Vec<(String, f64)>,
    /// Figures over the churn.
    pub samples: Vec<Sample>,
    /// What is said of each figure.
    pub verdicts: Vec<Verdict>,
    /// What killing the daemon took.
    pub kills: Vec<(String, f64)>,
    /// What there was before the first phase and after the last.
    pub ends: [Census; 2],
    /// How often what was asked for beside.
    pub asked: Vec<(&'static str, u64)>,
    /// Everything that went wrong.
    pub complaints: Vec<String>,
}

impl Report {
    /// Whether nothing went wrong and nothing grew.
    pub fn is_well(&self) -> bool {
        self.complaints.is_empty() && self.verdicts.iter().all(Verdict::is_well)
    }
}

/// Does all of a plan on a node of its own. The caller is alone in its network namespace, so that every link, address and rule in
/// it is this run's.
///
/// # Panics
/// When the node can't be had, the daemon ends by itself, or something is left over at the end.
pub async fn run(plan: Plan) -> Report {
    let setup = Setup::new(Network::BuiltIn).subnet(plan::SUBNET).log_level("info");
    let mut node = setup.section("[metrics]\nlisten = \"127.0.0.1:0\"").start().await;
    let place = Arc::new(Place::new(&node, plan).await);
    let mut listener = JoinSet::new();
    listener.spawn(events::listen(Arc::clone(&place)));
    events::listening(&place).await;
    churn::first_pods(&place).await;
    let before = census::settled(&node, &place, None).await;
    let burst = burst::run(&node, &place).await;
    let samples = churn::run(&mut node, &place).await;
    // Now, too: what a daemon has leaked goes with it when it is killed.
    census::settled(&node, &place, Some(&before)).await;
    let kills = kills::run(&mut node, &place).await;
    let after = census::settled(&node, &place, Some(&before)).await;
    events::judge(&place).await;
    drop(listener);
    let verdicts = judge::all(&plan, &samples);
    let (asked, complaints) = (place.clock.counts(), place.complaints());
    Report { plan, burst, samples, verdicts, kills, ends: [before, after], asked, complaints }
}

/// Panics with the end of the log when the daemon has ended by itself.
fn must_live(node: &mut Node) {
    if let Some(status) = node.has_ended() {
        panic!("the daemon has ended by itself: {status}\n{}", node.log_tail());
    }
}
