//! What a node left behind: processes, mounts, cgroups, addresses, links.
//!
//! Each check looks for traces of one node (its directory, its cgroup parent, its bridge), so that nodes can be tested side
//! by side.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Netns;

/// The names under which a node's leftovers would be found.
#[derive(Debug, Clone)]
pub struct Traces {
    /// The directory that holds the node's state, root and logs.
    pub directory: PathBuf,
    /// The cgroup below which all of the node's pods live, as in a pod's `cgroup_parent`.
    pub cgroup_parent: String,
    /// The node's bridge.
    pub bridge: String,
}

impl Traces {
    /// Everything found, a line each; empty when nothing is left.
    pub fn leftovers(&self) -> Vec<String> {
        let mut found = Vec::new();
        found.extend(self.processes().iter().map(|(pid, what)| format!("process {pid}: {what}")));
        found.extend(self.mounts().into_iter().map(|line| format!("mount: {line}")));
        found.extend(self.cgroups().into_iter().map(|path| format!("cgroup: {}", path.display())));
        found.extend(self.addresses().into_iter().map(|path| format!("address: {}", path.display())));
        found.extend(self.bridge_ports().into_iter().map(|port| format!("bridge port: {port}")));
        found
    }

    /// Processes that carry the node's directory in their command line or live in one of its cgroups.
    pub fn processes(&self) -> Vec<(i32, String)> {
        let directory = self.directory.to_string_lossy().into_owned();
        let cgroup = format!("{}/", self.cgroup_parent);
        let ours = |pid: i32| {
            let command = read(&format!("/proc/{pid}/cmdline")).replace('\0', " ");
            let inside = read(&format!("/proc/{pid}/cgroup")).contains(&cgroup);
            (command.contains(&directory) || inside).then_some((pid, command))
        };
        let me = std::process::id().cast_signed();
        let pids = names("/proc").into_iter().filter_map(|name| name.parse::<i32>().ok());
        pids.filter(|pid| *pid != me && !is_left_to_init(*pid)).filter_map(ours).collect()
    }

    /// Lines of the table of mounts that name the node's directory.
    pub fn mounts(&self) -> Vec<String> {
        let directory = self.directory.to_string_lossy().into_owned();
        read("/proc/self/mountinfo")
            .lines()
            .filter(|line| line.contains(&directory))
            .map(str::to_owned)
            .collect()
    }

    /// Directories below the node's parent, in every hierarchy.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        self.cgroup_parents().iter().flat_map(|parent| directories(parent)).collect()
    }

    /// The node's parent in every hierarchy that has it.
    pub fn cgroup_parents(&self) -> Vec<PathBuf> {
        let relative = self.cgroup_parent.trim_start_matches('/');
        let hierarchies =
            names("/sys/fs/cgroup").into_iter().map(|name| Path::new("/sys/fs/cgroup").join(name));
        let whole = std::iter::once(PathBuf::from("/sys/fs/cgroup"));
        whole.chain(hierarchies).map(|root| root.join(relative)).filter(|path| path.is_dir()).collect()
    }

    /// The first of `files` that is there, in any hierarchy, in the node's cgroup whose directory ends with `cgroup`, such as a pod's or a
    /// container's id.
    pub fn cgroup_path(&self, cgroup: &str, files: &[&str]) -> Option<PathBuf> {
        let mut todo = self.cgroup_parents();
        while let Some(directory) = todo.pop() {
            let inside = std::fs::read_dir(&directory).into_iter().flatten().flatten();
            todo.extend(inside.map(|entry| entry.path()).filter(|path| path.is_dir()));
            let path = directory.to_string_lossy();
            // What systemd makes is called after its unit.
            if path.strip_suffix(".scope").unwrap_or(&path).ends_with(cgroup) {
                let found = files.iter().map(|file| directory.join(file)).find(|file| file.exists());
                if found.is_some() {
                    return found;
                }
            }
        }
        None
    }

    /// Files named after an address, as Debian's host-local and our own address management keep them.
    fn addresses(&self) -> Vec<PathBuf> {
        let is_address =
            |path: &Path| path.file_name().and_then(|n| n.to_str()?.parse::<IpAddr>().ok()).is_some();
        files(&self.directory).into_iter().filter(|path| is_address(path)).collect()
    }

    fn bridge_ports(&self) -> Vec<String> {
        names(&format!("/sys/class/net/{}/brif", self.bridge))
    }
}

/// Takes away what is mounted below a directory, whoever uses it, and says what that was, in the order of the table of mounts.
pub(crate) fn detach_mounts_below(directory: &Path) -> Vec<PathBuf> {
    let table = read("/proc/self/mountinfo");
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let below: Vec<PathBuf> = points.filter(|point| point.starts_with(directory)).collect();
    for point in below.iter().rev() {
        let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
    }
    below
}

/// The network of a host of its own, as it was before its node was started.
#[derive(Debug)]
pub(crate) struct Ground {
    host: Arc<Netns>,
    links: Vec<String>,
}

impl Ground {
    pub(crate) fn new(host: Arc<Netns>) -> Self {
        let links = host.links("");
        Self { host, links }
    }

    /// Links that have come since, but for `bridges` (the reference plugin leaves its own, for the next pod), and rules of
    /// pods: what the reference plugins leave are the chains that pods share.
    pub(crate) fn leftovers(&self, bridges: &[String]) -> Vec<String> {
        let links = self.host.links("");
        let left = links.into_iter().filter(|link| !self.links.contains(link) && !bridges.contains(link));
        let rules = self.host.sh("nft list ruleset");
        let of_pods =
            rules.lines().filter(|line| is_of_a_pod(line)).map(|line| format!("rule: {}", line.trim()));
        left.map(|link| format!("link: {link}")).chain(of_pods).collect()
    }
}

/// Whether a line of nft's listing names a table of ours, or a chain that the reference plugins make for a single pod:
/// `CNI-DN-…` (portmap) and `CNI-` with 24 hex digits (masquerade).
fn is_of_a_pod(line: &str) -> bool {
    line.split_whitespace().any(|word| {
        let chain = word.strip_prefix("CNI-").unwrap_or_default();
        let is_hash = chain.len() == 24 && chain.bytes().all(|byte| byte.is_ascii_hexdigit());
        word.starts_with("knarr") || chain.starts_with("DN-") || is_hash
    })
}

/// Network namespaces on this machine that some process lives in or holds open.
pub fn network_namespaces() -> std::collections::BTreeSet<String> {
    let mut found = std::collections::BTreeSet::new();
    for pid in names("/proc").into_iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) {
        let held = names(&format!("/proc/{pid}/fd")).into_iter().map(|fd| format!("/proc/{pid}/fd/{fd}"));
        let links = held.chain([format!("/proc/{pid}/ns/net")]).filter_map(|path| fs::read_link(path).ok());
        found.extend(
            links.map(|link| link.to_string_lossy().into_owned()).filter(|link| link.starts_with("net:[")),
        );
    }
    found
}

/// How many descriptors a process has open.
pub fn descriptors(pid: u32) -> usize {
    names(&format!("/proc/{pid}/fd")).len()
}

/// Whether a process has ended and waits for init, who takes its time on some machines: what a daemon that was killed
/// left running ends as an orphan.
fn is_left_to_init(pid: i32) -> bool {
    let stat = read(&format!("/proc/{pid}/stat"));
    stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with("Z 1 "))
}

fn read(path: &str) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn names(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn directories(parent: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir() && !path.is_symlink()).collect()
}

fn files(parent: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![parent.to_owned()];
    while let Some(directory) = todo.pop() {
        todo.extend(directories(&directory));
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        found.extend(entries.map(|entry| entry.path()).filter(|path| path.is_file()));
    }
    found
}
