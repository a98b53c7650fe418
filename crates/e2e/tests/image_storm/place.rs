//! What a storm happens to: a registry with images that share layers, and the ways to the daemon that survive its end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use e2e::archive::{Packed, Raw, digest};
use e2e::image::Packing;
use e2e::scripted::{Content, Manner};
use e2e::{Client, Dice, Node, Scripted, cri, node};

/// Images that come and go; the first of all stays.
pub const IMAGES: usize = 5;

/// Bytes of a large file: its layer is kept on the disk while it is fetched.
const LARGE: usize = 2 << 20;

/// Nothing takes so long, however loaded the machine: what does is stuck.
pub const STUCK: Duration = Duration::from_secs(90);

pub struct Place {
    pub registry: Scripted,
    pub sandbox: cri::PodSandboxConfig,
    pub pod: String,
    pub over: AtomicBool,
    pub seed: u64,
    socket: PathBuf,
    directory: PathBuf,
    counts: Mutex<BTreeMap<(&'static str, String), u32>>,
}

impl Place {
    pub async fn new(node: &Node) -> Self {
        let content = Content::default();
        let base = base();
        let shared = layer("shared", 100);
        for number in 0..IMAGES {
            let own = layer(&format!("own-{number}"), number as u64);
            let mut layers = vec![base.clone(), shared.0.clone(), own.0];
            let mut sums = format!("{}{}", shared.1, own.1);
            // Two have the same layer once more, in another place.
            if number > 2 {
                let second = layer("second", 101);
                layers.insert(1, second.0);
                sums.push_str(&second.1);
            }
            layers.push(Packed::gzip(&Raw::new().file("sums", sums.as_bytes()).done()));
            content.image("storm", &format!("t{number}"), &layers);
        }
        let manner = Manner { pause: Some(Duration::from_millis(1)), ..Manner::default() };
        let registry = Scripted::start(content, manner).await;
        let seed = std::env::var("KNARR_STORM_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
        println!("KNARR_STORM_SEED={seed}");
        let sandbox = node.pod();
        let pod = node.client().run_pod(sandbox.clone()).await.unwrap();
        let (socket, directory) = (node.socket(), node.path(""));
        let (over, counts) = (AtomicBool::new(false), Mutex::default());
        Self { registry, sandbox, pod, over, seed, socket, directory, counts }
    }

    pub fn reference(&self, number: usize) -> String {
        self.registry.image(&format!("storm:t{number}"))
    }

    pub fn client(&self) -> Client {
        Client::new(&self.socket)
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.directory.join(below)
    }

    /// `knarr`, ended after `patience`, should it take so long; what it printed.
    ///
    /// # Errors
    /// What it complained of.
    ///
    /// # Panics
    /// It takes longer than anything may.
    pub async fn knarr(&self, arguments: &[&str], patience: Duration) -> Result<String, String> {
        let endpoint = format!("unix://{}", self.socket.display());
        let mut command = tokio::process::Command::new(node::binary("knarr"));
        command.args(arguments).args(["--endpoint", &endpoint]).stdin(Stdio::null()).kill_on_drop(true);
        match tokio::time::timeout(patience, command.output()).await {
            Ok(output) => {
                let output = output.unwrap();
                let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                let (printed, said) = (text(&output.stdout), text(&output.stderr));
                if output.status.success() { Ok(printed) } else { Err(said) }
            }
            Err(_) => {
                assert!(patience < STUCK, "stuck: knarr {arguments:?}");
                Err("called off".to_owned())
            }
        }
    }

    /// Counts what went well and how the rest failed.
    pub fn count(&self, what: &'static str, outcome: Result<(), String>) {
        let how = outcome.err().map_or("well".to_owned(), |said| of_its_kind(&said));
        *self.counts.lock().unwrap().entry((what, how)).or_default() += 1;
    }

    pub fn counted(&self) -> String {
        let counts = self.counts.lock().unwrap();
        counts.iter().map(|((what, how), count)| format!("{what}: {count} {how}\n")).collect()
    }

    /// Runs a container of the image, and looks at every file of it.
    ///
    /// # Errors
    /// It can't be run, which may be nobody's fault.
    ///
    /// # Panics
    /// A file isn't what it was.
    pub async fn looked_at(&self, image: &str, name: &str) -> Result<(), tonic::Status> {
        let client = self.client();
        let mut wanted = e2e::config::container(name, image, &["/bin/busybox", "sha256sum", "-c", "/sums"]);
        wanted.log_path = String::new();
        let id = client.create(&self.pod, wanted, &self.sandbox).await?;
        let looked = async {
            client.start(&id).await?;
            loop {
                let status = client.container(&id).await?;
                if status.state == cri::ContainerState::ContainerExited as i32 {
                    return Ok(status);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let looked: Result<cri::ContainerStatus, tonic::Status> = looked.await;
        let _ = client.remove(&id).await;
        let status = looked?;
        assert_eq!(status.exit_code, 0, "a wrong byte in {image}: {} {}", status.reason, status.message);
        Ok(())
    }
}

/// The same complaint about one thing or another.
fn of_its_kind(said: &str) -> String {
    let line = said.trim().replace('\n', " / ");
    let mut kind = String::new();
    for word in line.split_inclusive([' ', '"', '/']) {
        let is_a_name = word.bytes().filter(u8::is_ascii_digit).count() > 0;
        kind.push_str(if is_a_name { "… " } else { word });
    }
    kind.chars().take(200).collect()
}

fn base() -> Packed {
    let busybox = std::fs::read("/bin/busybox").expect("Debian's busybox-static");
    Packed::gzip(&Raw::new().file("bin/busybox", &busybox).done())
}

/// A layer with a large file and small ones, by gzip or zstd, and the lines of its sums.
fn layer(name: &str, seed: u64) -> (Packed, String) {
    let mut dice = Dice::new(seed + 1);
    let content: Vec<u8> =
        std::iter::repeat_with(|| dice.below(u64::MAX).to_le_bytes()).flatten().take(LARGE).collect();
    let mut tar = Raw::new().file(name, &content);
    let mut sums = line(name, &content);
    for number in 0..50 {
        let (path, content) = (format!("{name}-files/{number}"), format!("{name} {number}"));
        tar = tar.file(&path, content.as_bytes());
        sums.push_str(&line(&path, content.as_bytes()));
    }
    let tar = tar.done();
    let packing = if seed.is_multiple_of(2) { Packing::Zstd } else { Packing::Gzip };
    (Packed::new(&tar, packing.pack(&tar)), sums)
}

fn line(path: &str, content: &[u8]) -> String {
    format!("{}  /{path}\n", digest(content).trim_start_matches("sha256:"))
}

/// Files below a directory, by path.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                todo.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found
}
