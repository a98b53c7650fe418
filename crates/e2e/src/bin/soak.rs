//! A node under load for long, and the proof that nothing grows: `soak full|short [OPTION NUMBER ...]`.
//!
//! Prints the tables, and leaves them with the chart and all figures in the directory `KNARR_SOAK_OUT` (target/soak). Options:
//! `--pods`, `--alive`, `--at-once`, `--burst`, `--callers`, `--restarts`, `--pods-between-restarts`. Exits with 1 when something
//! went wrong, grew, or was left over. Ended by a signal, it takes everything down.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use e2e::soak::plan::Plan;
use e2e::soak::{Report, chart, report};
use nix::sched::{CloneFlags, unshare};

fn main() -> ExitCode {
    let plan = match plan(std::env::args().skip(1).collect()) {
        Ok(plan) => plan,
        Err(why) => {
            eprintln!("soak: {why}; soak full|short [OPTION NUMBER ...]");
            return ExitCode::from(2);
        }
    };
    alone_in_its_network();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let found = runtime.expect("a runtime").block_on(async {
        tokio::select! {
            found = e2e::soak::run(plan) => found,
            found = ended() => found,
        }
    });
    publish(&found);
    if found.is_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Panics when a signal says that the run is to end, while the run is still there: what it has is dropped by the panic, and so not
/// judged, in the middle of something.
async fn ended() -> Report {
    panic!("the run was ended by {}", e2e::ended().await)
}

fn plan(arguments: Vec<String>) -> Result<Plan, String> {
    let (size, options) = arguments.split_first().ok_or("how much is missing")?;
    match size.as_str() {
        "full" => Plan::full().changed(options),
        "short" => Plan::short().changed(options),
        other => Err(format!("\"{other}\" is no size")),
    }
}

/// Puts this process, and all that it starts, into a network namespace of its own: it goes with them, whatever happens, and
/// whatever link, address or rule is in it is this run's. There is one thread still.
fn alone_in_its_network() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace, which takes root");
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip(8)");
    assert!(up.success(), "the loopback interface stays down");
}

fn publish(found: &Report) {
    let directory = std::env::var_os("KNARR_SOAK_OUT").map_or_else(|| "target/soak".into(), PathBuf::from);
    std::fs::create_dir_all(&directory).expect("a directory for the figures");
    let tables = report::tables(found);
    println!("{tables}");
    let title = format!("{} pods with {} alive", found.plan.pods, found.plan.alive);
    for (name, text) in [
        ("soak.md", tables),
        ("soak.svg", chart::svg(&title, &found.samples)),
        ("soak.csv", report::csv(&found.samples)),
    ] {
        std::fs::write(directory.join(name), text).expect("writing the figures");
    }
}
