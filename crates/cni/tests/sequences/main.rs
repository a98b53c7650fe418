//! A thousand random sequences of what a node's life brings: pods that come and go, retries, collections, daemons that are
//! restarted or killed anywhere, plugins that vanish and come back, configurations that change, rules and bridges that
//! somebody takes away. At the end of each one the host's whole network state is what it was before.
//!
//! A sequence that fails is printed with its seed, cut down to what it takes: `KNARR_CNI_SEED` runs that one again, with
//! `KNARR_CNI_SEQUENCES=1`; the latter, without a seed, runs more or fewer of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../support/daemon.rs"]
mod daemon;
mod engine;
mod life;
mod many;
mod ops;
#[path = "../support/mod.rs"]
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

use engine::Engine;
use support::installed;
use support::netns::sh;

#[test]
fn on_the_built_in_network() {
    run(Engine::BuiltIn, 350, 8);
}

#[test]
fn by_plugins_served_in_process() {
    run(Engine::Native, 350, 8);
}

#[test]
fn by_scripted_plugins() {
    run(Engine::Scripted, 250, 8);
}

#[test]
fn by_debians_plugins() {
    if installed() {
        run(Engine::Debian, 50, 6);
    }
}

/// Runs that many sequences on as many hosts side by side.
fn run(engine: Engine, sequences: u64, hosts: u64) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
    let seed = number("KNARR_CNI_SEED").unwrap_or_else(clock);
    let sequences = number("KNARR_CNI_SEQUENCES").unwrap_or(sequences);
    let (next, failures) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..hosts {
            scope.spawn(|| {
                while failures.lock().unwrap().is_empty() {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= sequences {
                        break;
                    }
                    let seed = seed.wrapping_add(number);
                    if let Err(why) = one(engine, seed) {
                        failures.lock().unwrap().push(format!("KNARR_CNI_SEED={seed}: {why}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{engine:?}: {}", failures.join("\n\n"));
}

/// One sequence; one that fails is tried again in shorter forms.
fn one(engine: Engine, seed: u64) -> Result<(), String> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    // A form that fails may do so by waiting in vain.
    let (max_shrink_iters, max_shrink_time) = (60, 60_000);
    let config = Config {
        cases: 1,
        failure_persistence: None,
        max_shrink_iters,
        max_shrink_time,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let outcome = runner.run(&ops::sequence(), |ops| {
        let lived =
            catch_unwind(AssertUnwindSafe(|| support::netns::on_own_host(move || life::live(engine, ops))));
        lived.map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            TestCaseError::fail(
                text.or(panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default(),
            )
        })
    });
    outcome.map_err(|failure| failure.to_string())
}

/// A command that may fail, as what it takes away may be gone.
fn try_sh(command: &str) {
    sh(&format!("({command}) 2>/dev/null || :"));
}
