//! containerd under the same kubelet: what a scenario asks for is Kubernetes', and not something that only we do.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::{Ground, Process, runtime};
use crate::leaks::Traces;
use crate::node::remove_cgroups;
use crate::{Client, Registry, until};

/// A running containerd with runc.
pub struct Containerd {
    process: Option<Process>,
    directory: PathBuf,
    binaries: PathBuf,
    cgroup: String,
    pub(super) registry: Arc<Registry>,
}

impl Containerd {
    /// Starts the one of `KNARR_KUBE_CONTAINERD`, a directory of its binaries.
    pub(super) async fn start(ground: &Ground, registry: Arc<Registry>) -> Self {
        let binaries =
            std::env::var_os("KNARR_KUBE_CONTAINERD").expect("KNARR_KUBE_CONTAINERD (kube/test sets it)");
        let mut plugins = runtime::plugins();
        plugins[0]["ipam"]["dataDir"] = json!(ground.path("containerd/addresses"));
        let conflist = json!({ "cniVersion": "1.0.0", "name": "kube", "plugins": plugins });
        std::fs::create_dir_all(ground.path("cni")).expect("a directory");
        std::fs::write(ground.path("cni/10-kube.conflist"), conflist.to_string()).expect("a conflist");
        std::fs::create_dir_all(ground.path("certs.d")).expect("a directory");
        let text = configuration(ground, &registry.image("kube/pause:1"));
        std::fs::write(ground.path("containerd.toml"), text).expect("a configuration");
        let mut peer = Self {
            process: None,
            directory: ground.path("containerd"),
            binaries: binaries.into(),
            cgroup: format!("/knarr-kube-{}", std::process::id()),
            registry,
        };
        peer.start_again(ground);
        let client = Client::new(&peer.socket());
        until(Duration::from_secs(30), "containerd", || async { client.pods().await.map(drop) }).await;
        peer
    }

    pub(super) fn start_again(&mut self, ground: &Ground) {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(self.binaries.join("containerd"));
        command.arg("--config").arg(ground.path("containerd.toml"));
        command.env("PATH", format!("{}:{path}", self.binaries.display()));
        self.process = Some(Process::start(ground, command));
    }

    pub(super) fn kill(&mut self) {
        self.process = None;
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.directory.join("api.sock")
    }

    pub(super) fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    pub(super) fn cgroup_root(&self) -> String {
        self.cgroup.clone()
    }

    pub(super) fn traces(&self) -> Traces {
        Traces {
            directory: self.directory.clone(),
            cgroup_parent: self.cgroup.clone(),
            bridge: runtime::BRIDGE.into(),
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            process.stop();
        }
        // Shims, and what they run, stay when it ends.
        for (pid, _) in self.traces().processes() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        self.traces().cgroup_parents().iter().for_each(|parent| remove_cgroups(parent));
    }
}

/// Keys of containerd's configuration version 3 (its docs/cri/config.md).
fn configuration(ground: &Ground, sandbox_image: &str) -> String {
    let at = ground.directory().display();
    let runc = crate::needs::program("runc").unwrap_or_default();
    format!(
        "version = 3\nroot = '{at}/containerd/root'\nstate = '{at}/containerd/state'\n\
         disabled_plugins = ['io.containerd.nri.v1.nri']\n[grpc]\naddress = '{at}/containerd/api.sock'\n\
         [ttrpc]\naddress = '{at}/containerd/ttrpc.sock'\n\
         [plugins.'io.containerd.cri.v1.images']\nsnapshotter = 'overlayfs'\n\
         [plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = '{sandbox_image}'\n\
         [plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = '{at}/certs.d'\n\
         [plugins.'io.containerd.cri.v1.runtime']\nrestrict_oom_score_adj = true\n\
         [plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dirs = ['/usr/lib/cni']\nconf_dir = '{at}/cni'\n\
         [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\nruntime_type = 'io.containerd.runc.v2'\n\
         [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]\nBinaryName = '{}'\n",
        runc.display()
    )
}
