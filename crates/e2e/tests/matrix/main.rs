//! Every step of every procedure is failed in every way; answers, leftovers, retries and others' pods are judged.
//!
//! | file | what |
//! |---|---|
//! | `procedures` | the table of procedures: what is there before, what is asked, what is there after |
//! | `faults` | the table of faults; arming the daemon and reading what it has passed |
//! | `lane` | a node with a bystander, on which pairs are walked one after another |
//! | `walk` | one pair: prepare, arm, call, judge, try again, tear down |
//! | `judge` | which answer is right |
//! | `known` | pairs that fail, with reasons |
//!
//! Needs programs with the feature `faults`: `make matrix`. How it works is told in docs/matrix.md.

mod faults;
mod judge;
mod known;
mod lane;
mod procedures;
mod walk;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::time::Instant;

use self::faults::{FAULTS, Fault};
use self::known::is_known;
use self::lane::Lane;
use self::procedures::{PROCEDURES, Procedure};
use self::walk::Outcome;

/// Nodes side by side.
const LANES: usize = 3;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    procedure: &'static str,
    step: String,
    fault: &'static str,
}

#[test]
fn every_step_may_fail_in_every_way() {
    if let Err(reason) = e2e::needs::own_node() {
        println!("skipped: {reason}");
        return;
    }
    let begun = Instant::now();
    let Some(pairs) = on_a_lane(pairs) else {
        println!("skipped: knarr is not built with faults, as `make matrix` does it");
        return;
    };
    let (queue, results) = (Mutex::new(pairs), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| walk_all(&queue, &results));
        }
    });
    let results = results.into_inner().expect("results");
    let table = table(&results);
    println!("{table}{} s", begun.elapsed().as_secs());
    if let Some(file) = std::env::var_os("KNARR_MATRIX_TABLE") {
        std::fs::write(file, table).expect("writing the table");
    }
    judge_all(&results);
}

type Results = BTreeMap<Pair, Outcome>;

/// A lane that has failed at something may have it left over: the next pair gets another one.
fn walk_all(queue: &Mutex<Vec<Pair>>, results: &Mutex<Results>) {
    let next = || queue.lock().expect("pairs").pop();
    let mut at = next();
    while at.is_some() {
        let _skipped = on_a_lane(|lane| {
            while let Some(pair) = at.take() {
                let outcome = lane.runtime.clone().block_on(walk::pair(lane, &pair));
                println!("{} {} {}: {outcome:?}", pair.procedure, pair.step, pair.fault);
                let is_clean = !matches!(outcome, Outcome::Failed(_));
                results.lock().expect("results").insert(pair, outcome);
                at = next();
                if !is_clean {
                    lane.give_up();
                    return;
                }
            }
        });
    }
}

/// Steps are learnt by passing them once.
fn pairs(lane: &mut Lane) -> Vec<Pair> {
    let only = std::env::var("KNARR_MATRIX_ONLY").unwrap_or_default();
    let mut pairs = Vec::new();
    for Procedure { name, .. } in PROCEDURES {
        for step in lane.runtime.clone().block_on(walk::steps(lane, name)) {
            let of_step = FAULTS.iter().map(|Fault { name: fault, .. }| Pair {
                procedure: name,
                step: step.clone(),
                fault,
            });
            pairs.extend(of_step);
        }
    }
    pairs.retain(|pair| format!("{} {} {}", pair.procedure, pair.step, pair.fault).contains(&only));
    pairs.reverse();
    pairs
}

fn on_a_lane<T>(work: impl FnOnce(&mut Lane) -> T) -> Option<T> {
    let mut lane = Lane::start()?;
    let done = work(&mut lane);
    lane.end();
    Some(done)
}

fn table(results: &Results) -> String {
    let mut text = String::new();
    let mut counts: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    for (pair, outcome) in results {
        let (word, at) = match outcome {
            Outcome::Held => ("held", 0),
            Outcome::Nobody => ("nobody to kill", 1),
            Outcome::Failed(_) => ("FAILED", 2),
        };
        counts.entry(pair.procedure).or_default()[at] += 1;
        let _ = writeln!(text, "{:<12} {:<26} {:<16} {word}", pair.procedure, pair.step, pair.fault);
    }
    for (procedure, [held, nobody, failed]) in counts {
        let _ = writeln!(
            text,
            "{procedure}: {held} struck and held, {failed} failed, {nobody} with nobody to kill"
        );
    }
    text
}

fn judge_all(results: &Results) {
    let mut wrong = Vec::new();
    for (pair, outcome) in results {
        match (outcome, is_known(pair)) {
            (Outcome::Failed(why), false) => wrong.push(format!("{pair:?}: {why}")),
            (Outcome::Held, true) => wrong.push(format!("{pair:?} holds: it is not to be known any more")),
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{} pairs:\n{}", wrong.len(), wrong.join("\n"));
}
