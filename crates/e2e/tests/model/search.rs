//! Searches for a script that diverges, on a few nodes side by side: most of a script is waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use crate::driver::Driver;
use crate::in_runtime;
use crate::run::{Divergence, Outcome, run};
use crate::script::Script;
use crate::shrink::{Scripts, shrink};

/// What a search has found.
pub struct Found {
    pub seed: u64,
    pub script: Script,
    pub divergence: Divergence,
}

/// How many scripts agreed with the model.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    pub scripts: usize,
    /// Among them, those that could not be judged to their end.
    pub unjudged: usize,
}

/// Searches until that time on so many nodes, each with the next seed. They all end when one has found something.
///
/// # Errors
/// What diverges, made small.
pub fn side_by_side(seed: u64, nodes: u64, end: Instant) -> Result<Counts, Vec<Found>> {
    let is_over = Arc::new(AtomicBool::new(false));
    let start = |seed| {
        let is_over = Arc::clone(&is_over);
        thread::spawn(move || in_runtime(search(seed, end, &is_over)))
    };
    let searches: Vec<_> = (seed..seed + nodes).map(start).collect();
    // All of them end before anything is said: a thread that ends with the process leaves its node behind.
    let ends: Vec<_> = searches.into_iter().map(thread::JoinHandle::join).collect();
    let (mut counts, mut found) = (Counts::default(), Vec::new());
    for end in ends {
        match end {
            Ok(Ok(Counts { scripts, unjudged })) => {
                counts.scripts += scripts;
                counts.unjudged += unjudged;
            }
            Ok(Err(one)) => found.push(one),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    if found.is_empty() { Ok(counts) } else { Err(found) }
}

/// Scripts of a seed on a node, one after the other.
async fn search(seed: u64, end: Instant, is_over: &AtomicBool) -> Result<Counts, Found> {
    eprintln!("KNARR_MODEL_SEED={seed}");
    let mut scripts = Scripts::new(seed);
    let mut driver = Driver::start().await;
    let mut counts = Counts::default();
    while Instant::now() < end && !is_over.load(Ordering::Relaxed) {
        let script = scripts.draw();
        match run(&mut driver, &script).await {
            Ok(Outcome::Agrees) => {}
            Ok(Outcome::Unjudged) => counts.unjudged += 1,
            Err(first) => {
                is_over.store(true, Ordering::Relaxed);
                let (script, divergence) = shrink(driver, (script, first)).await;
                return Err(Found { seed, script, divergence });
            }
        }
        counts.scripts += 1;
    }
    Ok(counts)
}
