//! Runs `knarr` against a node.

use std::process::{Command, Output, Stdio};

use e2e::{Node, node};

/// A run of `knarr` that has ended.
#[derive(Debug)]
pub struct Ran {
    /// Exit code; none after a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

/// `knarr`, with what it needs to reach the node's daemon behind the given arguments.
pub fn knarr(node: &Node, arguments: &[&str]) -> Command {
    let mut command = Command::new(node::binary("knarr"));
    let endpoint = format!("unix://{}", node.socket().display());
    command.args(arguments).arg("--endpoint").arg(endpoint).stdin(Stdio::null());
    command
}

/// Runs it to its end.
pub fn run(node: &Node, arguments: &[&str]) -> Ran {
    knarr(node, arguments).output().expect("the knarr binary").into()
}
