//! Archives in which every byte of a header can be chosen, also such as no tar program would write; and images of them.
//!
//! (POSIX.1-2017 pax, "ustar Interchange Format" and "pax Extended Header".) Not here: who serves them ([`crate::scripted`]).

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Bytes of a block.
pub const BLOCK: usize = 512;

/// An archive in the making.
#[derive(Debug, Clone, Default)]
pub struct Raw(Vec<u8>);

impl Raw {
    /// Without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry whose headers say the truth: its name, its type as ustar has it, the target of a link, and its content.
    #[must_use]
    pub fn entry(self, (name, flag): (&str, u8), link: &str, content: &[u8]) -> Self {
        let mut header = header(name.as_bytes(), flag, content.len() as u64);
        header[157..157 + link.len()].copy_from_slice(link.as_bytes());
        self.raw(header, content)
    }

    /// Adds a regular file.
    #[must_use]
    pub fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry((name, b'0'), "", content)
    }

    /// Adds a PAX header with these records for the next entry.
    #[must_use]
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let content: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        self.raw(header(b"pax", b'x', content.len() as u64), &content)
    }

    /// Adds a header as it stands, but for its checksum, and what follows it.
    #[must_use]
    pub fn raw(mut self, mut header: [u8; BLOCK], content: &[u8]) -> Self {
        header[148..156].copy_from_slice(b"        ");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.0.extend_from_slice(&header);
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }

    /// The whole archive, with its end.
    pub fn done(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        self.0
    }
}

/// A header of the usual kind: root's, 0755.
pub fn header(name: &[u8], flag: u8, size: u64) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    header[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
    for (at, text) in [(100, "0000755"), (108, "0000000"), (116, "0000000"), (136, "14000000000")] {
        header[at..at + text.len()].copy_from_slice(text.as_bytes());
    }
    header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    header[156] = flag;
    header[257..265].copy_from_slice(b"ustar\x0000");
    header
}

/// A PAX record: its length counts its own digits too.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

/// A layer: what is in it, and the bytes that a registry has of it.
#[derive(Debug, Clone)]
pub struct Packed {
    /// Digest of the archive, as the image's configuration names it.
    pub diff_id: String,
    /// The compressed bytes.
    pub blob: Vec<u8>,
    /// What the manifest says of them.
    pub descriptor: Value,
}

impl Packed {
    /// A layer by gzip.
    pub fn gzip(tar: &[u8]) -> Self {
        Self::new(tar, crate::image::Packing::Gzip.pack(tar))
    }

    /// A layer whose blob was made by other means, or isn't what it should be.
    pub fn new(tar: &[u8], blob: Vec<u8>) -> Self {
        Self::of(digest(tar), blob)
    }

    /// The same, of an archive whose digest alone is known.
    pub fn of(diff_id: String, blob: Vec<u8>) -> Self {
        let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
        let descriptor = json!({ "mediaType": media_type, "digest": digest(&blob), "size": blob.len() });
        Self { diff_id, blob, descriptor }
    }
}

/// Configuration and manifest of an image of such layers, to be served as they are or changed before.
pub fn documents(layers: &[Packed]) -> (Value, Value) {
    let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({
        "os": "linux", "architecture": architecture,
        "config": { "Env": ["PATH=/bin"] }, "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let layers: Vec<&Value> = layers.iter().map(|layer| &layer.descriptor).collect();
    let text = config.to_string();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(text.as_bytes()), "size": text.len(),
        },
        "layers": layers,
    });
    (config, manifest)
}

/// Media type of an image's manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The digest of some bytes as documents write it.
pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
