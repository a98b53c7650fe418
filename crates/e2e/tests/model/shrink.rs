//! Chance, and making what was found small.
//!
//! Whether a script diverges may depend on chance itself: a smaller one counts as the same when one of a few runs diverges.

use std::time::{Duration, Instant};

use proptest::strategy::{BoxedStrategy, Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::driver::Driver;
use crate::generator;
use crate::run::{Divergence, run};
use crate::script::{Act, Move, Script};

/// Runs that a smaller script has to diverge.
const RUNS: usize = 10;

/// How long making it small may take.
const EFFORT: Duration = Duration::from_secs(300);

/// Scripts made of a seed.
pub struct Scripts {
    runner: TestRunner,
    strategy: BoxedStrategy<Script>,
}

impl Scripts {
    pub fn new(seed: u64) -> Self {
        let bytes: Vec<u8> = seed.to_le_bytes().into_iter().cycle().take(32).collect();
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let config = Config { failure_persistence: None, ..Config::default() };
        Self { runner: TestRunner::new_with_rng(config, rng), strategy: generator::scripts().boxed() }
    }

    pub fn draw(&mut self) -> Script {
        self.strategy.new_tree(&mut self.runner).expect("a script").current()
    }
}

/// The smallest script that was found to diverge still, and how.
pub async fn shrink(mut driver: Driver, first: (Script, Divergence)) -> (Script, Divergence) {
    let (script, Divergence { story, why }) = &first;
    eprintln!(
        "diverges, which is made smaller:\n{script}--- what happened\n{story}--- why that can't be\n{why}"
    );
    let end = Instant::now() + EFFORT;
    let mut smallest = first;
    driver.renew().await;
    let mut tried = 0;
    // What was no good before is no good in what is smaller, most of the time.
    while let Some(script) = smaller(&smallest.0).into_iter().nth(tried)
        && Instant::now() < end
    {
        match diverges(&mut driver, &script).await {
            Some(divergence) => {
                smallest = (script, divergence);
                driver.renew().await;
            }
            None => tried += 1,
        }
    }
    driver.discard();
    smallest
}

/// Scripts that say one thing less, those that say much less first.
fn smaller(script: &Script) -> Vec<Script> {
    let without_phase = (0..script.0.len()).rev().map(|phase| {
        let mut less = script.clone();
        less.0.remove(phase);
        less
    });
    let moves =
        script.0.iter().enumerate().flat_map(|(phase, moves)| (0..moves.len()).map(move |at| (phase, at)));
    let without_move = moves.clone().filter(|(phase, _)| script.0[*phase].len() > 1).map(|(phase, at)| {
        let mut less = script.clone();
        less.0[phase].remove(at);
        less
    });
    let simpler = moves.flat_map(|(phase, at)| {
        simpler_moves(script.0[phase][at]).into_iter().map(move |simple| {
            let mut less = script.clone();
            less.0[phase][at] = simple;
            less
        })
    });
    without_phase.chain(without_move).chain(simpler).collect()
}

/// The same without its delay, or with a client that waits.
fn simpler_moves(one: Move) -> Vec<Move> {
    let at_once = (one.after > 0).then_some(Move { after: 0, ..one });
    let patient = match one.act {
        Act::Ask(call, Some(_)) => Some(Move { act: Act::Ask(call, None), ..one }),
        Act::Ask(_, None) | Act::Kill | Act::Restart => None,
    };
    at_once.into_iter().chain(patient).collect()
}

async fn diverges(driver: &mut Driver, script: &Script) -> Option<Divergence> {
    for _ in 0..RUNS {
        if let Err(divergence) = run(driver, script).await {
            return Some(divergence);
        }
    }
    None
}
