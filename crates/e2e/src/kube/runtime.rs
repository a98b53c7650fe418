//! What runs the pods of a rig: the built daemon, or containerd, so that a scenario can be shown to hold on a peer.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::containerd::Containerd;
use super::{Ground, images};
use crate::leaks::{Traces, detach_mounts_below};
use crate::node::remove_cgroups;
use crate::{Client, Network, Node, Registry, Setup};

/// Which runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The built daemon.
    Knarr,
    /// containerd with Debian's runc.
    Containerd,
}

/// A runtime on a rig's ground.
pub enum Runtime {
    /// The built daemon.
    Knarr(Box<Node>),
    /// containerd.
    Containerd(Containerd),
}

/// The bridge of the pods, in the node's network.
pub(super) const BRIDGE: &str = "kube0";

/// The addresses of pods.
pub(super) const PODS: &str = "10.244.0.0/24";

impl Kind {
    /// The runtime of this run: `KNARR_KUBE_RUNTIME`, or the built daemon.
    ///
    /// # Panics
    /// When the variable names none.
    pub fn of_this_run() -> Self {
        match std::env::var("KNARR_KUBE_RUNTIME").as_deref() {
            Err(_) | Ok("knarr") => Self::Knarr,
            Ok("containerd") => Self::Containerd,
            Ok(other) => panic!("KNARR_KUBE_RUNTIME is \"{other}\", which is neither knarr nor containerd"),
        }
    }
}

impl Runtime {
    /// Starts one, with the images of the scenarios to be had from a registry.
    ///
    /// # Panics
    /// When it doesn't come up.
    pub async fn start(ground: &Ground, kind: Kind) -> Self {
        let registry = Registry::shared().await;
        images::push(&registry, &ground.programs).await;
        match kind {
            Kind::Knarr => {
                let setup = Setup::new(Network::Plugins).inside(&ground.host);
                let tracing = format!("[tracing]\nendpoint = \"{}\"\ninsecure = true", Ground::COLLECTOR);
                let setup = setup.conflist("kube", plugins()).section(&tracing);
                Self::Knarr(Box::new(setup.start().await))
            }
            Kind::Containerd => {
                ground.host.lend(&registry);
                Self::Containerd(Containerd::start(ground, registry).await)
            }
        }
    }

    /// The path of its socket.
    pub fn socket(&self) -> PathBuf {
        match self {
            Self::Knarr(node) => node.socket(),
            Self::Containerd(peer) => peer.socket(),
        }
    }

    /// The cgroup that kubelet makes its own below.
    pub fn cgroup_root(&self) -> String {
        match self {
            Self::Knarr(node) => node.cgroup_parent(),
            Self::Containerd(peer) => peer.cgroup_root(),
        }
    }

    /// Where images come from.
    pub fn registry(&self) -> &Arc<Registry> {
        match self {
            Self::Knarr(node) => &node.registry,
            Self::Containerd(peer) => &peer.registry,
        }
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        match self {
            Self::Knarr(node) => node.kill_daemon(),
            Self::Containerd(peer) => peer.kill(),
        }
    }

    /// Starts it again on its directories.
    pub fn start_again(&mut self, ground: &Ground) {
        match self {
            Self::Knarr(node) => node.start_daemon(),
            Self::Containerd(peer) => peer.start_again(ground),
        }
    }

    /// Ends it with all that it has started, and takes away what doesn't outlive a machine's end: what is mounted, the
    /// state directory, cgroups, the pods' links and addresses' rules.
    ///
    /// # Panics
    /// When something can't be taken away.
    pub fn lose_power(&mut self, ground: &Ground) {
        self.kill();
        let traces = self.traces();
        for (pid, _) in traces.processes() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        wait_until_gone(&traces);
        for directory in [ground.directory(), &traces.directory] {
            detach_mounts_below(directory);
        }
        let state = match self {
            Self::Knarr(node) => node.path("state"),
            Self::Containerd(peer) => peer.state(),
        };
        std::fs::remove_dir_all(state).expect("removing the state directory");
        traces.cgroup_parents().iter().for_each(|cgroup| remove_cgroups(cgroup));
        ground.host.sh(&format!("ip link delete {BRIDGE}; iptables -t nat -F; iptables -t nat -X"));
    }

    /// Where it would leave something of its pods.
    pub fn traces(&self) -> Traces {
        match self {
            Self::Knarr(node) => node.traces(),
            Self::Containerd(peer) => peer.traces(),
        }
    }

    /// Ends it when its kubelet has ended, and says what is left of both and of the ground.
    pub async fn finish(self, ground: &Ground) -> Vec<String> {
        let mut found = self.remove_pods().await;
        let traces = self.traces();
        // What kubelet makes for its classes of pods; those that aren't empty stay, to be found.
        traces.cgroups().iter().for_each(|cgroup| remove_cgroups(cgroup));
        drop(self);
        found.extend(traces.leftovers());
        traces.cgroup_parents().iter().for_each(|cgroup| remove_cgroups(cgroup));
        found.extend(ground.leftovers());
        found
    }

    /// Removes the pods that have ended and that kubelet keeps for a while; says what doesn't go.
    async fn remove_pods(&self) -> Vec<String> {
        let client = Client::new(&self.socket());
        let pods = client.pods().await.unwrap_or_default();
        let mut found = Vec::new();
        for pod in pods {
            let gone = async {
                client.stop_pod(&pod.id).await?;
                client.remove_pod(&pod.id).await
            };
            found.extend(gone.await.err().map(|status| format!("pod {}: {status}", pod.id)));
        }
        found
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        match self {
            Self::Knarr(node) => node.log_tail(),
            Self::Containerd(_) => "containerd's log is among the rig's".into(),
        }
    }
}

/// Waits until no process of a node that was killed is left: they end side by side.
fn wait_until_gone(traces: &Traces) {
    for (pid, _) in traces.processes() {
        let Some(pid) = rustix::process::Pid::from_raw(pid) else { continue };
        if let Ok(process) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
            let _ =
                poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], PollTimeout::from(10_000_u16));
        }
    }
}

/// Debian's plugins, for a network in which pods reach themselves through a service (`hairpinMode`) and the world sees the
/// node's address.
pub(super) fn plugins() -> Value {
    json!([
        { "type": "bridge", "bridge": BRIDGE, "isGateway": true, "ipMasq": true, "hairpinMode": true,
          "ipam": { "type": "host-local", "ranges": [[{ "subnet": PODS }]], "routes": [{ "dst": "0.0.0.0/0" }] } },
        { "type": "portmap", "capabilities": { "portMappings": true } },
    ])
}
