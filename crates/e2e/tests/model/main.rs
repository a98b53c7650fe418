//! The daemon's behaviour against a model of what CRI promises: random scripts of calls, side by side, repeated, given up, with kills and
//! restarts in between.
//!
//! `KNARR_MODEL_SECONDS` says how long (a minute), `KNARR_MODEL_SEED` where chance begins (it is printed), `KNARR_MODEL_NODES` how many
//! nodes there are at once (3), each with the next seed. `KNARR_MODEL_SCRIPT` names a file
//! with a script to be replayed instead, `KNARR_MODEL_TIMES` how often (20). A divergence is shrunk, printed with its answers, and saved where
//! the message says. What was found so is kept in `scripts/` and replayed by every run of the tests.
//!
//! Not here: what becomes of a node whose supervisors, disk or network fail (see the matrix of faults).

mod check;
mod driver;
mod events;
mod generator;
mod model;
mod run;
mod script;
mod search;
mod shrink;
mod words;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use driver::Driver;
use run::{Divergence, run};
use script::Script;
use search::{Counts, Found};

/// Nodes that are searched side by side.
const NODES: u64 = 3;

/// A number from the environment.
fn number(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is no number")))
}

/// What was found, for a person; the script is saved.
fn told(Found { seed, script, divergence: Divergence { story, why } }: &Found) -> String {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("model-{seed}.script"));
    std::fs::write(&path, script.to_string()).expect("saving the script");
    let path = path.display();
    format!("--- script, saved as {path}\n{script}--- what happened\n{story}--- why that can't be\n{why}\n")
}

#[test]
fn the_daemon_does_what_the_model_says() {
    if let Ok(path) = std::env::var("KNARR_MODEL_SCRIPT") {
        return in_runtime(replay(Path::new(&path), number("KNARR_MODEL_TIMES").unwrap_or(20)));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = number("KNARR_MODEL_SEED").unwrap_or(now.as_secs());
    let end = Instant::now() + Duration::from_secs(number("KNARR_MODEL_SECONDS").unwrap_or(60));
    let nodes = number("KNARR_MODEL_NODES").unwrap_or(NODES);
    match search::side_by_side(seed, nodes, end) {
        Ok(Counts { scripts, unjudged }) => {
            eprintln!("{scripts} scripts on {nodes} nodes, {unjudged} not to their end")
        }
        Err(found) => {
            panic!("the daemon isn't what the model says\n{}", found.iter().map(told).collect::<String>())
        }
    }
}

/// The driver blocks while it ends and starts daemons: not the clients of others.
fn in_runtime<T>(work: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().expect("a runtime").block_on(work)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_found_once_is_not_found_again() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/model/scripts");
    for entry in std::fs::read_dir(directory).expect("the saved scripts") {
        replay(&entry.expect("an entry").path(), 3).await;
    }
}

/// Replays a saved script: what depends on chance may come only now and then.
async fn replay(path: &Path, times: u64) {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let script: Script = text.parse().unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    let mut driver = Driver::start().await;
    for _ in 0..times {
        if let Err(Divergence { story, why }) = run(&mut driver, &script).await {
            panic!("{}\n--- what happened\n{story}--- why that can't be\n{why}", path.display());
        }
    }
}

#[test]
fn a_script_says_what_it_is() {
    let mut scripts = shrink::Scripts::new(1);
    for _ in 0..100 {
        let script = scripts.draw();
        assert_eq!(script.to_string().parse::<Script>(), Ok(script));
    }
}
