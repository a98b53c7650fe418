//! The systemd cgroup driver: a scope for each pod where there is systemd, and what happens where it doesn't answer.

use std::collections::HashMap;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use e2e::cri::{ContainerState, LinuxContainerResources, PodSandboxState};
use e2e::node::binary;
use e2e::{CgroupDriver, Client, Network, Node, needs, patience, until};
use tonic::Code;

/// A bus that lets everybody connect and says nothing. Connections wait in the queue of the socket.
struct Mute {
    _directory: tempfile::TempDir,
    _listener: UnixListener,
    address: String,
}

impl Mute {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bus");
        let listener = UnixListener::bind(&path).unwrap();
        let address = format!("unix:path={}", path.display());
        Self { _directory: directory, _listener: listener, address }
    }

    async fn node(&self) -> Node {
        let bus = [("DBUS_SYSTEM_BUS_ADDRESS", self.address.as_str())];
        Node::with(Network::None, CgroupDriver::Systemd, &bus).await
    }
}

/// What there is of pods while the daemon runs.
fn left(node: &Node) -> Vec<String> {
    let is_of_pods = |line: &String| !line.contains("knarr serve");
    node.traces().leftovers().into_iter().filter(is_of_pods).collect()
}

/// How long the daemon gives systemd (the deadline of cgroups), and the time of all else.
const DEADLINE: Duration = Duration::from_secs(20);
const REST: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_bus_that_never_answers_is_given_up_and_leaves_nothing() {
    let bus = Mute::new();
    let node = bus.node().await;
    let begun = Instant::now();
    let error = node.client().run_pod(node.pod()).await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    assert!(error.message().ends_with("took too long: no answer to starting a scope within 20s"), "{error}");
    let took = begun.elapsed();
    assert!(took >= DEADLINE && took < DEADLINE + patience(REST), "{took:?}");
    assert!(node.client().pods().await.unwrap().is_empty());
    assert_eq!(left(&node), Vec::<String>::new());
}

#[tokio::test]
async fn a_pod_that_was_waiting_for_its_scope_is_undone_by_the_next_daemon() {
    let bus = Mute::new();
    let mut node = bus.node().await;
    let (client, pod) = (node.client(), node.pod());
    let asked = tokio::spawn(async move { client.run_pod(pod).await });
    until(patience(REST), "the process that the scope is to begin with", || async {
        let supervisors = node.traces().processes();
        let is_one = supervisors.iter().any(|(_, command)| command.contains("--begin called"));
        if is_one { Ok(()) } else { Err(supervisors) }
    })
    .await;
    node.kill_daemon();
    assert!(asked.await.unwrap().is_err());
    node.start_daemon();
    until(patience(REST), "nothing to be left", || async {
        let left = left(&node);
        let pods = node.client().pods().await.unwrap();
        if left.is_empty() && pods.is_empty() { Ok(()) } else { Err((left, pods)) }
    })
    .await;
}

#[tokio::test]
async fn a_parent_of_another_form_is_refused_by_its_path() {
    let bus = Mute::new();
    let systemd = bus.node().await;
    let cgroupfs = Node::with(Network::None, CgroupDriver::Cgroupfs, &[]).await;
    for (node, parent) in [
        (&systemd, "/kubepods/burstable/pod1"),
        (&systemd, "kubepods--pod1.slice"),
        (&systemd, "/other.slice/kubepods-pod1.slice"),
        (&cgroupfs, "kubepods-pod1.slice"),
        (&cgroupfs, "/kubepods.slice/kubepods-pod1.slice"),
    ] {
        let mut pod = node.pod();
        pod.linux.as_mut().unwrap().cgroup_parent = parent.to_owned();
        let error = node.client().run_pod(pod).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        assert!(error.message().starts_with("linux.cgroup_parent: "), "{error}");
    }
}

#[test]
fn the_doctor_says_whether_systemd_can_be_asked() {
    let bus = Mute::new();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("knarr.toml");
    let row = |driver: &str| {
        std::fs::write(&file, format!("cgroup_driver = \"{driver}\"")).unwrap();
        let doctor = Command::new(binary("knarr"))
            .args(["doctor", "--config", file.to_str().unwrap()])
            .env("DBUS_SYSTEM_BUS_ADDRESS", &bus.address)
            .output()
            .unwrap();
        let text = String::from_utf8(doctor.stdout).unwrap();
        let row = text.lines().find(|line| line.contains("driver ")).unwrap_or_default().to_owned();
        (doctor.status.success(), row)
    };
    let (_, by_hand) = row("cgroupfs");
    let word = if Path::new("/run/systemd/system").exists() { "without" } else { "ok     " };
    assert!(by_hand.starts_with(&format!("{word}  driver cgroupfs")), "{by_hand}");
    let (healthy, configured) = row("systemd");
    assert!(!healthy && configured.starts_with("MISSING  driver systemd"), "{configured}");
    assert!(configured.contains("no answer to listing units within 5s"), "{configured}");
}

/// A node on this machine's systemd, with a slice of its own below another.
struct Rig {
    node: Node,
    client: Client,
    slice: String,
}

impl Rig {
    /// None, with a word of why, where there is no systemd.
    async fn new(test: &str) -> Option<Self> {
        if let Err(why) = needs::systemd() {
            println!("skipped: {test} needs systemd: {why}");
            return None;
        }
        let node = Node::with(Network::None, CgroupDriver::Systemd, &[]).await;
        let client = node.client();
        client.pull(&node.registry.image("busybox:latest")).await.unwrap();
        let slice = format!("{}-inner.slice", node.cgroup_parent().strip_suffix(".slice").unwrap());
        Some(Self { node, client, slice })
    }

    async fn pod(&self) -> Pod {
        self.pod_that_says(&HashMap::new()).await
    }

    /// With annotations, which are labels, too, of the pod and its container.
    async fn pod_that_says(&self, words: &HashMap<String, String>) -> Pod {
        let mut wanted = self.node.pod();
        wanted.annotations.extend(words.clone());
        wanted.labels.extend(words.clone());
        let linux = wanted.linux.as_mut().unwrap();
        linux.cgroup_parent.clone_from(&self.slice);
        linux.resources = Some(LinuxContainerResources { cpu_shares: 4096, ..Default::default() });
        let id = self.client.run_pod(wanted.clone()).await.unwrap();
        let mut container = self.node.busybox("main", &["sh", "-c", "echo begun; sleep 1000"]);
        container.linux.as_mut().unwrap().resources = Some(LinuxContainerResources {
            memory_limit_in_bytes: 64 << 20,
            cpu_quota: 50_000,
            cpu_period: 100_000,
            ..Default::default()
        });
        container.annotations.extend(words.clone());
        container.labels.extend(words.clone());
        let container = self.client.create(&id, container, &wanted).await.unwrap();
        self.client.start(&container).await.unwrap();
        let outer = self.node.cgroup_parent();
        let path = format!("/{outer}/{}/knarr-{id}.scope", self.slice);
        Pod { scope: format!("knarr-{id}.scope"), id, container, path }
    }
}

impl Drop for Rig {
    /// Slices are whose pods are in them: kubelet's otherwise.
    fn drop(&mut self) {
        let _ = Command::new("systemctl").args(["--quiet", "stop", &self.slice]).status();
    }
}

struct Pod {
    id: String,
    container: String,
    scope: String,
    /// Its cgroup.
    path: String,
}

impl Pod {
    /// A file of a cgroup in that of the pod, on version 1 that of a controller.
    fn limit(&self, leaf: &str, controller: &str, names: [&str; 2]) -> String {
        let below = format!("{}/{leaf}", self.path.trim_start_matches('/'));
        let [legacy, unified] = names;
        let files = [
            Path::new("/sys/fs/cgroup").join(controller).join(&below).join(legacy),
            Path::new("/sys/fs/cgroup").join(&below).join(unified),
        ];
        let read = |file: &PathBuf| std::fs::read_to_string(file).ok();
        files.iter().find_map(read).unwrap_or_else(|| panic!("none of {files:?}")).trim().to_owned()
    }

    /// Memory and CPU of the container, the weight of the pod.
    fn limits(&self) -> [String; 3] {
        [
            self.limit(&self.container, "memory", ["memory.limit_in_bytes", "memory.max"]),
            self.limit(&self.container, "cpu", ["cpu.cfs_quota_us", "cpu.max"]),
            self.limit("", "cpu", ["cpu.shares", "cpu.weight"]),
        ]
    }
}

fn systemctl(arguments: &[&str]) -> String {
    let output = Command::new("systemctl").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Some of a unit's properties, each as a line `Name=value`.
fn show(unit: &str, properties: &str) -> Vec<String> {
    let text = systemctl(&["show", "--property", properties, "--", unit]);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn is_known(unit: &str) -> bool {
    show(unit, "LoadState") != ["LoadState=not-found"]
}

#[tokio::test]
async fn a_pod_is_a_delegated_scope_in_the_slice_of_its_parent() {
    let Some(rig) = Rig::new("a_pod_is_a_delegated_scope").await else { return };
    let pod = rig.pod().await;
    let properties = "ActiveState,CollectMode,ControlGroup,Delegate,Slice,TasksMax";
    assert_eq!(
        show(&pod.scope, properties),
        [
            "ActiveState=active".to_owned(),
            "CollectMode=inactive-or-failed".to_owned(),
            format!("ControlGroup={}", pod.path),
            "Delegate=yes".to_owned(),
            format!("Slice={}", rig.slice),
            "TasksMax=infinity".to_owned(),
        ]
    );
    let limits = pod.limits();
    let [memory, cpu, weight] = &limits;
    assert_eq!(*memory, (64 << 20).to_string());
    assert!(cpu.starts_with("50000"), "{cpu}");
    assert!(["4096", "303"].contains(&weight.as_str()), "{weight}");
    // systemd may look at all that it has at any time: what is delegated is left alone.
    systemctl(&["daemon-reload"]);
    let beside = rig.pod().await;
    assert_eq!(pod.limits(), limits);
    rig.client.stop_pod(&beside.id).await.unwrap();
    rig.client.remove_pod(&beside.id).await.unwrap();
    let status = rig.client.container(&pod.container).await.unwrap();
    assert_eq!(status.state, ContainerState::ContainerRunning as i32);
    let output = rig.client.exec(&pod.container, &["cat", "/proc/self/cgroup"], 10).await.unwrap();
    assert!(output.stdout.contains("::/"), "{output:?}");
    rig.client.stop_pod(&pod.id).await.unwrap();
    assert!(!is_known(&pod.scope), "{:?}", show(&pod.scope, "ActiveState,SubState,Result"));
    assert!(!Path::new("/sys/fs/cgroup").join(pod.path.trim_start_matches('/')).exists());
    rig.client.stop_pod(&pod.id).await.unwrap();
    rig.client.remove_pod(&pod.id).await.unwrap();
    let log = std::fs::read_to_string(rig.node.path("daemon.log")).unwrap();
    assert!(!log.contains(ASKED), "scopes go by themselves: {}", rig.node.log_tail());
}

/// What the annotations of the attack are called before the property's name, and what they want set. Values are in the form of
/// `gdbus call`, as runtimes that follow them take them, and plain.
const PREFIXES: [&str; 3] =
    ["org.systemd.property.", "io.kubernetes.cri.systemd.property.", "io.kubernetes.cri-o.systemd.property."];
const WISHES: [(&str, &str); 8] = [
    ("Description", "'taken over'"),
    ("CollectMode", "'inactive'"),
    ("TimeoutStopUSec", "uint64 123456789"),
    ("KillMode", "'none'"),
    ("SendSIGKILL", "false"),
    ("TasksMax", "uint64 7"),
    ("MemoryMax", "uint64 7340032"),
    ("DevicePolicy", "strict"),
];

/// What systemd says of a unit that is no matter of time and use.
fn properties(unit: &str) -> HashMap<String, String> {
    let text = systemctl(&["show", "--all", "--", unit]);
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let is_measured = |name: &str| {
        let words = ["Current", "Peak", "Available", "NSec", "Timestamp", "Bytes", "Operations", "Packets"];
        words.iter().any(|word| name.contains(word))
    };
    pairs.filter(|(name, _)| !is_measured(name)).map(|(name, value)| (name.into(), value.into())).collect()
}

/// CVE-2024-3154: what a pod's author writes is nothing to systemd.
#[tokio::test]
async fn no_annotation_becomes_a_property_of_the_scope() {
    let Some(rig) = Rig::new("no_annotation_becomes_a_property_of_the_scope").await else { return };
    let (one, another) = (rig.pod().await, rig.pod().await);
    let names = PREFIXES.iter().flat_map(|prefix| {
        WISHES.iter().map(move |(property, value)| (format!("{prefix}{property}"), (*value).to_owned()))
    });
    let attacker = rig.pod_that_says(&names.collect()).await;
    let [one_has, another_has, has] = [&one, &another, &attacker].map(|pod: &Pod| properties(&pod.scope));
    // What two pods have in common the third has, too: all but its names.
    let common: Vec<_> =
        one_has.iter().filter(|(name, value)| another_has.get(*name) == Some(value)).collect();
    for (property, _) in WISHES.iter().filter(|(property, _)| *property != "Description") {
        assert!(common.iter().any(|(name, _)| name == property), "{property} is compared");
    }
    for (name, value) in common {
        assert_eq!(has.get(name), Some(value), "{name}");
    }
    let description = one_has["Description"].replace(&one.id, &attacker.id);
    assert_eq!(has["Description"], description);
    assert_eq!(rig.client.pod(&attacker.id).await.unwrap().annotations.len(), PREFIXES.len() * WISHES.len());
    for pod in [one, another, attacker] {
        rig.client.stop_pod(&pod.id).await.unwrap();
        rig.client.remove_pod(&pod.id).await.unwrap();
    }
}

/// What the daemon logs when it has to ask for the end of a scope.
const ASKED: &str = "has not removed an empty scope";

#[tokio::test]
async fn a_killed_daemon_finds_its_scopes_again() {
    let Some(mut rig) = Rig::new("a_killed_daemon_finds_its_scopes_again").await else { return };
    let (kept, lost) = (rig.pod().await, rig.pod().await);
    rig.node.kill_daemon();
    // As if the state directory had been lost under it.
    std::fs::remove_dir_all(rig.node.path("state/pods").join(&lost.id)).unwrap();
    rig.node.start_daemon();
    rig.client = rig.node.client();
    assert!(!is_known(&lost.scope), "a scope without a pod is ended");
    assert_eq!(show(&kept.scope, "ActiveState"), ["ActiveState=active"]);
    let pods = rig.client.pods().await.unwrap();
    assert_eq!(pods.iter().map(|pod| &pod.id).collect::<Vec<_>>(), [&kept.id]);
    assert_eq!(rig.client.pod(&kept.id).await.unwrap().state, PodSandboxState::SandboxReady as i32);
    let output = rig.client.exec(&kept.container, &["echo", "here"], 10).await.unwrap();
    assert_eq!(output.stdout, "here\n");
    rig.client.stop_pod(&kept.id).await.unwrap();
    assert!(!is_known(&kept.scope));
    rig.client.remove_pod(&kept.id).await.unwrap();
}

#[tokio::test]
async fn a_scope_that_somebody_stops_is_a_pod_that_is_not_ready() {
    let Some(rig) = Rig::new("a_scope_that_somebody_stops").await else { return };
    let pod = rig.pod().await;
    systemctl(&["kill", "--signal=KILL", "--", &pod.scope]);
    until(patience(REST), "the pod to be not ready", || async {
        let state = rig.client.pod(&pod.id).await.unwrap().state;
        if state == PodSandboxState::SandboxNotready as i32 { Ok(()) } else { Err(state) }
    })
    .await;
    rig.client.stop_pod(&pod.id).await.unwrap();
    assert!(!is_known(&pod.scope));
    rig.client.remove_pod(&pod.id).await.unwrap();
}
