//! A daemon's worth of pods on directories and cgroups of its own, and a look at what it leaves behind.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{WaitId, WaitIdOptions, waitid};
use sandbox::{
    CgroupDriver, Config, ContainerConfig, ContainerId, ContainerMetadata, ContainerPhase, Deadlines,
    ExternalRuntime, Handler, Handlers, ImageReference, PodConfig, PodFilter, PodId, PodMetadata, Pods,
    Settings,
};

use crate::stand_ins::{Images, Net};
use crate::systemd::Systemd;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A world with one daemon in it.
pub(crate) struct World {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) net: Arc<Net>,
    pub(crate) images: Arc<Images>,
    pub(crate) parent: String,
    systemd: Option<Arc<Systemd>>,
    /// The program that makes containers, when it is not the supervisor.
    runtime: Option<PathBuf>,
    pods: Option<Pods>,
    /// The daemon's own threads, so that it can be ended as a whole.
    daemon: Option<tokio::runtime::Runtime>,
    /// Whether a daemon was killed: its children are init's then, whose part is played here.
    was_killed: bool,
    pub(crate) supervisor: PathBuf,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::on(None, None).await
    }

    /// One whose containers this program makes.
    pub(crate) async fn with_runtime(runtime: &Path) -> Self {
        Self::on(None, Some(runtime.to_owned())).await
    }

    /// One whose pods are scopes.
    pub(crate) async fn with_systemd(systemd: Arc<Systemd>) -> Self {
        Self::on(Some(systemd), None).await
    }

    async fn on(systemd: Option<Arc<Systemd>>, runtime: Option<PathBuf>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let parent = match systemd {
            None => format!("/knarr-sandbox-test-{}-{number}", std::process::id()),
            Some(_) => format!("knarr_sandbox_test_{}_{number}.slice", std::process::id()),
        };
        let images = Arc::new(Images::new(directory.path().join("images")));
        let net = Arc::default();
        let mut world = Self {
            directory,
            net,
            images,
            parent,
            systemd,
            runtime,
            pods: None,
            daemon: None,
            was_killed: false,
            supervisor: supervisor(),
        };
        world.open().await;
        world
    }

    pub(crate) fn pods(&self) -> Pods {
        self.pods.clone().expect("the daemon runs")
    }

    /// Starts the daemon, or starts it anew.
    pub(crate) async fn open(&mut self) {
        let deadlines = Deadlines {
            kill: Duration::from_secs(5),
            detach: Duration::from_secs(5),
            supervisor: Duration::from_secs(5),
            sources: Duration::from_secs(5),
            connect: here(Duration::from_secs(3)),
            ..Deadlines::default()
        };
        let config = Config {
            prepared_networks: 1,
            exec_output: 64 << 20,
            state_dir: self.directory.path().join("state"),
            supervisor: self.supervisor.clone(),
            open_files: None,
            cgroup_driver: match &self.systemd {
                None => CgroupDriver::Cgroupfs,
                Some(systemd) => CgroupDriver::Systemd(systemd.clone()),
            },
            default_cgroup_parent: self.parent.clone(),
            settings: Settings {
                handlers: self.handlers(),
                cdi_spec_dirs: vec![self.directory.path().join("cdi")],
                ..Settings::default()
            },
            apparmor: Default::default(),
            selinux: Default::default(),
            plugins: None,
            deadlines,
        };
        let daemon = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("threads");
        let opening = daemon.spawn(Pods::open(config, self.net.clone(), self.images.clone()));
        self.pods = Some(opening.await.expect("no panic").expect("opened"));
        self.daemon = Some(daemon);
    }

    fn handlers(&self) -> Handlers {
        let Some(path) = self.runtime.clone() else { return Handlers::default() };
        let root = format!("--root={}", self.directory.path().join("runtime").display());
        let external = Some(ExternalRuntime { path, args: vec![root] });
        let handler = Handler { external, ..Handler::default() };
        Handlers::new("outside", [("outside".to_owned(), handler)].into()).expect("a handler")
    }

    /// Ends the daemon as SIGKILL would: all its tasks stop where they are.
    pub(crate) fn kill_daemon(&mut self) {
        self.pods = None;
        self.was_killed = true;
        if let Some(daemon) = self.daemon.take() {
            let end = move || daemon.shutdown_timeout(Duration::from_secs(5));
            std::thread::spawn(end).join().expect("ended");
        }
    }

    pub(crate) fn pod_config(&self, name: &str) -> PodConfig {
        PodConfig {
            metadata: PodMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}"),
                namespace: "default".to_owned(),
                attempt: 0,
            },
            hostname: format!("host-{name}"),
            log_directory: self.directory.path().join("logs").join(name),
            ..PodConfig::default()
        }
    }

    pub(crate) async fn pod(&self, name: &str) -> PodId {
        self.pods().run(self.pod_config(name)).await.expect("a pod")
    }

    /// A container that was started.
    pub(crate) async fn started(&self, pod: &PodId, script: &str) -> ContainerId {
        let id = self.pods().create_container(pod.as_str(), shell("main", script)).await.expect("created");
        self.pods().start_container(id.as_str()).await.expect("started");
        id
    }

    pub(crate) fn phase(&self, id: &ContainerId) -> ContainerPhase {
        self.pods().container(id.as_str()).expect("a container").phase.clone()
    }

    /// Waits for a container's end.
    pub(crate) async fn exit(&self, id: &ContainerId) -> sandbox::Exited {
        let pods = self.pods();
        until("the container's end", || match &pods.container(id.as_str()).expect("a container").phase {
            ContainerPhase::Exited(exited) => Ok(exited.clone()),
            other => Err(format!("{other:?}")),
        })
        .await
    }

    pub(crate) fn log(&self, pod: &str, name: &str) -> String {
        let path = self.directory.path().join("logs").join(pod).join(format!("{name}.log"));
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// Processes in the world's cgroups or with its directory on their command line.
    pub(crate) fn processes(&self) -> Vec<String> {
        let directory = self.directory.path().to_string_lossy().into_owned();
        let parent = format!("{}/", self.parent);
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let read =
                |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let command = read("cmdline").replace('\0', " ");
            let is_ours = command.contains(&directory) || read("cgroup").contains(&parent);
            // Of this world alone: a child of another test's is waited for there.
            if self.was_killed && is_ours && command.is_empty() {
                let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
                let now = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
                // ECHILD: not one of this process's.
                let _ = waitid(WaitId::Pid(pid), now);
            }
            if pid != std::process::id() && is_ours {
                found.push(format!("{pid}: {command}"));
            }
        }
        found
    }

    fn leftovers(&self) -> Vec<String> {
        let mut found = self.processes();
        let directory = self.directory.path().to_string_lossy().into_owned();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        found.extend(mounts.lines().filter(|line| line.contains(&directory)).map(str::to_owned));
        for hierarchy in self.parents() {
            let below = std::fs::read_dir(&hierarchy).into_iter().flatten().flatten();
            found.extend(below.filter(|e| e.path().is_dir()).map(|entry| entry.path().display().to_string()));
        }
        let state = self.directory.path().join("state/pods");
        found.extend(
            std::fs::read_dir(state).into_iter().flatten().flatten().map(|e| e.path().display().to_string()),
        );
        found.extend((self.images.layers() > 0).then(|| "writable layers".to_owned()));
        found.extend(self.net.attached.lock().unwrap().keys().map(|pod| format!("address of {pod}")));
        found
    }

    pub(crate) fn parents(&self) -> Vec<PathBuf> {
        let relative = self.parent.trim_start_matches('/');
        let mut parents = vec![Path::new("/sys/fs/cgroup").join(relative)];
        for entry in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            parents.push(entry.path().join(relative));
        }
        parents.into_iter().filter(|path| path.is_dir()).collect()
    }

    /// Nothing is left of what was removed.
    pub(crate) async fn assert_clean(&self) {
        until("nothing to be left", || {
            // A pod's files go before it is forgotten.
            let (left, listed) = (self.leftovers(), self.pods().pods(&PodFilter::default()));
            if left.is_empty() && listed.is_empty() { Ok(()) } else { Err(format!("{left:#?} {listed:#?}")) }
        })
        .await;
    }

    /// Removes all pods and checks that nothing is left.
    pub(crate) async fn end(mut self) {
        let pods = self.pods();
        for pod in pods.pods(&PodFilter::default()) {
            pods.stop(pod.id.as_str()).await.expect("stopped");
            pods.remove(pod.id.as_str()).await.expect("removed");
        }
        self.assert_clean().await;
        self.kill_daemon();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.kill_daemon();
        // After a failed test: the processes of this world alone, by its cgroups, and then those.
        for line in self.processes() {
            let pid = line.split(':').next().and_then(|pid| pid.parse().ok());
            if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        for parent in self.parents() {
            remove_cgroups(&parent);
        }
    }
}

fn remove_cgroups(path: &Path) {
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroups(&entry.path());
        }
    }
    // A process that was killed may take a moment.
    let begun = Instant::now();
    while std::fs::remove_dir(path).is_err() && path.exists() && begun.elapsed() < Duration::from_secs(2) {
        std::thread::yield_now();
    }
}

fn supervisor() -> PathBuf {
    let directory = std::env::var_os("KNARR_BIN_DIR").map(PathBuf::from);
    let directory =
        directory.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/release"));
    let binary = directory.join("knarr-supervisor");
    assert!(binary.exists(), "{} is missing: make build", binary.display());
    binary
}

/// A container that runs a shell script.
pub(crate) fn shell(name: &str, script: &str) -> ContainerConfig {
    ContainerConfig {
        metadata: ContainerMetadata { name: name.to_owned(), attempt: 0 },
        image: ImageReference {
            reference: "busybox".to_owned(),
            user_specified: "busybox".to_owned(),
            ..Default::default()
        },
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        log_path: format!("{name}.log"),
        ..ContainerConfig::default()
    }
}

/// What takes `time` on a machine of one's own, on this one: as many times longer as `KNARR_TEST_SLOWNESS` says.
pub(crate) fn here(time: Duration) -> Duration {
    time * std::env::var("KNARR_TEST_SLOWNESS").map_or(1, |factor| factor.parse().unwrap())
}

/// Looks again and again until what is looked for is there; says what was seen last when it gives up.
pub(crate) async fn until<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) => {
                assert!(begun.elapsed() < here(Duration::from_secs(20)), "waited for {what}; last: {seen}")
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
