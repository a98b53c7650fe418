//! The least memory limit with which a container starts whose program is a static `sleep`: knarr beside runc and crun.
//!
//! `least_memory [RUNTIME ...]`; the runtimes are OCI command lines on PATH, runc and crun unless others are named. One that isn't
//! there is left out and said so; they get the specification that knarr makes. A limit counts when [`TRIES`] containers in a row start with it and run; found by bisecting.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use e2e::image::unpack_busybox;
use e2e::pod::resources;
use e2e::{Network, Pod, needs};
use serde_json::{Value, json};

/// Containers that must start with a limit.
const TRIES: usize = 3;

/// Where the search begins: knarr refuses less, and nobody needs more.
const RANGE: (u64, u64) = (64 << 10, 64 << 20);

/// How fine it gets, in bytes.
const GRAIN: u64 = 16 << 10;

/// How long a container has to run to count as started.
const RUNS: Duration = Duration::from_millis(100);

#[tokio::main]
async fn main() {
    println!("least memory limit with which `sleep` of the static busybox starts, {TRIES} of {TRIES} times:");
    let pod = Pod::new(Network::None, |_| {}).await;
    let (mut low, mut high) = RANGE;
    if starts(&pod, low).await {
        high = low;
    }
    while high - low > GRAIN {
        let middle = u64::midpoint(low, high);
        if starts(&pod, middle).await { high = middle } else { low = middle }
    }
    println!("knarr: {}", shown(high));
    let spec = spec(&pod).await;
    let mut named: Vec<String> = std::env::args().skip(1).collect();
    if named.is_empty() {
        named = ["runc", "crun"].map(str::to_owned).to_vec();
    }
    for runtime in named {
        match needs::program(&runtime) {
            Some(program) => println!("{}: {}", version(&program), bisect(&program, &spec)),
            None => println!("{runtime} is left out: not on PATH"),
        }
    }
}

fn shown(limit: u64) -> String {
    format!("{} KiB", limit >> 10)
}

async fn starts(pod: &Pod, limit: u64) -> bool {
    for _ in 0..TRIES {
        if !started(pod, limit).await {
            return false;
        }
    }
    true
}

async fn started(pod: &Pod, limit: u64) -> bool {
    let mut wanted = pod.script("main", "");
    wanted.command = ["sleep", "1000"].map(str::to_owned).to_vec();
    resources(&mut wanted).memory_limit_in_bytes = limit.cast_signed();
    let Ok(id) = pod.create(wanted).await else { return false };
    let mut runs = pod.client.start(&id).await.is_ok();
    if runs {
        goes_on();
        let state = proto::runtime::v1::ContainerState::ContainerRunning as i32;
        runs = pod.client.container(&id).await.is_ok_and(|status| status.state == state);
    }
    pod.client.remove(&id).await.expect("removed");
    runs
}

/// Lets the time pass in which a program that has too little is killed.
#[expect(clippy::disallowed_methods, reason = "that something goes on is known by time alone")]
fn goes_on() {
    std::thread::sleep(RUNS);
}

/// The first line of what the program says about itself.
fn version(program: &Path) -> String {
    let said = Command::new(program).arg("--version").output().expect("the runtime executes").stdout;
    String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned()
}

fn bisect(program: &Path, spec: &Value) -> String {
    let bundle = Bundle::new(program, spec);
    let (mut low, mut high) = RANGE;
    if !bundle.starts(high) {
        return format!("does not start with {}: {}", shown(high), bundle.last_words());
    }
    while high - low > GRAIN {
        let middle = u64::midpoint(low, high);
        if bundle.starts(middle) { high = middle } else { low = middle }
    }
    shown(high)
}

/// A bundle on disk for a runtime, which keeps its state beside it.
struct Bundle {
    directory: tempfile::TempDir,
    program: PathBuf,
    spec: Value,
}

impl Bundle {
    fn new(program: &Path, spec: &Value) -> Self {
        let directory = tempfile::Builder::new().prefix("least-memory-").tempdir().expect("a directory");
        unpack_busybox(&directory.path().join("rootfs"));
        Self { directory, program: program.to_owned(), spec: spec.clone() }
    }

    fn starts(&self, limit: u64) -> bool {
        (0..TRIES).all(|_| self.started(limit))
    }

    fn started(&self, limit: u64) -> bool {
        let mut spec = self.spec.clone();
        spec["linux"]["cgroupsPath"] = json!(self.cgroup());
        spec["linux"]["resources"]["memory"] = json!({ "limit": limit });
        std::fs::write(self.directory.path().join("config.json"), spec.to_string()).expect("a bundle");
        let bundle = self.directory.path().to_string_lossy().into_owned();
        let mut runs = self.run(&["run", "--detach", "--bundle", &bundle, "least"]);
        if runs {
            goes_on();
            runs = self.state().contains("running");
        }
        if runs || !self.state().is_empty() {
            self.run(&["delete", "--force", "least"]);
        }
        runs
    }

    /// Debian's crun refuses a host that has a cgroup2 tree beside version 1: each call is made where there is none.
    fn command(&self) -> Command {
        let alone = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$0\" \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "slave", "sh", "-c", alone]).arg(&self.program);
        command.arg("--root").arg(self.directory.path().join("state"));
        command
    }

    fn run(&self, arguments: &[&str]) -> bool {
        let log = std::fs::File::create(self.directory.path().join("log")).expect("a log");
        let mut command = self.command();
        command.args(arguments);
        // Not pipes: the container inherits what is left open.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.status().is_ok_and(|status| status.success())
    }

    fn state(&self) -> String {
        let mut command = Command::new(&self.program);
        let output =
            command.arg("--root").arg(self.directory.path().join("state")).args(["state", "least"]).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
    }

    fn last_words(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default().trim().to_owned()
    }

    fn cgroup(&self) -> String {
        format!("/knarr-least-memory-{}/c", std::process::id())
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        self.run(&["delete", "--force", "least"]);
        let parent = self.cgroup();
        let parent = parent.trim_start_matches('/').trim_end_matches("/c");
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir(hierarchy.path().join(parent));
        }
        let _ = std::fs::remove_dir(Path::new("/sys/fs/cgroup").join(parent));
    }
}

/// What knarr's container is made from, for a runtime that knows no pod: its namespaces are its own.
async fn spec(pod: &Pod) -> Value {
    let id =
        pod.waiting("model", |wanted| wanted.command = ["sleep", "1000"].map(str::to_owned).to_vec()).await;
    let (_, mut info) = pod.container(&id).await;
    pod.client.remove(&id).await.expect("removed");
    let mut spec = info["runtimeSpec"].take();
    spec["ociVersion"] = json!("1.0.2");
    spec["root"]["path"] = json!("rootfs");
    for namespace in spec["linux"]["namespaces"].as_array_mut().into_iter().flatten() {
        *namespace = json!({ "type": namespace["type"] });
    }
    spec["hostname"] = Value::Null;
    spec
}
