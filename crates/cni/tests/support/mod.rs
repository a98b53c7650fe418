//! A node's CNI directories in a temporary directory, scripted plugins, and waiting.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(clippy::explicit_write, reason = "what a test prints to its parent is no print of the library")]

pub mod log;
pub mod netns;
pub mod snapshot;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cni::{Attachment, BuiltinNetwork, Config, Networks, Selection};

/// How long anything here may take before a test gives up.
pub const SOON: Duration = Duration::from_secs(20);

/// The configuration for a node's directories.
pub fn config_in(dir: &Path) -> Config {
    Config {
        conf_dir: dir.join("net.d"),
        bin_dirs: vec![dir.join("bin"), "/usr/lib/cni".into()],
        state_dir: dir.join("state"),
        builtin: None,
        native: false,
        plugin_deadline: SOON,
        selection: Selection::default(),
    }
}

/// Directories of one test.
pub struct Node {
    pub dir: tempfile::TempDir,
}

impl Node {
    pub fn new() -> Node {
        let node = Node { dir: tempfile::tempdir().unwrap() };
        for dir in ["net.d", "bin", "state"] {
            fs::create_dir(node.path(dir)).unwrap();
        }
        node
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a configuration whole, as a careful installer does.
    pub fn conf(&self, name: &str, conf: &serde_json::Value) {
        fs::write(self.path("beside"), conf.to_string()).unwrap();
        fs::rename(self.path("beside"), self.path("net.d").join(name)).unwrap();
    }

    /// A plugin: a shell script that notes each call (`<verb> <name> <configuration>`) in `calls` before it does as told.
    pub fn plugin(&self, name: &str, script: &str) {
        let calls = self.path("calls");
        let text = format!(
            "#!/bin/sh\nconfig=$(cat)\nprintf '%s %s %s\\n' \"$CNI_COMMAND\" {name} \"$config\" >> {}\n{script}\n",
            calls.display()
        );
        let path = self.path("bin").join(name);
        fs::write(self.path("beside"), text).unwrap();
        fs::set_permissions(self.path("beside"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(self.path("beside"), path).unwrap();
    }

    /// The calls so far: verb, plugin, configuration.
    pub fn calls(&self) -> Vec<(String, String, serde_json::Value)> {
        let text = fs::read_to_string(self.path("calls")).unwrap_or_default();
        let call = |line: &str| {
            let mut words = line.splitn(3, ' ');
            let mut word = || words.next().unwrap_or_default().to_owned();
            let (verb, plugin, config) = (word(), word(), word());
            (verb, plugin, serde_json::from_str(&config).unwrap_or_default())
        };
        text.lines().map(call).collect()
    }

    /// The calls so far, in short: `ADD a`.
    pub fn verbs(&self) -> Vec<String> {
        self.calls().into_iter().map(|(verb, plugin, _)| format!("{verb} {plugin}")).collect()
    }

    pub fn config(&self) -> Config {
        config_in(self.dir.path())
    }

    pub fn open(&self) -> Networks {
        Networks::open(self.config()).unwrap()
    }

    pub fn open_builtin(&self, builtin: BuiltinNetwork) -> Networks {
        Networks::open(Config { builtin: Some(builtin), ..self.config() }).unwrap()
    }

    /// The records that are left.
    pub fn records(&self) -> Vec<PathBuf> {
        let dir = self.path("state").join("attachments");
        let mut found: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        found.sort();
        found
    }
}

pub fn attachment(container_id: &str, netns: &Path) -> Attachment {
    Attachment {
        container_id: container_id.into(),
        netns: Some(netns.to_owned()),
        ifname: "eth0".into(),
        ..Attachment::default()
    }
}

/// Any namespace, for plugins that don't look.
pub fn some_netns() -> &'static Path {
    Path::new("/proc/self/ns/net")
}

/// The whole chain of an error, as it is shown.
pub fn shown(error: &cni::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text += &format!(": {inner}");
        cause = inner.source();
    }
    text
}

/// Waits for an observation to be as wanted.
pub async fn until<T: std::fmt::Debug>(
    what: &str,
    observe: impl Fn() -> T,
    wanted: impl Fn(&T) -> bool,
) -> T {
    until_within(SOON, what, observe, wanted).await
}

/// The same with a patience of its own.
pub async fn until_within<T: std::fmt::Debug>(
    patience: Duration,
    what: &str,
    observe: impl Fn() -> T,
    wanted: impl Fn(&T) -> bool,
) -> T {
    let start = Instant::now();
    loop {
        let seen = observe();
        if wanted(&seen) {
            return seen;
        }
        assert!(start.elapsed() < patience, "{what}: still {seen:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether the reference plugins are installed; says so when they aren't.
#[allow(clippy::print_stdout, reason = "a test says what it skips")]
pub fn installed() -> bool {
    let is_there = |name: &&str| Path::new("/usr/lib/cni").join(name).exists();
    let there = ["bridge", "host-local", "portmap", "loopback"].iter().all(is_there);
    if !there {
        println!("skipped: no reference plugins in /usr/lib/cni (Debian: containernetworking-plugins)");
    }
    there
}

/// Files below a directory, but for what address management keeps for good.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let kept = |name: &str| ["lock", ".knarr"].contains(&name) || name.starts_with("last_reserved_ip");
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else if !kept(&entry.file_name().to_string_lossy()) {
            found.push(entry.path());
        }
    }
    found
}
