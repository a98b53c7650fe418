//! Pulls from a registry on this machine, timed: where the time and the processors go, and how much memory it takes.
//!
//! `cargo bench -p image-service --bench pulls [NAME...]`, as root. `PULLS_TAR=FILE` adds an image whose one layer is that
//! archive; `PULLS_RUNS` is the number of pulls of each image (5), `PULLS_DIR` where the store is made, `PULLS_CONNECTIONS` how
//! many layers are fetched at once.
//!
//! The registry is a process of its own, so that its work isn't counted as ours.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a program for developers")]

#[path = "pulls/images.rs"]
mod images;
#[path = "pulls/server.rs"]
mod server;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use image_service::{Config, Images, PullRequest, PullStatistics};

fn main() {
    let names: Vec<String> = std::env::args().skip(1).filter(|name| !name.starts_with("--")).collect();
    if names.first().is_some_and(|name| name == "serve") {
        return server::serve(&names[1..]);
    }
    // What the daemon tells its allocator when it starts; here the allocator reads it for itself when this program starts.
    if std::env::var_os("MALLOC_MMAP_THRESHOLD_").is_none() {
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(&names).env("MALLOC_MMAP_THRESHOLD_", "524288").env("MALLOC_TRIM_THRESHOLD_", "131072");
        std::process::exit(again.status().unwrap().code().unwrap_or(1));
    }
    let wanted = if names.is_empty() { images::NAMES.map(str::to_owned).to_vec() } else { names };
    let mut child = Command::new(std::env::current_exe().unwrap())
        .arg("serve")
        .args(&wanted)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    print!("{:<14} {:>9} {:>9} {:>9} {:>11}", "image", "ms", "user ms", "system ms", "memory KiB");
    println!(" {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}", "waiting", "spool", "decomp", "hash", "write", "sync");
    for name in &wanted {
        runtime.block_on(measure(name, line.trim()));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

async fn measure(name: &str, registry: &str) {
    let runs = std::env::var("PULLS_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(5);
    let mut all: Vec<Run> = Vec::new();
    for _ in 0..runs {
        let run = pull(&format!("{registry}/{name}:v1")).await;
        println!("{name:<14} {run}");
        all.push(run);
    }
    all.sort_by_key(|run| run.wall);
    println!("{:<14} {}   <- median", name, all[all.len() / 2]);
}

struct Run {
    wall: Duration,
    user: Duration,
    system: Duration,
    /// Most memory at any time of the pull above what there was before, in KiB.
    memory: u64,
    stages: PullStatistics,
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Run { wall, user, system, memory, stages } = self;
        write!(f, "{:>9} {:>9} {:>9} {memory:>11}", wall.as_millis(), user.as_millis(), system.as_millis())?;
        let PullStatistics { waiting, spooling, decompressing, hashing, writing, syncing, .. } = stages;
        for stage in [waiting, spooling, decompressing, hashing, writing, syncing] {
            write!(f, " {:>8}", stage.as_millis())?;
        }
        Ok(())
    }
}

async fn pull(reference: &str) -> Run {
    let base = std::env::var_os("PULLS_DIR").map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(base).unwrap();
    let mut config = Config::new(dir.path().join("root"), dir.path().join("certs.d"));
    if let Some(connections) = std::env::var("PULLS_CONNECTIONS").ok().and_then(|number| number.parse().ok()) {
        config.limits.connections = connections;
    }
    let images = Images::open(config).unwrap();
    // What others have written doesn't count.
    rustix::fs::sync();
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let (memory, (user, system)) = (status("VmRSS:"), times());
    let begun = Instant::now();
    let request = PullRequest { reference: reference.to_owned(), credentials: None };
    let mut watch = images.watch_pull(request).unwrap();
    while watch.changed().await.is_some() {}
    let wall = begun.elapsed();
    let stages = watch.now().statistics;
    watch.outcome().await.unwrap();
    let (user_after, system_after) = times();
    let (user, system) = (user_after - user, system_after - system);
    Run { wall, user, system, memory: status("VmHWM:") - memory, stages }
}

/// A line of this process's status, in KiB.
fn status(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Processor time of this process so far.
fn times() -> (Duration, Duration) {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    let of = |time: nix::sys::time::TimeVal| {
        Duration::from_micros((time.tv_sec() * 1_000_000 + time.tv_usec()).try_into().unwrap())
    };
    (of(usage.user_time()), of(usage.system_time()))
}
