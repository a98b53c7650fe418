//! What there is of a node at the moment: memory, descriptors, threads, tasks, and all that a pod could leave behind.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::figures::{After, COUNTED, FIGURES, Sample};
use super::latencies::{CALLS, percentile};
use super::place::Place;
use crate::leaks::{Traces, descriptors};
use crate::{Client, Node, until_each};

/// How long what is freed in the background may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often one looks whether it is.
const AGAIN: Duration = Duration::from_millis(100);

/// Network namespaces that the daemon has ready for pods to come (`network.prepared_namespaces`), once the first have been.
const PREPARED: u64 = 2;

/// What is as it was when everybody has gone.
#[derive(Debug, Clone, PartialEq)]
pub struct Census {
    /// In the order of the figures, times apart.
    pub values: [f64; COUNTED],
    /// Links, addresses, routes and packet filter rules, a line each.
    network: Vec<String>,
}

/// Where a node is looked at.
#[derive(Debug, Clone)]
pub struct View {
    pid: u32,
    traces: Traces,
}

impl View {
    /// Of a node whose daemon runs.
    ///
    /// # Panics
    /// When it doesn't.
    pub fn of(node: &Node) -> Self {
        Self { pid: node.pid(), traces: node.traces() }
    }

    /// Takes all figures but the times. A process or file that goes meanwhile counts as gone.
    pub fn take(&self, tasks: u64) -> [f64; COUNTED] {
        let memory = Rollup::of(self.pid);
        let processes = self.traces.processes();
        let is_supervisor = |(_, command): &&(i32, String)| command.contains("knarr-supervisor");
        let supervisors: Vec<u32> =
            processes.iter().filter(is_supervisor).map(|(pid, _)| pid.unsigned_abs()).collect();
        let theirs: u64 = supervisors.iter().map(|pid| Rollup::of(*pid).pss).sum();
        let (state, root) =
            (Below::of(&self.traces.directory.join("state")), Below::of(&self.traces.directory.join("root")));
        [
            memory.rss as f64,
            memory.pss as f64,
            memory.anonymous as f64,
            theirs as f64 / supervisors.len() as f64,
            descriptors(self.pid) as f64,
            names(&format!("/proc/{}/task", self.pid)) as f64,
            tasks as f64,
            processes.len() as f64,
            supervisors.len() as f64,
            self.traces.cgroups().len() as f64,
            self.traces.mounts().len() as f64,
            namespaces(processes.iter().map(|(pid, _)| *pid)) as f64,
            // Two lines of headings.
            read("/proc/thread-self/net/dev").lines().count().saturating_sub(2) as f64,
            (state.addresses + root.addresses) as f64,
            state.files as f64,
            root.files as f64,
            state.bytes as f64 / 1024.0,
            root.bytes as f64 / 1024.0,
        ]
    }

    /// The sum of the supervisors' memory, in KiB, and the daemon's.
    pub fn memory(&self) -> (u64, u64) {
        let processes = self.traces.processes();
        let supervisors = processes.iter().filter(|(_, command)| command.contains("knarr-supervisor"));
        (supervisors.map(|(pid, _)| Rollup::of(pid.unsigned_abs()).pss).sum(), Rollup::of(self.pid).pss)
    }
}

/// Takes a sample, on a thread that may wait for the disk.
///
/// # Panics
/// When looking does.
pub async fn sample(node: &Node, place: &Place, at: f64) -> Sample {
    let (view, tasks) = (View::of(node), tasks_of(&daemon(place, &place.client()).await));
    let counted = tokio::task::spawn_blocking(move || view.take(tasks)).await.expect("a look at the node");
    let times = place.clock.take();
    let mut values = [f64::NAN; FIGURES.len()];
    values[..COUNTED].copy_from_slice(&counted);
    let judged = times.iter().take((FIGURES.len() - COUNTED) / 2);
    for (number, sorted) in judged.enumerate() {
        values[COUNTED + 2 * number] = percentile(sorted, 50).unwrap_or(f64::NAN);
        values[COUNTED + 2 * number + 1] = percentile(sorted, 99).unwrap_or(f64::NAN);
    }
    debug_assert!(CALLS.len() * 2 >= FIGURES.len() - COUNTED, "each time is of a call");
    Sample { at, made: place.crowd.made(), values }
}

/// Waits until everybody has gone and everything is as it was, or, the first time, until nothing changes any more.
///
/// # Panics
/// When something stays.
pub async fn settled(node: &Node, place: &Place, before: Option<&Census>) -> Census {
    let (view, client) = (View::of(node), place.client());
    let last = std::sync::Mutex::new(None::<Census>);
    let what = "everything to be as it was before";
    let census = until_each((AGAIN, PATIENCE), what, || async {
        let daemon = daemon(place, &client).await;
        if daemon["preparedNamespaces"] != PREPARED {
            return Err(vec![format!("network namespaces that are ready: {daemon}")]);
        }
        let now = Census { values: view.take(tasks_of(&daemon)), network: network() };
        let previous = last.lock().expect("nobody panics with it").replace(now.clone());
        let against = before.or(previous.as_ref());
        let grown = against.map_or(vec!["the first look".to_owned()], |against| now.grown_since(against));
        if grown.is_empty() { Ok(now) } else { Err(grown) }
    });
    let census = census.await;
    place.clock.take();
    census
}

impl Census {
    /// What is more than it was, or other, a line each.
    pub fn grown_since(&self, before: &Self) -> Vec<String> {
        let returning = FIGURES[..COUNTED].iter().zip(self.values.iter().zip(before.values));
        let grown = returning
            .filter(|(figure, (now, before))| figure.after == After::AsBefore && **now > *before)
            .map(|(figure, (now, before))| format!("{}: {before} before, {now} now", figure.name));
        let new = self.network.iter().filter(|line| !before.network.contains(line));
        grown.chain(new.map(|line| format!("network: {line}"))).collect()
    }
}

/// What the daemon says of itself.
async fn daemon(place: &Place, client: &Client) -> serde_json::Value {
    let status = place.insist(|| async {
        let request = k8s_cri::v1::StatusRequest { verbose: true };
        Ok(client.runtime.clone().status(request).await?.into_inner())
    });
    let status = status.await.expect("a status");
    serde_json::from_str(&status.info["daemon"]).expect("JSON")
}

/// How many tasks it has.
fn tasks_of(daemon: &serde_json::Value) -> u64 {
    daemon["tasks"].as_u64().expect("a number")
}

/// What a look at the whole network gives; counters and ages aren't in it.
fn network() -> Vec<String> {
    let script = "ip -o link show | sed 's/^[0-9]*: //'; ip -o addr show | sed 's/^[0-9]*: //'; \
                  ip route show table all; nft list ruleset";
    let shown = std::process::Command::new("sh").args(["-c", script]).output().expect("a shell");
    String::from_utf8_lossy(&shown.stdout).lines().map(str::to_owned).collect()
}

/// A process' memory in KiB.
#[derive(Debug, Default)]
struct Rollup {
    rss: u64,
    pss: u64,
    anonymous: u64,
}

impl Rollup {
    fn of(pid: u32) -> Self {
        let text = read(&format!("/proc/{pid}/smaps_rollup"));
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
        };
        Self { rss: field("Rss:"), pss: field("Pss:"), anonymous: field("Anonymous:") }
    }
}

/// What is in a directory.
#[derive(Debug, Default)]
pub struct Below {
    /// Files, directories and all else: each takes an inode.
    pub files: u64,
    /// What files take on the disk.
    pub bytes: u64,
    /// Files that are called after an address.
    pub addresses: u64,
}

impl Below {
    /// Looks at everything below a directory.
    pub fn of(directory: &Path) -> Self {
        let mut below = Self::default();
        let mut todo = vec![directory.to_owned()];
        while let Some(directory) = todo.pop() {
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                below.add(&entry, &mut todo);
            }
        }
        below
    }

    fn add(&mut self, entry: &fs::DirEntry, todo: &mut Vec<PathBuf>) {
        let Ok(metadata) = entry.metadata() else { return };
        self.files += 1;
        if metadata.is_dir() {
            // What a directory itself takes never gets less on ext4, however empty it is.
            todo.push(entry.path());
        } else {
            // The unit of st_blocks is 512 bytes, whatever the file system's (stat(2)).
            self.bytes += metadata.blocks() * 512;
        }
        let is_address = entry.file_name().to_str().is_some_and(|name| name.parse::<IpAddr>().is_ok());
        self.addresses += u64::from(is_address);
    }
}

/// Network namespaces that processes live in or hold open.
fn namespaces(pids: impl Iterator<Item = i32>) -> usize {
    let mut found = BTreeSet::new();
    for pid in pids {
        let held = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let held = held.map(|entry| entry.path()).chain([PathBuf::from(format!("/proc/{pid}/ns/net"))]);
        let links = held.filter_map(|path| fs::read_link(path).ok());
        found.extend(links.filter(|link| link.to_string_lossy().starts_with("net:[")));
    }
    found.len()
}

fn read(path: &str) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn names(directory: &str) -> usize {
    fs::read_dir(directory).map_or(0, Iterator::count)
}
