//! What a rig stands on: directories, the node's network and the world outside of it, the machine's settings.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use nix::fcntl::{Flock, FlockArg};
use tempfile::TempDir;

use super::Programs;
use super::settings::Settings;
use crate::Netns;
use crate::collector::Collector;
use crate::leaks::detach_mounts_below;

/// The ground of one rig. There is one at a time on a machine: kubelet changes what all of it shares.
#[derive(Debug)]
pub struct Ground {
    /// The programs of Kubernetes.
    pub programs: Programs,
    /// The node's network.
    pub host: Arc<Netns>,
    /// Who is told of traces, at [`Ground::COLLECTOR`] in the node's network.
    pub collector: Collector,
    /// A machine beside the node, whose address is [`Ground::OUTSIDE`].
    pub world: Netns,
    directory: TempDir,
    settings: Settings,
    _only: Flock<File>,
}

impl Ground {
    /// The node's address.
    pub const NODE: &str = "192.0.2.10";
    /// That of who looks at it from outside (both from RFC 5737, for documentation).
    pub const OUTSIDE: &str = "192.0.2.1";
    /// Where the collector listens.
    pub const COLLECTOR: &str = "127.0.0.1:4317";
    /// The node's name in Kubernetes.
    pub const NAME: &str = "knarr-node";

    /// Waits until no other rig runs, and makes everything.
    ///
    /// # Panics
    /// When it can't be made.
    pub fn new(programs: Programs) -> Self {
        let lock = File::create(std::env::temp_dir().join("knarr-kube-lock")).expect("a file to lock");
        let only = Flock::lock(lock, FlockArg::LockExclusive).expect("a lock");
        let directory = tempfile::Builder::new().prefix("knarr-kube-").tempdir().expect("a directory");
        for below in ["log", "manifests", "kubelet", "pod-logs", "plugins", "kubectl"] {
            std::fs::create_dir_all(directory.path().join(below)).expect("a directory");
        }
        std::fs::write(directory.path().join("resolv.conf"), "").expect("a file");
        let (host, world) = networks();
        let collector = Collector::default();
        let listener = host.listen(Self::COLLECTOR.parse().expect("an address"));
        collector.serve_at(listener);
        Self { programs, host, collector, world, directory, settings: Settings::note(), _only: only }
    }

    /// A path below the rig's directory.
    pub fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    /// The rig's directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// One of the programs, to be given its arguments.
    pub fn program(&self, name: &str) -> Command {
        Command::new(self.programs.path(name))
    }

    /// The last lines of each log.
    pub fn logs(&self) -> String {
        let entries = std::fs::read_dir(self.path("log")).into_iter().flatten().flatten();
        let show = |path: PathBuf| format!("--- {}\n{}\n", path.display(), super::process::tail(&path, 15));
        entries.map(|entry| show(entry.path())).collect()
    }

    /// Puts the machine's settings back and says what of the rig is left: settings, mounts. Takes the mounts away.
    pub fn leftovers(&self) -> Vec<String> {
        let mut found = self.settings.restore();
        // kubelet's directory, which it mounts onto itself so that volumes may hand mounts on; nothing may be in it.
        let _ = nix::mount::umount(&self.path("kubelet"));
        let mounts = detach_mounts_below(self.directory.path());
        found.extend(mounts.iter().map(|path| format!("mount: {}", path.display())));
        found
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.leftovers();
    }
}

/// The node's network and the world's, with a cable between them.
fn networks() -> (Arc<Netns>, Netns) {
    let (host, world) = (Arc::new(Netns::new()), Netns::new());
    host.connect("up0", &world, "node0");
    host.sh(&format!(
        "ip address add {}/24 dev up0; ip route add default via {}",
        Ground::NODE,
        Ground::OUTSIDE
    ));
    // What Kubernetes' documentation asks of nodes: without the second, answers of a service's pod to another on the same
    // bridge would go past the rules that gave it the service's address.
    host.sh("sysctl -qw net.ipv4.ip_forward=1; sysctl -qw net.bridge.bridge-nf-call-iptables=1");
    world.sh(&format!("ip address add {}/24 dev node0", Ground::OUTSIDE));
    (host, world)
}
