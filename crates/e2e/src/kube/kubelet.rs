//! A kubelet: its configuration and its process, which may be ended and started anew.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Ground, Process, Runtime};
use crate::CgroupDriver;

/// A kubelet on its configuration.
#[derive(Debug)]
pub(super) struct Kubelet {
    process: Option<Process>,
    kubeconfig: bool,
    /// Where the cAdvisor in it asks for containerd's names of cgroups.
    containerd: Option<PathBuf>,
}

/// Where kubelet tells, without asking who wants to know, what it has.
pub(super) const READ_ONLY_PORT: u16 = 10255;

impl Kubelet {
    /// Starts one with static pods only.
    pub(super) fn standalone(ground: &Ground, runtime: &Runtime) -> Self {
        Self::configured(ground, runtime, false)
    }

    /// Starts one that joins the cluster of `kubelet.kubeconfig`.
    pub(super) fn joining(ground: &Ground, runtime: &Runtime) -> Self {
        Self::configured(ground, runtime, true)
    }

    fn configured(ground: &Ground, runtime: &Runtime, kubeconfig: bool) -> Self {
        make_cgroup(&runtime.cgroup_root());
        write(ground, &configuration(ground, runtime));
        let containerd = matches!(runtime, Runtime::Containerd(_)).then(|| runtime.socket());
        let mut kubelet = Self { process: None, kubeconfig, containerd };
        kubelet.start(ground);
        kubelet
    }

    /// Ends it and starts it with more feature gates than all have; with none of them, as it was.
    pub(super) fn gated(&mut self, (ground, runtime): (&Ground, &Runtime), gates: &[&str]) {
        self.stop();
        let mut configuration = configuration(ground, runtime);
        for gate in gates {
            configuration["featureGates"][gate] = Value::Bool(true);
        }
        write(ground, &configuration);
        self.start(ground);
    }

    /// Starts it on its configuration and directories.
    pub(super) fn start(&mut self, ground: &Ground) {
        let mut command = ground.program("kubelet");
        command
            .arg(format!("--config={}", ground.path("kubelet.json").display()))
            .arg(format!("--root-dir={}", ground.path("kubelet").display()))
            .arg(format!("--cert-dir={}", ground.path("kubelet/pki").display()))
            .args(["--hostname-override", Ground::NAME, "--node-ip", Ground::NODE, "--v=2"]);
        if self.kubeconfig {
            command.arg(format!("--kubeconfig={}", ground.path("kubelet.kubeconfig").display()));
        }
        if let Some(socket) = &self.containerd {
            command.arg(format!("--containerd={}", socket.display()));
        }
        self.process = Some(Process::start(ground, command));
    }

    /// Starts it as the first time since the machine came up.
    pub(super) fn boot(&mut self, ground: &Ground, runtime: &Runtime) {
        make_cgroup(&runtime.cgroup_root());
        self.start(ground);
    }

    /// Ends it as a service manager would.
    pub(super) fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.stop();
        }
    }

    /// Ends it at once.
    pub(super) fn kill(&mut self) {
        self.process = None;
    }

    /// Whether it runs; else how it ended.
    pub(super) fn running(&mut self) -> Result<(), String> {
        self.process.as_mut().map_or(Err("kubelet was stopped".into()), Process::running)
    }
}

fn write(ground: &Ground, configuration: &Value) {
    std::fs::write(ground.path("kubelet.json"), configuration.to_string()).expect("kubelet's configuration");
}

/// Short periods, so that tests needn't wait for them; limits of disks that a full machine of a developer doesn't reach.
/// Values and names: KubeletConfiguration, kubelet.config.k8s.io/v1beta1.
fn configuration(ground: &Ground, runtime: &Runtime) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "failCgroupV1": false,
        "cgroupDriver": CgroupDriver::of_this_run().name(), "cgroupRoot": runtime.cgroup_root(),
        "enforceNodeAllocatable": ["pods"],
        "containerRuntimeEndpoint": format!("unix://{}", runtime.socket().display()),
        "staticPodPath": ground.path("manifests"), "podLogsDir": ground.path("pod-logs"),
        "volumePluginDir": ground.path("plugins"), "resolvConf": ground.path("resolv.conf"),
        "address": "0.0.0.0", "readOnlyPort": READ_ONLY_PORT,
        "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
        "authorization": { "mode": "AlwaysAllow" },
        // Less than the daemon of a test has would need CAP_SYS_RESOURCE.
        "oomScoreAdj": 0,
        "makeIPTablesUtilChains": false, "failSwapOn": false, "maxPods": 110,
        "seccompDefault": true, "serializeImagePulls": false,
        "evictionHard": {
            "memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%",
        },
        "imageGCHighThresholdPercent": 99, "imageGCLowThresholdPercent": 98,
        "syncFrequency": "2s", "fileCheckFrequency": "1s", "nodeStatusUpdateFrequency": "2s",
        "configMapAndSecretChangeDetectionStrategy": "Watch", "volumeStatsAggPeriod": "2s",
        "crashLoopBackOff": { "maxContainerRestartPeriod": "2s" },
        "featureGates": { "KubeletCrashLoopBackOffMax": true },
        "containerLogMaxSize": "10Mi", "clusterDomain": "cluster.local",
        "tracing": { "endpoint": Ground::COLLECTOR, "samplingRatePerMillion": 1_000_000 },
    })
}

/// kubelet wants its cgroup to be there, in each hierarchy; a new one of cpuset is empty and takes nobody in.
fn make_cgroup(root: &str) {
    if CgroupDriver::of_this_run() == CgroupDriver::Systemd {
        return;
    }
    let relative = root.trim_start_matches('/');
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten() {
        let top = hierarchy.path();
        if hierarchy.path().is_symlink() || !top.join("cgroup.procs").is_file() || !top.join("tasks").exists()
        {
            continue;
        }
        let made = top.join(relative);
        std::fs::create_dir_all(&made).expect("a cgroup");
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(value) = std::fs::read_to_string(top.join(file)) {
                std::fs::write(made.join(file), value).expect("a cgroup's processors");
            }
        }
    }
    let whole = Path::new("/sys/fs/cgroup");
    if whole.join("cgroup.controllers").exists() {
        std::fs::create_dir_all(whole.join(relative)).expect("a cgroup");
    }
}
