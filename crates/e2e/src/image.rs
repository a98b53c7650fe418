//! Packs images of a test's own and pushes them: tar, gzip, config, manifest, over the distribution protocol.
//!
//! Media types and upload steps: OCI image-spec 1.1 and distribution-spec 1.1, "Pushing blobs" and "Pushing manifests".

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Mutex;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// An image in the making: layers and the `config` object of its configuration.
#[derive(Default)]
pub struct Image {
    layers: Vec<Vec<u8>>,
    config: Value,
    packing: Packing,
}

/// How layers are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Packing {
    /// As nearly every image has it.
    #[default]
    Gzip,
    /// What newer builders can do.
    Zstd,
}

/// One layer in the making.
pub struct Layer {
    tar: Builder<Vec<u8>>,
}

impl Image {
    /// An image without layers, configured by the `config` object of the image specification.
    pub fn new(config: Value) -> Self {
        Self { config, ..Self::default() }
    }

    /// The same layers under another configuration.
    #[must_use]
    pub fn configured(mut self, config: Value) -> Self {
        self.config = config;
        self
    }

    /// The same with its layers compressed otherwise.
    #[must_use]
    pub fn packed(mut self, packing: Packing) -> Self {
        self.packing = packing;
        self
    }

    /// Adds a layer on top.
    #[must_use]
    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer.done());
        self
    }

    /// Pushes to `registry` ("host:port") as `name` and gives the manifest's digest.
    ///
    /// # Panics
    /// When the registry refuses: a test can't go on without its image.
    pub async fn push(&self, registry: &str, name: &str) -> String {
        let (repository, tag) = name.split_once(':').unwrap_or((name, "latest"));
        let upload =
            Upload { http: reqwest::Client::new(), base: format!("http://{registry}/v2/{repository}") };
        let mut layers = Vec::new();
        for tar in &self.layers {
            let blob = compressed(tar, self.packing);
            layers.push(descriptor(self.packing.media_type(), &blob));
            upload.blob(blob).await;
        }
        let config = self.configuration();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": layers,
        });
        upload.blob(config).await;
        upload.manifest(tag, manifest.to_string().into_bytes()).await
    }

    fn configuration(&self) -> Vec<u8> {
        let diff_ids: Vec<String> = self.layers.iter().map(|tar| digest(tar)).collect();
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        json!({
            "architecture": architecture, "os": "linux", "created": "2026-01-01T00:00:00Z",
            "config": self.config, "rootfs": { "type": "layers", "diff_ids": diff_ids },
        })
        .to_string()
        .into_bytes()
    }
}

impl Default for Layer {
    fn default() -> Self {
        Self::new()
    }
}

impl Layer {
    /// An empty layer.
    pub fn new() -> Self {
        Self { tar: Builder::new(Vec::new()) }
    }

    /// Adds a directory.
    #[must_use]
    pub fn directory(self, path: &str, mode: u32) -> Self {
        self.entry(path, EntryType::Directory, mode, b"")
    }

    /// Adds a regular file.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.entry(path, EntryType::Regular, mode, content)
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.link(path, EntryType::Symlink, target)
    }

    /// Adds a named pipe.
    #[must_use]
    pub fn fifo(self, path: &str) -> Self {
        self.entry(path, EntryType::Fifo, 0o644, b"")
    }

    /// Adds a hard link to a file of this layer.
    #[must_use]
    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.link(path, EntryType::Link, target)
    }

    /// Adds a character device, by its major and minor number.
    ///
    /// # Panics
    /// When the path doesn't fit into a header.
    #[must_use]
    pub fn device(mut self, path: &str, (major, minor): (u32, u32)) -> Self {
        let mut header = header(EntryType::Char, 0o666);
        header.set_device_major(major).expect("a header that has devices");
        header.set_device_minor(minor).expect("a header that has devices");
        self.tar.append_data(&mut header, path, std::io::empty()).expect("a tar in memory");
        self
    }

    fn entry(mut self, path: &str, kind: EntryType, mode: u32, content: &[u8]) -> Self {
        let mut header = header(kind, mode);
        header.set_size(content.len() as u64);
        self.tar.append_data(&mut header, path, content).expect("a tar in memory");
        self
    }

    fn link(mut self, path: &str, kind: EntryType, target: &str) -> Self {
        self.tar.append_link(&mut header(kind, 0o777), path, target).expect("a tar in memory");
        self
    }

    fn done(self) -> Vec<u8> {
        self.tar.into_inner().expect("a tar in memory")
    }
}

impl Packing {
    fn media_type(self) -> &'static str {
        match self {
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    /// The compressed bytes.
    ///
    /// # Panics
    /// Never: they are made in memory.
    pub fn pack(self, tar: &[u8]) -> Vec<u8> {
        match self {
            Self::Gzip => gzip(tar),
            // The level that builders use unless told otherwise.
            Self::Zstd => zstd::encode_all(tar, 3).expect("a buffer in memory"),
        }
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

struct Upload {
    http: reqwest::Client,
    base: String,
}

impl Upload {
    async fn blob(&self, content: Vec<u8>) {
        let digest = digest(&content);
        let begun = self.http.post(format!("{}/blobs/uploads/", self.base)).send().await.expect("a registry");
        let location = begun.headers()["location"].to_str().expect("a URL").to_owned();
        let separator = if location.contains('?') { '&' } else { '?' };
        let url = format!("{location}{separator}digest={digest}");
        let put = self.http.put(url).header("content-type", "application/octet-stream").body(content);
        let answer = put.send().await.expect("a registry");
        assert_eq!(answer.status(), 201, "pushing blob {digest}");
    }

    async fn manifest(&self, tag: &str, content: Vec<u8>) -> String {
        let digest = digest(&content);
        let url = format!("{}/manifests/{tag}", self.base);
        let answer = self.http.put(url).header("content-type", MANIFEST).body(content).send().await;
        assert_eq!(answer.expect("a registry").status(), 201, "pushing manifest {tag}");
        digest
    }
}

fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(1_767_225_600);
    header.set_size(0);
    header
}

/// Compresses a layer once: tests push many images that have one in common.
fn compressed(tar: &[u8], packing: Packing) -> Vec<u8> {
    static KNOWN: Mutex<BTreeMap<(Packing, String), Vec<u8>>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().expect("nobody panics with it");
    known.entry((packing, digest(tar))).or_insert_with(|| packing.pack(tar)).clone()
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).expect("a buffer in memory");
    encoder.finish().expect("a buffer in memory")
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(content), "size": content.len() })
}

fn digest(content: &[u8]) -> String {
    let hex: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Debian's static busybox with its applets as hard links, a passwd and a group file: what most tests run.
///
/// # Panics
/// When the package busybox-static is not installed.
pub fn busybox() -> Image {
    let binary = std::fs::read("/bin/busybox").expect("Debian's busybox-static");
    let mut layer = Layer::new();
    for (path, mode) in [("bin", 0o755), ("dev", 0o755), ("etc", 0o755), ("proc", 0o755), ("root", 0o700)] {
        layer = layer.directory(path, mode);
    }
    layer = layer.directory("tmp", 0o1777).directory("home", 0o755).file("bin/busybox", 0o755, &binary);
    for applet in applets() {
        layer = layer.hard_link(&format!("bin/{applet}"), "bin/busybox");
    }
    layer = layer
        .file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nwww:x:33:33:www:/home:/bin/sh\n")
        .file("etc/group", 0o644, b"root:x:0:\nwww:x:33:\nextra:x:50:www\n")
        .file("etc/not-executable", 0o644, b"#!/bin/sh\n");
    Image::new(json!({ "Cmd": ["sh"], "Env": ["PATH=/bin", "FROM_IMAGE=yes"] })).layer(layer)
}

/// The same as a directory, for what has no registry.
///
/// # Panics
/// When it can't be written.
pub fn unpack_busybox(directory: &std::path::Path) {
    for layer in busybox().layers {
        tar::Archive::new(&*layer).unpack(directory).expect("an unpacked image");
    }
}

fn applets() -> Vec<String> {
    let listed = std::process::Command::new("/bin/busybox").arg("--list").output().expect("busybox runs");
    String::from_utf8_lossy(&listed.stdout)
        .lines()
        .filter(|name| *name != "busybox")
        .map(str::to_owned)
        .collect()
}
