//! A daemon on directories, a socket, a cgroup parent and a network of its own.
//!
//! A node that is dropped removes its pods over CRI, ends its daemon and fails the test when anything is left over. After
//! a panic it shows the end of the daemon's log and cleans up without judging.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use k8s_cri::v1::{ContainerConfig, PodSandboxConfig};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

mod network;

pub use self::network::{Network, Setup};
use crate::leaks::{Ground, Traces, detach_mounts_below};
use crate::{CgroupDriver, Client, Registry, config};

/// A node under test.
pub struct Node {
    directory: TempDir,
    setup: Setup,
    /// What the host's network had before.
    ground: Option<Ground>,
    /// What the daemon's environment has beside the test's.
    pub environment: Vec<(String, String)>,
    slot: Slot,
    serial: AtomicU32,
    daemon: Option<Child>,
    /// The registry that the node's images come from.
    pub registry: Arc<Registry>,
}

/// A number that no other node on this machine has at the moment.
struct Slot {
    number: u8,
    _lock: Flock<File>,
}

impl Node {
    /// Starts a daemon and waits until it serves. With `E2E_ENDPOINT` set, uses the peer that listens there.
    ///
    /// # Panics
    /// When the daemon doesn't come up.
    pub async fn start(network: Network) -> Self {
        Self::with(network, CgroupDriver::of_this_run(), &[]).await
    }

    /// The same with a cgroup driver of its own, and with more in the daemon's environment.
    ///
    /// # Panics
    /// As [`Node::start`].
    pub async fn with(network: Network, driver: CgroupDriver, environment: &[(&str, &str)]) -> Self {
        Setup::new(network).driver(driver).environment(environment).start().await
    }

    async fn made(setup: Setup) -> Self {
        let directory = tempfile::Builder::new().prefix("knarr-e2e-").tempdir().expect("a directory");
        let registry = Registry::shared().await;
        if let Some(host) = &setup.host {
            host.lend(&registry);
        }
        let mut node = Self {
            directory,
            environment: setup.environment.clone(),
            ground: setup.host.clone().map(Ground::new),
            setup,
            slot: Slot::take(),
            serial: AtomicU32::new(0),
            daemon: None,
            registry,
        };
        node.write_configuration();
        if peer().is_none() {
            node.start_daemon();
        }
        node
    }

    /// The path of the daemon's socket.
    pub fn socket(&self) -> PathBuf {
        peer().unwrap_or_else(|| self.path("state/knarr.sock"))
    }

    /// A path below the node's directory.
    pub fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    /// A client with a connection of its own.
    pub fn client(&self) -> Client {
        Client::new(&self.socket())
    }

    /// The daemon's process id.
    ///
    /// # Panics
    /// When it doesn't run.
    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("a running daemon").id()
    }

    /// How the daemon has ended, if it has.
    pub fn has_ended(&mut self) -> Option<std::process::ExitStatus> {
        self.daemon.as_mut().and_then(|daemon| daemon.try_wait().ok().flatten())
    }

    /// Ends the daemon at once, as a crash would, and waits until it is gone.
    ///
    /// # Panics
    /// When it doesn't run.
    pub fn kill_daemon(&mut self) {
        let mut daemon = self.daemon.take().expect("a running daemon");
        daemon.kill().expect("killing the daemon");
        daemon.wait().expect("reaping the daemon");
    }

    /// Has the daemon end as by a crash of its own, and says how it ended.
    ///
    /// # Panics
    /// When it doesn't run.
    pub fn crash_daemon(&mut self) -> ExitStatus {
        let mut daemon = self.daemon.take().expect("a running daemon");
        kill(Pid::from_raw(daemon.id().cast_signed()), Signal::SIGABRT).expect("crashing the daemon");
        daemon.wait().expect("reaping the daemon")
    }

    /// Ends the daemon by SIGTERM and waits until it is gone.
    ///
    /// # Panics
    /// When it doesn't run or doesn't end well.
    pub fn stop_daemon(&mut self) {
        let mut daemon = self.daemon.take().expect("a running daemon");
        kill(Pid::from_raw(daemon.id().cast_signed()), Signal::SIGTERM).expect("stopping the daemon");
        let status = daemon.wait().expect("reaping the daemon");
        assert!(status.success(), "the daemon ended with {status}\n{}", self.log_tail());
    }

    /// Starts the daemon on the node's directories and waits for its word that it serves.
    ///
    /// # Panics
    /// When it ends instead.
    pub fn start_daemon(&mut self) {
        let log =
            File::options().create(true).append(true).open(self.path("daemon.log")).expect("a log file");
        let mut command = match &self.setup.prelude {
            None => Command::new(binary("knarr")),
            Some(prelude) => {
                let mut shell = Command::new("sh");
                shell.args(["-ec", &format!("{prelude}; exec \"$0\" \"$@\"")]).arg(binary("knarr"));
                shell
            }
        };
        command
            .arg("serve")
            .arg("--config")
            .arg(self.path("knarr.toml"))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        let spawned = match &self.setup.host {
            Some(host) => host.run(|| command.spawn()),
            None => command.spawn(),
        };
        let mut daemon = spawned.expect("the built knarr binary");
        let mut line = String::new();
        let read = BufReader::new(daemon.stdout.take().expect("a pipe")).read_line(&mut line);
        self.daemon = Some(daemon);
        assert!(
            read.is_ok() && line.starts_with("knarr: serving on "),
            "no word of serving: {line:?}\n{}",
            self.log_tail()
        );
    }

    /// A pod's configuration with a name that is new on this node and a log directory that exists.
    ///
    /// # Panics
    /// When the directory can't be made.
    pub fn pod(&self) -> PodSandboxConfig {
        let name = format!("pod-{}-{}", self.slot.number, self.serial.fetch_add(1, Ordering::Relaxed));
        let logs = self.path("logs").join(&name);
        std::fs::create_dir_all(&logs).expect("a log directory");
        let config = config::pod(&name, &self.cgroup_parent(), &logs);
        if self.setup.network == Network::None { config::on_host_network(config) } else { config }
    }

    /// The configuration of a container of the busybox image.
    pub fn busybox(&self, name: &str, command: &[&str]) -> ContainerConfig {
        config::container(name, &self.registry.image("busybox:latest"), command)
    }

    /// Who makes the pods' cgroups.
    pub fn cgroup_driver(&self) -> CgroupDriver {
        self.setup.driver
    }

    /// The cgroup below which the node's pods live, as their configurations name it.
    pub fn cgroup_parent(&self) -> String {
        self.setup.driver.parent(self.slot.number)
    }

    /// The processes of a container, by their ids on the host.
    pub fn processes_of(&self, container: &str) -> Vec<u32> {
        let traces = self.traces();
        let inside = |pid: &i32| {
            let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"));
            cgroups.is_ok_and(|cgroups| cgroups.contains(container))
        };
        let pids = traces.processes().into_iter().map(|(pid, _)| pid);
        pids.filter(inside).map(i32::cast_unsigned).collect()
    }

    /// The first three bytes of the node's pod addresses.
    pub fn subnet(&self) -> String {
        format!("10.213.{}", self.slot.number)
    }

    /// Where the node would leave something.
    pub fn traces(&self) -> Traces {
        Traces {
            directory: self.directory.path().to_owned(),
            cgroup_parent: self.cgroup_parent(),
            bridge: self.bridge(),
        }
    }

    /// The last lines of the daemon's log.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(self.path("daemon.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    fn bridge(&self) -> String {
        format!("kne2e{}", self.slot.number)
    }

    fn write_configuration(&self) {
        let subnet = self.setup.subnet.clone().unwrap_or_else(|| format!("{}.0/24", self.subnet()));
        let name = format!("e2e{}", self.slot.number);
        self.setup.write(self.directory.path(), (name, network::ordinary(&self.bridge(), &subnet)));
        let toml = format!(
            "listen = \"unix://{dir}/state/knarr.sock\"\n{driver}root = \"{dir}/root\"\nstate = \"{dir}/state\"\n\
             cni_conf_dir = \"{dir}/cni\"\ncni_bin_dir = [\"{dir}/plugins\", \"/usr/lib/cni\"]\nregistry_config_dir = \"{dir}/certs.d\"\n\
             cdi_spec_dirs = [\"{dir}/cdi-fixed\", \"{dir}/cdi-run\"]\nlog_level = \"{log_level}\"\n\
             nri.socket = \"{dir}/nri/nri.sock\"\nnri.plugin_dir = \"{dir}/nri-plugins\"\nnri.conf_dir = \"{dir}/nri-conf\"\n[network]\nbuiltin = {builtin}\nbridge = \"{bridge}\"\nsubnets = [\"{subnet}\"]\n{tail}",
            dir = self.directory.path().display(),
            driver = self.driver_key(),
            log_level = self.setup.log_level,
            builtin = self.setup.network == Network::BuiltIn,
            bridge = self.bridge(),
            tail = self.setup.tail(self.directory.path()),
        );
        std::fs::write(self.path("knarr.toml"), toml).expect("writing the configuration");
    }

    /// Said in any case: the default depends on the host.
    fn driver_key(&self) -> String {
        format!("cgroup_driver = \"{}\"\n", self.setup.driver.name())
    }

    /// Removes all pods over a client and a runtime of its own: the test's may be gone already.
    fn remove_pods(&self) -> Result<(), String> {
        let socket = self.socket();
        let parent = self.cgroup_parent();
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(|error| error.to_string())?.block_on(remove_pods(&socket, &parent))
        };
        std::thread::spawn(work).join().unwrap_or_else(|_| Err("the cleaning thread panicked".into()))
    }

    /// What a failed test leaves: ends every process of the node and removes its mounts and cgroups.
    fn sweep(&self) {
        let traces = self.traces();
        for (pid, _) in traces.processes() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        detach_mounts_below(&traces.directory);
        for parent in traces.cgroup_parents() {
            remove_cgroups(&parent);
        }
        self.setup.driver.forget(&self.cgroup_parent());
        if self.setup.host.is_none() {
            delete_link(&self.bridge());
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let removed = self.remove_pods();
        if std::thread::panicking() {
            eprintln!("--- the daemon's log ends with\n{}", self.log_tail());
        }
        let judged = !std::thread::panicking() && peer().is_none();
        if self.daemon.is_some() && judged {
            self.stop_daemon();
        } else if self.daemon.is_some() {
            self.kill_daemon();
        }
        let mut leftovers = self.traces().leftovers();
        leftovers.extend(
            self.ground.iter().flat_map(|ground| ground.leftovers(&self.setup.bridges(&self.bridge()))),
        );
        self.sweep();
        if judged {
            assert!(removed.is_ok(), "removing the node's pods: {removed:?}");
            assert!(leftovers.is_empty(), "left over: {leftovers:#?}");
        }
    }
}

impl Slot {
    fn take() -> Self {
        let free = |number: u8| {
            let path = std::env::temp_dir().join(format!("knarr-e2e-slot-{number}"));
            let file = File::options().create(true).truncate(false).write(true).open(path).ok()?;
            let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()?;
            Some(Self { number, _lock: lock })
        };
        (1..=250).find_map(free).expect("fewer than 250 nodes at once")
    }
}

async fn remove_pods(socket: &Path, parent: &str) -> Result<(), String> {
    let client = Client::new(socket);
    let pods = client.pods().await.map_err(|status| status.to_string())?;
    for pod in pods {
        if peer().is_some() && pod.metadata.is_none_or(|metadata| metadata.namespace != "e2e") {
            continue;
        }
        client.stop_pod(&pod.id).await.map_err(|status| format!("stopping in {parent}: {status}"))?;
        client.remove_pod(&pod.id).await.map_err(|status| format!("removing in {parent}: {status}"))?;
    }
    Ok(())
}

/// Removes a directory of cgroups without processes, and those below it.
pub fn remove_cgroups(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroups(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(directory);
}

fn delete_link(name: &str) {
    if Path::new("/sys/class/net").join(name).exists() {
        let _ = Command::new("ip").args(["link", "delete", name]).status();
    }
}

/// One of the built binaries: in KNARR_BIN_DIR, or where `make build` puts them.
pub fn binary(name: &str) -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/release");
    std::env::var_os("KNARR_BIN_DIR").map_or_else(default, PathBuf::from).join(name)
}

fn peer() -> Option<PathBuf> {
    let endpoint = std::env::var("E2E_ENDPOINT").ok()?;
    Some(PathBuf::from(endpoint.trim_start_matches("unix://")))
}

/// Long enough for any single step on a loaded machine; a test that waits so long has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);
