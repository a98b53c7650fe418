//! A daemon that can be killed: the test's own program, called again for one operation.
//!
//! For programs that have this as their module `daemon`, beside `support`.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use cni::{Attachment, BuiltinNetwork, Config, Networks};
use serde::{Deserialize, Serialize};

use crate::support::config_in;

/// What it is told by.
const VARIABLE: &str = "KNARR_TEST_DAEMON";

/// What it says then.
const BEGINS: &str = "begins";

/// What it is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Work {
    /// The node's directories.
    pub(crate) dir: PathBuf,
    pub(crate) bin_dirs: Vec<PathBuf>,
    pub(crate) builtin: Option<BuiltinNetwork>,
    pub(crate) native: bool,
    pub(crate) verb: Verb,
    pub(crate) attachment: Attachment,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Verb {
    Add,
    Del,
}

/// One at work.
pub(crate) struct Daemon {
    child: Child,
}

impl Daemon {
    /// Starts it in the calling thread's network namespace.
    pub(crate) fn start(work: &Work) -> Daemon {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "daemon::serve", "--ignored", "--nocapture", "--quiet"])
            .env(VARIABLE, serde_json::to_string(work).unwrap())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Daemon { child }
    }

    /// Waits until it is about to begin.
    pub(crate) fn begins(&mut self) {
        let lines = BufReader::new(self.child.stdout.as_mut().unwrap()).lines();
        let begun = lines.map_while(Result::ok).any(|line| line == BEGINS);
        assert!(begun, "the daemon didn't begin");
    }

    /// Kills it. Returns whether it was still at work.
    pub(crate) fn kill(mut self) -> bool {
        self.child.kill().unwrap();
        self.child.wait().unwrap().signal().is_some()
    }
}

/// Does what it is told; nothing when nobody does.
#[test]
#[ignore = "no test by itself: the daemon that others kill"]
fn serve() {
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
