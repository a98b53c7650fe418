//! A daemon that can be killed: the test's own program, called again for one operation.
//!
//! The program needs a test called `daemon`, ignored by itself, that calls [`serve`].

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use cni::{Attachment, BuiltinNetwork, Config, Networks};
use serde::{Deserialize, Serialize};

use super::config_in;

/// What it is told by.
const VARIABLE: &str = "KNARR_TEST_DAEMON";

/// What it says then.
const BEGINS: &str = "begins";

/// What it is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Work {
    /// The node's directories.
    pub dir: PathBuf,
    pub bin_dirs: Vec<PathBuf>,
    pub builtin: Option<BuiltinNetwork>,
    pub native: bool,
    pub verb: Verb,
    pub attachment: Attachment,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verb {
    Add,
    Del,
}

impl Verb {
    pub fn name(self) -> &'static str {
        match self {
            Verb::Add => "ADD",
            Verb::Del => "DEL",
        }
    }
}

/// One at work.
pub struct Daemon {
    child: Child,
}

impl Daemon {
    /// Starts it in the calling thread's network namespace.
    pub fn start(work: &Work) -> Daemon {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "daemon", "--ignored", "--nocapture", "--quiet"])
            .env(VARIABLE, serde_json::to_string(work).unwrap())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Daemon { child }
    }

    /// Waits until it is about to begin.
    pub fn begins(&mut self) {
        let lines = BufReader::new(self.child.stdout.as_mut().unwrap()).lines();
        let begun = lines.map_while(Result::ok).any(|line| line == BEGINS);
        assert!(begun, "the daemon didn't begin");
    }

    /// Kills it. Returns whether it was still at work.
    pub fn kill(mut self) -> bool {
        self.child.kill().unwrap();
        self.child.wait().unwrap().signal().is_some()
    }
}

/// Does what it is told; nothing when nobody does.
pub fn serve() {
    let Ok(work) = std::env::var(VARIABLE) else { return };
    let Work { dir, bin_dirs, builtin, native, verb, attachment } = serde_json::from_str(&work).unwrap();
    let config = Config { bin_dirs, builtin, native, ..config_in(Path::new(&dir)) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let networks = Networks::open(config).unwrap();
        // Not by `println!`, which the test's harness would catch.
        let mut output = std::io::stdout();
        writeln!(output, "\n{BEGINS}").unwrap();
        let outcome = match verb {
            Verb::Add => networks.add(&attachment).await.map(drop),
            Verb::Del => networks.del(&attachment).await,
        };
        // Nobody listens: what came of it is seen by the next one.
        let _ = (outcome, networks.settle().await);
    });
}
