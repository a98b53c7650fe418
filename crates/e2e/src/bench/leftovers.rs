//! What is taken away behind a runtime that was measured, also when that was broken off: pods by the runtime itself, so that
//! networks are let go of, then whatever is left in the cgroup.
//!
//! However it ends: by a drop, by a signal (which drops), by a panic, which in a release build drops nothing. Behind a benchmark
//! that was killed the next one looks: cgroups are named after the benchmark's process.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::{Client, node};

/// The ground of one runtime.
#[derive(Debug)]
pub(super) struct Ground {
    /// Its daemon, a child of this process.
    pub(super) daemon: u32,
    /// Where it is called.
    pub(super) socket: PathBuf,
    /// The cgroup that it and its pods live below.
    pub(super) cgroup: String,
    /// Its directories, with what is mounted in them.
    pub(super) directories: [PathBuf; 2],
    /// Its bridge.
    pub(super) bridge: &'static str,
}

/// What is there to be taken away now: runtimes are measured one after another.
static GROUND: Mutex<Option<Ground>> = Mutex::new(None);

fn exchange(ground: Option<Ground>) -> Option<Ground> {
    std::mem::replace(&mut *GROUND.lock().unwrap_or_else(PoisonError::into_inner), ground)
}

/// From here on there is something to be taken away.
pub(super) fn remember(ground: Ground) {
    exchange(Some(ground));
}

/// Has a panic take away what there is before the process ends by it.
pub fn take_away_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        before(panic);
        take_away();
    }));
}

/// Takes away what there is, if anything.
pub(super) fn take_away() {
    let Some(ground) = exchange(None) else { return };
    remove_pods(&ground.socket);
    let daemon = Pid::from_raw(ground.daemon.cast_signed());
    let _gone = kill(daemon, Signal::SIGTERM);
    let _gone = waitpid(daemon, None);
    clear_cgroup(&ground.cgroup);
    let run = |program: &str, arguments: &[&str]| {
        let _nothing_there = Command::new(program).args(arguments).stderr(Stdio::null()).status();
    };
    for directory in &ground.directories {
        run("umount", &["-R", &directory.to_string_lossy()]);
        let _next = std::fs::remove_dir_all(directory);
    }
    run("ip", &["link", "delete", ground.bridge]);
}

/// How long a runtime may take to remove its pods before that is done without it.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a killed process may take to be gone.
const END: Duration = Duration::from_secs(5);

/// Before the number of the benchmark's process in the name of a cgroup.
const PREFIX: &str = "knarr-bench-";

/// The same of the program that measures the floor.
const FLOOR: &str = "knarr-floor-";

/// The cgroup of this benchmark, from the root of the hierarchies.
pub(super) fn own_cgroup() -> String {
    format!("/{PREFIX}{}", std::process::id())
}

/// Has the runtime behind a socket remove all its pods. On a thread and executor of its own: this is what a drop does.
fn remove_pods(socket: &Path) {
    let work = async {
        let client = Client::new(socket);
        for pod in client.pods().await.unwrap_or_default() {
            let _next = client.stop_pod(&pod.id).await;
            let _next = client.remove_pod(&pod.id).await;
        }
    };
    let run = || {
        let executor = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        executor
            .block_on(async { Ok::<_, std::io::Error>(tokio::time::timeout(PATIENCE, work).await.is_ok()) })
    };
    if !std::thread::scope(|scope| matches!(scope.spawn(run).join(), Ok(Ok(true)))) {
        eprintln!("pods are not removed by their runtime");
    }
}

/// Kills all that is in a cgroup and below it, in every hierarchy, and removes it.
fn clear_cgroup(cgroup: &str) {
    let everywhere: Vec<_> =
        hierarchies().into_iter().map(|root| root.join(cgroup.trim_start_matches('/'))).collect();
    let begun = Instant::now();
    while begun.elapsed() < END {
        let left: Vec<_> = everywhere.iter().flat_map(|directory| processes(directory)).collect();
        if left.is_empty() {
            break;
        }
        for pid in left {
            let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::yield_now();
    }
    everywhere.iter().for_each(|directory| node::remove_cgroups(directory));
}

/// Takes away what benchmarks have left that were killed.
pub(super) fn of_killed_benchmarks() {
    let names = hierarchies().into_iter().filter_map(|root| std::fs::read_dir(root).ok()).flatten().flatten();
    for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
        if is_left(&name, |process| Path::new(&format!("/proc/{process}")).exists()) {
            clear_cgroup(&name);
        }
    }
}

/// Whether a cgroup is of a benchmark that runs no more.
fn is_left(name: &str, runs: impl Fn(u32) -> bool) -> bool {
    let number = [PREFIX, FLOOR].iter().find_map(|prefix| name.strip_prefix(prefix)?.parse().ok());
    number.is_some_and(|process| !runs(process))
}

/// The processes in a cgroup and below it.
fn processes(directory: &Path) -> Vec<i32> {
    let below = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<i32> = below.filter(|path| path.is_dir()).flat_map(|path| processes(&path)).collect();
    let text = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    found
}

fn hierarchies() -> Vec<PathBuf> {
    let below = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
    below.filter(|path| path.join("cgroup.procs").exists()).chain([PathBuf::from("/sys/fs/cgroup")]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_benchmark_left_that_runs_no_more_is_taken_away() {
        let left = |name: &str| is_left(name, |process| process == 7);
        assert!(left("knarr-bench-8") && left("knarr-floor-8"));
        assert!(!left("knarr-bench-7") && !left("knarr-bench-") && !left("knarr-bench-8x"));
        assert!(!left("knarr") && !left("kubepods"));
    }

    #[test]
    #[allow(clippy::zombie_processes, reason = "to be waited for by its number is what is tested")]
    fn what_is_remembered_is_taken_away_once() {
        let made = || tempfile::tempdir().expect("a directory").keep();
        let directories = [made(), made()];
        let daemon = Command::new("sleep").arg("1000").spawn().expect("a process").id();
        let socket = directories[0].join("nobody.sock");
        let cgroup = "/knarr-bench-nobody".to_owned();
        remember(Ground { daemon, socket, cgroup, directories: directories.clone(), bridge: "knbenchnone" });
        take_away();
        assert!(directories.iter().all(|directory| !directory.exists()));
        assert!(!Path::new(&format!("/proc/{daemon}")).exists(), "ended and waited for");
        assert!(exchange(None).is_none());
    }
}
