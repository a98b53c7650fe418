//! A node, a registry that gives anything, and what has to be the same after every refusal.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use e2e::archive::{Packed, Raw, digest, documents};
use e2e::scripted::{Content, Manner};
use e2e::{Client, Network, Node, Scripted, cri};
use serde_json::Value;
use tonic::Code;

/// What pulls may add to the daemon's resident memory, in KiB: the promise for sound images holds for others, too.
const MEMORY: u64 = 64 << 10;

pub struct Rig {
    pub node: Node,
    pub client: Client,
    pub registry: Scripted,
    store: BTreeSet<PathBuf>,
    resident: u64,
}

impl Rig {
    /// With one good image pulled, so that everything is there that the daemon makes at its first pull.
    pub async fn new() -> Self {
        let node = Node::start(Network::None).await;
        let registry = Scripted::start(Content::default(), Manner::default()).await;
        registry.content().image("good", "first", &[layer("good", b"first")]);
        let client = node.client();
        client.pull(&registry.image("good:first")).await.expect("a good image");
        std::fs::write(format!("/proc/{}/clear_refs", node.pid()), "5").expect("a peak that begins anew");
        let resident = status(node.pid(), "VmRSS:");
        let mut rig = Self { node, client, registry, store: BTreeSet::new(), resident };
        rig.store = rig.files();
        // What is thrown away goes in the background.
        let trash = rig.node.path("root/images/trash");
        rig.store.retain(|path| !path.starts_with(&trash) || *path == trash);
        rig
    }

    /// An image of such layers is refused in these words, and leaves nothing.
    pub async fn layers_refused(&self, attack: &str, layers: &[Packed], words: &[&str]) {
        self.registry.content().image("evil", "latest", layers);
        self.refused(attack, words).await;
    }

    /// The same of one archive by gzip; the message names the layer, too.
    pub async fn archive_refused(&self, attack: &str, tar: &[u8], words: &[&str]) {
        let layer = Packed::gzip(tar);
        let words = [words, &[layer.diff_id.as_str()]].concat();
        self.layers_refused(attack, std::slice::from_ref(&layer), &words).await;
    }

    /// The same of a manifest that is written by the test.
    pub async fn manifest_refused(&self, attack: &str, manifest: &[u8], words: &[&str]) {
        self.registry.content().manifest("evil", "latest", manifest);
        self.refused(attack, words).await;
    }

    /// The same of a configuration.
    pub async fn config_refused(&self, attack: &str, config: &[u8], words: &[&str]) {
        let (_, mut manifest) = documents(&[layer("good", b"first")]);
        manifest["config"]["digest"] = Value::from(digest(config));
        manifest["config"]["size"] = Value::from(config.len());
        self.registry.content().blob("evil", config);
        self.registry.content().blob("evil", &layer("good", b"first").blob);
        self.manifest_refused(attack, manifest.to_string().as_bytes(), words).await;
    }

    async fn refused(&self, attack: &str, words: &[&str]) {
        let reference = self.registry.image("evil:latest");
        let refused = self.client.pull(&reference).await;
        let Err(status) = refused else { panic!("the attack succeeded: {attack}: it was pulled") };
        assert_eq!(status.code(), Code::Internal, "{attack}: {status}");
        for word in words.iter().chain([&reference.as_str()]) {
            assert!(status.message().contains(word), "{attack}: no \"{word}\" in: {}", status.message());
        }
        assert!(self.images().await.len() == 1, "{attack}: an image is there");
        e2e::until(e2e::node::PATIENCE, "the store as it was before", || async {
            let files = self.files();
            if files == self.store {
                Ok(())
            } else {
                Err((attack, &files - &self.store, &self.store - &files))
            }
        })
        .await;
        self.within_memory(attack);
    }

    /// The daemon's memory has grown by no more than the promise.
    pub fn within_memory(&self, attack: &str) {
        let peak = status(self.node.pid(), "VmHWM:").saturating_sub(self.resident);
        println!("{attack}: {peak} KiB");
        assert!(peak <= MEMORY, "the attack succeeded: {attack}: the daemon took {peak} KiB more");
    }

    /// After it all the daemon is the same one, and the next pull fine.
    pub async fn unharmed(&self) {
        self.registry.content().image("good", "next", &[layer("next", b"next"), layer("good", b"first")]);
        self.client.pull(&self.registry.image("good:next")).await.expect("the next pull");
        assert_eq!(self.images().await.len(), 2);
    }

    async fn images(&self) -> Vec<cri::Image> {
        let request = cri::ListImagesRequest { filter: None };
        self.client.images.clone().list_images(request).await.expect("a list").into_inner().images
    }

    /// Everything that the store has, by path.
    fn files(&self) -> BTreeSet<PathBuf> {
        let top = self.node.path("root/images");
        let mut found = BTreeSet::new();
        let mut todo = vec![top];
        while let Some(directory) = todo.pop() {
            for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    todo.push(entry.path());
                }
                found.insert(entry.path());
            }
        }
        found
    }
}

/// A sound layer of one file.
pub fn layer(name: &str, content: &[u8]) -> Packed {
    Packed::gzip(&Raw::new().file(name, content).done())
}

/// A line of a process' status that is in KiB.
fn status(pid: u32, name: &str) -> u64 {
    let text = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"));
    let text = text.expect("the daemon runs");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("a line of the status");
    line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}
