//! The demo's image, packed in memory: one layer with one static program.

use std::io::{self, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use sha2::{Digest, Sha256};

/// Media types of OCI image-spec 1.1.
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Some bytes and the digest that names them.
pub(super) struct Blob {
    pub(super) digest: String,
    pub(super) bytes: Vec<u8>,
}

/// An image as a registry serves it.
pub(super) struct Image {
    pub(super) manifest: Blob,
    pub(super) blobs: Vec<Blob>,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        Self { digest: digest(&bytes), bytes }
    }
}

/// Packs `program` as `/demo`, run as an ordinary user.
pub(super) fn pack(program: &Path) -> io::Result<Image> {
    let tar = layer(&std::fs::read(program)?)?;
    let layer = Blob::new(gzip(&tar)?);
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({
        "architecture": architecture, "os": "linux",
        "config": { "Entrypoint": ["/demo"], "User": "1000:1000", "WorkingDir": "/", "Env": ["PATH=/"] },
        "rootfs": { "type": "layers", "diff_ids": [digest(&tar)] },
    });
    let config = Blob::new(config.to_string().into_bytes());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": { "mediaType": CONFIG, "digest": config.digest, "size": config.bytes.len() },
        "layers": [{ "mediaType": LAYER, "digest": layer.digest, "size": layer.bytes.len() }],
    });
    Ok(Image { manifest: Blob::new(manifest.to_string().into_bytes()), blobs: vec![config, layer] })
}

fn layer(program: &[u8]) -> io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(program.len() as u64);
    tar.append_data(&mut header, "demo", program)?;
    tar.into_inner()
}

fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
