//! Runs `knarr` against a node, and images for that.

use std::process::{Command, Output, Stdio};

use e2e::image::{Image, Layer};
use e2e::{Node, node};
use serde_json::{Value, json};

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

impl Ran {
    /// Its output, if it went well and without a word of complaint.
    pub fn well(self) -> String {
        assert!(self.code == Some(0) && self.stderr.is_empty(), "{self:?}");
        self.stdout
    }

    /// The same as a document.
    pub fn json(self) -> Value {
        let text = self.well();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The one line of its complaint, if it failed.
    pub fn complaint(self) -> String {
        assert!(self.code == Some(1) && self.stderr.lines().count() == 1, "{self:?}");
        self.stderr.trim_end().to_owned()
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

/// An image with a layer that all of these share, and one of its own.
pub fn image(content: &str) -> Image {
    let shared = "the same in every image of these tests. ".repeat(10_000);
    Image::new(json!({ "User": "1000", "Labels": { "made": "here" }, "Cmd": ["/content"] }))
        .layer(Layer::new().file("shared", 0o644, shared.as_bytes()))
        .layer(Layer::new().file("content", 0o755, content.as_bytes()))
}

/// Pushes such an image to the node's registry; its name there.
pub async fn pushed(node: &Node, content: &str, name: &str) -> String {
    image(content).push(node.registry.address(), name).await;
    node.registry.image(name)
}
