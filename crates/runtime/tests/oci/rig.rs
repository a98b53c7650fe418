//! A bundle, and the runtime with a root directory of its own. What a test leaves behind fails it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use runtime::cgroup::{Cgroup, Host};
use serde_json::{Value, json};

use crate::patience::until;

pub struct Rig {
    directory: tempfile::TempDir,
    pub config: Value,
    cgroup: String,
}

/// What the runtime said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    pub fn refused(self) -> String {
        assert_ne!(self.code, 0, "{self:?}");
        self.err
    }
}

fn binary() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let path = own.parent().and_then(Path::parent).unwrap().join("examples/oci");
    assert!(path.exists(), "{} is not built: cargo build -p runtime --example oci", path.display());
    path
}

impl Rig {
    pub fn new(script: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let directory = tempfile::tempdir().unwrap();
        let rootfs = directory.path().join("bundle/rootfs");
        for part in ["bin", "tmp", "etc", "proc", "dev", "sys"] {
            fs::create_dir_all(rootfs.join(part)).unwrap();
        }
        fs::copy("/bin/busybox", rootfs.join("bin/busybox")).unwrap();
        for name in
            ["sh", "cat", "id", "ls", "sleep", "readlink", "uname", "tty", "hostname", "stat", "grep", "head"]
        {
            symlink("busybox", rootfs.join("bin").join(name)).unwrap();
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut rig = Self {
            directory,
            config: Value::Null,
            cgroup: format!("/knarr-oci-test-{}-{number}", std::process::id()),
        };
        rig.call(&["spec", "--bundle", &rig.bundle()]).ok();
        rig.config = serde_json::from_slice(&fs::read(rig.file("bundle/config.json")).unwrap()).unwrap();
        rig.config["process"]["terminal"] = json!(false);
        rig.config["process"]["args"] = json!(["sh", "-c", script]);
        rig.config["root"]["readonly"] = json!(false);
        rig.config["linux"]["cgroupsPath"] = json!(format!("{}/c", rig.cgroup));
        rig
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn bundle(&self) -> String {
        self.file("bundle").display().to_string()
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg("--root").arg(self.file("state")).args(words);
        command
    }

    pub fn call(&self, words: &[&str]) -> Said {
        said(self.command(words).stdin(Stdio::null()).output().unwrap())
    }

    /// `create` or `run` with the configuration as it is now. The streams are files: whoever has them may live on.
    pub fn make(&self, words: &[&str]) -> Said {
        fs::write(self.file("bundle/config.json"), self.config.to_string()).unwrap();
        let file = |name: &str| fs::File::create(self.file(name)).unwrap();
        let mut command = self.command(&[&words[..1], &["--bundle", &self.bundle()], &words[1..]].concat());
        command.stdin(Stdio::null()).stdout(file("out")).stderr(file("err"));
        let code = command.status().unwrap().code().unwrap();
        Said { code, out: self.output(), err: fs::read_to_string(self.file("err")).unwrap() }
    }

    /// What the container has printed.
    pub fn output(&self) -> String {
        fs::read_to_string(self.file("out")).unwrap()
    }

    pub fn state(&self) -> Value {
        serde_json::from_str(&self.call(&["state", "c"]).ok()).unwrap()
    }

    pub fn wait_for(&self, status: &str) -> Value {
        until(status, || Some(self.state()).filter(|state| state["status"] == status))
    }

    /// Nothing is left of the container, and nobody who minds it.
    pub fn assert_nothing_left(&self) {
        let left: Vec<_> = fs::read_dir(self.file("state")).into_iter().flatten().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
        let host = Host::detect().unwrap();
        assert!(!Cgroup::at(&host, &format!("{}/c", self.cgroup)).unwrap().exists());
        let marker = self.file("state").display().to_string();
        until("the supervisor's end", || (!has_process(&marker)).then_some(()));
        // Others mount things meanwhile: what counts is what is about this test's own directory.
        let place = self.directory.path().display().to_string();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&place), "{mounts}");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.call(&["delete", "--force", "c"]);
        let parent = Cgroup::at(&Host::detect().unwrap(), &self.cgroup).unwrap();
        if std::thread::panicking() {
            let _ = parent.remove();
        } else {
            until("its cgroup can be removed", || parent.remove().ok());
            self.assert_nothing_left();
        }
    }
}

fn said(output: Output) -> Said {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { code: output.status.code().unwrap(), out: text(&output.stdout), err: text(&output.stderr) }
}

fn has_process(marker: &str) -> bool {
    let lines = fs::read_dir("/proc").unwrap().flatten();
    lines.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok()).any(|line| {
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains("supervise") && line.contains(marker)
    })
}
