//! What the attacks have in common: a pod to mount them in, a place of the host's that has to stay as it is, somebody who swaps
//! names, and the attacker's program.
//!
//! Every assertion about an attack that got through begins with the same words, by which `prove.sh` knows that a test has failed
//! for its own reason.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use e2e::cri::{ContainerConfig, Mount, PodSandboxConfig};
use e2e::image::{Image, Layer};
use e2e::newest::{self, Newest};
use e2e::{Client, Network, Node, config};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde_json::json;
use tempfile::TempDir;
use tonic::Status;

/// A pod on a node of its own.
pub struct Rig {
    pub node: Node,
    pub client: Client,
    pub sandbox: PodSandboxConfig,
    pub pod: String,
}

/// What became of a container that was to run to its end.
#[derive(Debug)]
pub enum Outcome {
    Refused(Status),
    NotStarted(Status),
    Ran { code: i32, output: String },
}

impl Rig {
    /// A pod on the host's network: the quickest.
    pub async fn new() -> Self {
        Self::with(Network::None, |_| {}).await
    }

    /// One that may have privileged containers.
    pub async fn privileged() -> Self {
        let allow = |sandbox: &mut PodSandboxConfig| {
            let linux = sandbox.linux.as_mut().expect("made by the node");
            linux.security_context.as_mut().expect("made by the node").privileged = true;
        };
        Self::with(Network::None, allow).await
    }

    pub async fn with(network: Network, change: impl FnOnce(&mut PodSandboxConfig)) -> Self {
        let node = Node::start(network).await;
        let client = node.client();
        client.pull(&node.registry.image("busybox:latest")).await.expect("an image");
        let mut sandbox = node.pod();
        change(&mut sandbox);
        let pod = client.run_pod(sandbox.clone()).await.expect("a pod");
        Self { node, client, sandbox, pod }
    }

    /// Pushes and pulls an image; gives its reference.
    pub async fn image(&self, name: &str, image: Image) -> String {
        image.push(self.node.registry.address(), name).await;
        let reference = self.node.registry.image(name);
        self.client.pull(&reference).await.expect("an image");
        reference
    }

    /// A container of busybox that runs a script.
    pub fn script(&self, script: &str) -> ContainerConfig {
        self.node.busybox("attack", &["sh", "-c", script])
    }

    /// The same of another image.
    pub fn of(&self, image: &str, command: &[&str]) -> ContainerConfig {
        config::container("attack", image, command)
    }

    pub async fn create(&self, wanted: ContainerConfig) -> Result<String, Status> {
        self.client.create(&self.pod, wanted, &self.sandbox).await
    }

    /// Creates and starts a container, for as long as it likes.
    pub async fn running(&self, wanted: ContainerConfig) -> String {
        let id = self.create(wanted).await.expect("a container");
        self.client.start(&id).await.expect("a running container");
        id
    }

    /// Has a container run to its end, and removes it.
    pub async fn run(&self, wanted: ContainerConfig) -> Outcome {
        let log = self.log(&wanted);
        self.outcome(self.create(wanted).await, &log).await
    }

    /// The same of one with a part of an image at /volume.
    pub async fn run_with_part(&self, wanted: ContainerConfig, image: &str, part: &str) -> Outcome {
        let log = self.log(&wanted);
        let mut wanted = newest::container(&wanted);
        wanted.mounts.push(proto::runtime::v1::Mount {
            image: Some(proto::runtime::v1::ImageSpec { image: image.into(), ..Default::default() }),
            image_sub_path: part.into(),
            container_path: "/volume".into(),
            readonly: true,
            ..Default::default()
        });
        let created = Newest::of(&self.client).create(&self.pod, wanted, &self.sandbox).await;
        self.outcome(created, &log).await
    }

    async fn outcome(&self, created: Result<String, Status>, log: &Path) -> Outcome {
        let id = match created {
            Ok(id) => id,
            Err(status) => return Outcome::Refused(status),
        };
        let outcome = match self.client.start(&id).await {
            Err(status) => Outcome::NotStarted(status),
            Ok(()) => {
                let code = self.client.exited(&id).await.exit_code;
                Outcome::Ran { code, output: output(log) }
            }
        };
        self.client.remove(&id).await.expect("removing the container");
        let _ = std::fs::remove_file(log);
        outcome
    }

    /// What a script prints that must end well.
    pub async fn prints(&self, wanted: ContainerConfig) -> String {
        match self.run(wanted).await {
            Outcome::Ran { code: 0, output } => output,
            other => panic!("the script was to run to its end: {other:?}"),
        }
    }

    /// Where a container's log is.
    pub fn log(&self, wanted: &ContainerConfig) -> PathBuf {
        Path::new(&self.sandbox.log_directory).join(&wanted.log_path)
    }

    /// The attacker's program in a container that runs it, once it has said its first word.
    pub async fn attacker(
        &self,
        (arguments, word): (&[&str], &str),
        extra: Layer,
        change: impl FnOnce(&mut ContainerConfig),
    ) -> (String, PathBuf) {
        let image = self.image("attacker:latest", attackers_image().layer(extra)).await;
        let command: Vec<&str> = ["/attacker"].iter().chain(arguments).copied().collect();
        let mut wanted = config::container("attacker", &image, &command);
        change(&mut wanted);
        let log = self.log(&wanted);
        let id = self.running(wanted).await;
        e2e::until(e2e::node::PATIENCE, "the attacker's first word", || async {
            let text = output(&log);
            if text.contains(word) { Ok(()) } else { Err(text) }
        })
        .await;
        (id, log)
    }
}

impl Outcome {
    /// The attack was noticed before anything of the container's ran.
    pub fn prevented(&self, attack: &str) -> &Status {
        match self {
            Self::Refused(status) | Self::NotStarted(status) => status,
            Self::Ran { code, output } => panic!("the attack succeeded: {attack}: it ran ({code}): {output}"),
        }
    }
}

/// The messages in a log.
pub fn output(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect::<Vec<_>>().join("\n")
}

/// Adds a volume.
pub fn mount(wanted: &mut ContainerConfig, host: &Path, target: &str) {
    let host_path = host.display().to_string();
    wanted.mounts.push(Mount { container_path: target.into(), host_path, ..Default::default() });
}

/// Debian's static busybox alone, to put hostile things around.
pub fn bare_busybox() -> Layer {
    let binary = std::fs::read("/bin/busybox").expect("Debian's busybox-static");
    Layer::new()
        .directory("bin", 0o755)
        .file("bin/busybox", 0o755, &binary)
        .hard_link("bin/sh", "bin/busybox")
}

/// An image that runs `sh` and has `layer` over a bare busybox.
pub fn hostile(layer: Layer) -> Image {
    Image::new(json!({ "Env": ["PATH=/bin"] })).layer(bare_busybox()).layer(layer)
}

/// busybox with the attacker's program.
fn attackers_image() -> Image {
    let program = std::fs::read(attacker()).expect("the attacker's program");
    e2e::image::busybox().layer(Layer::new().file("attacker", 0o755, &program))
}

/// Whether a test has to be left, which it says, because nothing can be attacked with.
pub fn is_unarmed(test: &str) -> bool {
    let unarmed = !e2e::node::binary("attacker").is_file() && e2e::needs::program("rustc").is_none();
    if unarmed {
        println!("skipped: {test} needs \"attacker\" beside the binaries, or \"rustc\" on PATH to build it");
    }
    unarmed
}

/// The attacker's program, linked statically: beside the built binaries, or else built here by the compiler alone.
fn attacker() -> &'static Path {
    static BUILT: OnceLock<(PathBuf, Option<TempDir>)> = OnceLock::new();
    let build = || {
        let beside = e2e::node::binary("attacker");
        if beside.is_file() {
            return (beside, None);
        }
        let directory = tempfile::tempdir().expect("a directory");
        let program = directory.path().join("attacker");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bin/attacker.rs");
        let built = Command::new("rustc")
            .args(["--edition=2024", "-O", "-Ctarget-feature=+crt-static", source, "-o"])
            .arg(&program)
            .output()
            .expect("rustc");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        (program, Some(directory))
    };
    &BUILT.get_or_init(build).0
}

/// A directory of the host's that no container has been given.
pub struct Host {
    directory: TempDir,
    before: BTreeMap<PathBuf, String>,
}

impl Host {
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("attacked-").tempdir().expect("a directory");
        std::fs::write(directory.path().join("victim"), "untouched\n").expect("a file");
        std::fs::create_dir(directory.path().join("below")).expect("a directory");
        let before = inventory(directory.path());
        Self { directory, before }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Its path from deep inside of a container's root, should `..` lead out.
    pub fn climb(&self) -> String {
        format!("{}{}", "../".repeat(16), self.path().display())
    }

    /// Nothing was made, changed or taken away.
    pub fn untouched(&self, attack: &str) {
        let now = inventory(self.path());
        assert_eq!(self.before, now, "the attack succeeded: {attack}: the host's directory has changed");
    }
}

fn inventory(top: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![top.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(&directory).expect("a directory").flatten() {
            let meta = entry.path().symlink_metadata().expect("an entry");
            if meta.is_dir() {
                todo.push(entry.path());
            }
            let content =
                if meta.is_file() { std::fs::read(entry.path()).unwrap_or_default() } else { Vec::new() };
            let says = (
                meta.permissions().mode(),
                meta.uid(),
                meta.gid(),
                String::from_utf8_lossy(&content).into_owned(),
            );
            found.insert(entry.path(), format!("{says:?}"));
        }
    }
    found
}

/// Exchanges two names without a pause, as another container with the same volume could.
pub struct Swapper {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Swapper {
    pub fn between(one: &Path, other: &Path) -> Self {
        let (one, other) = (one.to_owned(), other.to_owned());
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let swap = move || {
            let mut swaps = 0;
            while !told.load(Ordering::Relaxed) {
                renameat2(AT_FDCWD, &one, AT_FDCWD, &other, RenameFlags::RENAME_EXCHANGE).expect("swapping");
                swaps += 1;
            }
            swaps
        };
        Self { stop, thread: Some(std::thread::spawn(swap)) }
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let swaps = self.thread.take().and_then(|thread| thread.join().ok());
        if !std::thread::panicking() {
            assert!(swaps.is_some_and(|swaps| swaps > 1000), "hardly anything was swapped: {swaps:?}");
        }
    }
}
