//! The runtimes that are measured: each with own directories, socket, cgroup and CNI network.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::leftovers::{self, Ground};
use super::stages::CONFIGURATION;
use crate::{Client, node};

/// Which runtime, and through which low-level one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Ours, with CNI plugins executed or served in-process.
    Knarr(Plugins),
    /// containerd with a shim and the named OCI runtime.
    Containerd(&'static str),
    /// containerd, told to sync what it unpacks; with runc.
    ContainerdSynced,
}

/// Who does the work of CNI plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugins {
    /// Debian's, as processes.
    Executed,
    /// The daemon.
    Native,
}

/// A running daemon; it ends when dropped.
pub struct Peer {
    /// Which one.
    pub kind: Kind,
    /// The cgroup that it and its pods live below, as a pod's `cgroup_parent`.
    pub cgroup: String,
    directory: TempDir,
    // Where distributions have /run: on a tmpfs. Removed with this.
    _state: TempDir,
    daemon: u32,
}

impl Kind {
    /// How it is called in the table.
    pub fn name(self) -> String {
        match self {
            Self::Knarr(_) => "knarr".to_owned(),
            Self::Containerd(runtime) => format!("containerd, {runtime}"),
            Self::ContainerdSynced => "containerd, synced".to_owned(),
        }
    }

    /// The runtime handler that pods ask for.
    pub fn handler(self) -> &'static str {
        match self {
            Self::Knarr(_) => "",
            Self::Containerd(runtime) => runtime,
            Self::ContainerdSynced => "runc",
        }
    }
}

impl Peer {
    /// Starts the daemon in a cgroup of its own and waits until it answers. `containerd` is the directory of its binaries,
    /// `sandbox_image` its pause image.
    ///
    /// # Panics
    /// When it can't be started.
    #[allow(
        clippy::zombie_processes,
        reason = "what is left over knows the daemon's number, and waits for it"
    )]
    pub async fn start(kind: Kind, containerd: &Path, sandbox_image: &str) -> Self {
        leftovers::of_killed_benchmarks();
        let directory = tempfile::Builder::new().prefix("knarr-bench-").tempdir().expect("a directory");
        let path = directory.path();
        for below in ["cni", "certs.d"] {
            std::fs::create_dir_all(path.join(below)).expect("a directory");
        }
        let state = tempfile::Builder::new().prefix("knarr-bench-").tempdir_in("/dev/shm").expect("a tmpfs");
        std::os::unix::fs::symlink(state.path(), path.join("state")).expect("a link");
        std::fs::write(path.join("cni/10-bench.conflist"), conflist(path)).expect("a conflist");
        let log = File::create(path.join("daemon.log")).expect("a log");
        let mut command = match kind {
            Kind::Knarr(plugins) => knarr(path, plugins),
            Kind::Containerd(_) => peer(path, containerd, (sandbox_image, false)),
            Kind::ContainerdSynced => peer(path, containerd, (sandbox_image, true)),
        };
        let cgroup = leftovers::own_cgroup();
        let started =
            command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log).spawn();
        let daemon = started.expect("the daemon's binary").id();
        let ground = Ground {
            daemon,
            socket: path.join("state/api.sock"),
            cgroup: cgroup.clone(),
            directories: [directory.path().to_owned(), state.path().to_owned()],
            bridge: BRIDGE,
        };
        leftovers::remember(ground);
        enter(&cgroup, daemon);
        let peer = Self { kind, cgroup, directory, _state: state, daemon };
        crate::until(Duration::from_secs(30), "the daemon", || async {
            peer.client().pods().await.map(drop)
        })
        .await;
        peer
    }

    /// A client of the daemon.
    pub fn client(&self) -> Client {
        Client::new(&self.path("state/api.sock"))
    }

    /// A path below its directory.
    pub fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    /// Proportional set size of the daemon alone and of all its processes, workloads apart, in KiB.
    pub fn memory(&self) -> (u64, u64) {
        let directory = self.directory.path().to_string_lossy().into_owned();
        let ours = |pid: &u32| {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).into_owned();
            // containerd's pause containers are its cost too, and carry no path; other daemons of the machine have some.
            let here = || std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            command.contains(&directory) || (command.starts_with("/pause") && here().contains(&self.cgroup))
        };
        (pss(self.daemon), pids().iter().filter(|pid| ours(pid)).map(|pid| pss(*pid)).sum())
    }

    /// What the daemon has written to its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }

    /// Resident memory of the daemon, in KiB.
    pub fn resident(&self) -> u64 {
        status(self.daemon, "VmRSS:")
    }

    /// The most that its resident memory has been since [`Peer::forget_peak`], in KiB.
    pub fn peak(&self) -> u64 {
        status(self.daemon, "VmHWM:")
    }

    /// Begins the peak anew (Linux, Documentation/filesystems/proc.rst, "clear_refs": 5).
    ///
    /// # Panics
    /// When the kernel doesn't let us: the figure would be an old one.
    pub fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.daemon), "5")
            .expect("the peak of another process");
    }

    /// Processor time that the daemon, its helpers and its pods have used, in nanoseconds (cgroup v1 or v2).
    pub fn processor_time(&self) -> u64 {
        let relative = self.cgroup.trim_start_matches('/');
        let v1 = std::fs::read_to_string(format!("/sys/fs/cgroup/cpuacct/{relative}/cpuacct.usage"));
        if let Ok(text) = v1 {
            return text.trim().parse().unwrap_or(0);
        }
        let v2 = std::fs::read_to_string(format!("/sys/fs/cgroup/{relative}/cpu.stat")).unwrap_or_default();
        let microseconds = v2.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse::<u64>().ok());
        microseconds.unwrap_or(0) * 1000
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        leftovers::take_away();
    }
}

const BRIDGE: &str = "knbench0";

fn knarr(directory: &Path, plugins: Plugins) -> Command {
    let file = directory.join("knarr.toml");
    let native = plugins == Plugins::Native;
    std::fs::write(&file, format!("[network]\nnative = {native}\n{CONFIGURATION}")).expect("a configuration");
    let mut command = Command::new(node::binary("knarr"));
    command
        .arg("serve")
        .arg("--config")
        .arg(file)
        .arg(format!("--listen=unix://{}/state/api.sock", directory.display()))
        .arg(format!("--root={}/root", directory.display()))
        .arg(format!("--state={}/state", directory.display()))
        .arg(format!("--cni-conf-dir={}/cni", directory.display()))
        .arg("--cni-bin-dir=/usr/lib/cni")
        .arg(format!("--registry-config-dir={}/certs.d", directory.display()));
    command
}

fn peer(directory: &Path, binaries: &Path, (sandbox_image, synced): (&str, bool)) -> Command {
    let at = directory.display();
    // Keys of containerd's configuration version 3 (its docs/cri/config.md).
    let toml = format!(
        "version = 3\nroot = \"{at}/root\"\nstate = \"{at}/state\"\n[grpc]\naddress = \"{at}/state/api.sock\"\n\
         [plugins.'io.containerd.cri.v1.images']\nsnapshotter = 'overlayfs'\nimage_pull_with_sync_fs = {synced}\n\
         [plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = '{sandbox_image}'\n\
         [plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = '{at}/certs.d'\n\
         [plugins.'io.containerd.cri.v1.runtime']\nrestrict_oom_score_adj = true\n\
         [plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dirs = ['/usr/lib/cni']\nconf_dir = '{at}/cni'\n\
         {runc}{crun}",
        runc = handler("runc"),
        crun = handler("crun"),
    );
    let file = directory.join("config.toml");
    std::fs::write(&file, toml).expect("a configuration");
    let mut command = Command::new(binaries.join("containerd"));
    let path = std::env::var("PATH").unwrap_or_default();
    command.arg("--config").arg(file).env("PATH", format!("{}:{path}", binaries.display()));
    command
}

fn handler(name: &str) -> String {
    let table = format!("plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.{name}");
    let binary = crate::needs::program(name).unwrap_or_default();
    format!(
        "[{table}]\nruntime_type = 'io.containerd.runc.v2'\n[{table}.options]\nBinaryName = '{}'\n",
        binary.display()
    )
}

fn conflist(directory: &Path) -> String {
    serde_json::json!({
        "cniVersion": "1.0.0", "name": "bench",
        "plugins": [
            { "type": "bridge", "bridge": BRIDGE, "isGateway": true, "ipMasq": true,
              "ipam": { "type": "host-local", "dataDir": directory.join("ipam"),
                        "ranges": [[{ "subnet": "10.215.0.0/16" }]], "routes": [{ "dst": "0.0.0.0/0" }] } },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
    .to_string()
}

/// Moves the daemon where its time is counted. On v2 a leaf of its own, as its pods live beside it.
fn enter(cgroup: &str, pid: u32) {
    let relative = cgroup.trim_start_matches('/');
    let v1 = Path::new("/sys/fs/cgroup/cpuacct");
    let home = if v1.is_dir() {
        v1.join(relative)
    } else {
        Path::new("/sys/fs/cgroup").join(relative).join("daemon")
    };
    std::fs::create_dir_all(&home).expect("a cgroup");
    std::fs::write(home.join("cgroup.procs"), pid.to_string()).expect("entering a cgroup");
}

fn pids() -> Vec<u32> {
    let names = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    names.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok()).collect()
}

/// A line of a process' status that is in KiB.
fn status(pid: u32, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn pss(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
