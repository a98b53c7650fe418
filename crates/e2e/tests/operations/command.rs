//! Runs `knarr`.

use std::process::{Command, Output, Stdio};

use e2e::{Node, node};

/// A run that has ended.
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

impl Ran {
    /// Its output, if it went well.
    pub fn well(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    /// Its complaint, if it failed.
    pub fn complaint(self) -> String {
        assert_eq!(self.code, Some(1), "{self:?}");
        self.stderr
    }
}

/// Runs the built `knarr`.
pub fn knarr(arguments: &[&str]) -> Ran {
    let mut command = Command::new(node::binary("knarr"));
    command.args(arguments).stdin(Stdio::null()).output().expect("the knarr binary").into()
}

/// The same for a node's daemon.
pub fn at(node: &Node, arguments: &[&str]) -> Ran {
    let endpoint = format!("unix://{}", node.socket().display());
    knarr(&[arguments, &["--endpoint", &endpoint]].concat())
}
