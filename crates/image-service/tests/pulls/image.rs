//! Images made on the spot, and where a registry has their parts.

use std::collections::HashMap;
use std::io::Write as _;

use image_service::Digest;

use crate::registry::{Reply, Request};

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What a registry has, by path.
#[derive(Debug, Clone, Default)]
pub(crate) struct Content {
    parts: HashMap<String, (String, Vec<u8>)>,
}

impl Content {
    pub(crate) fn put(&mut self, path: &str, media_type: &str, bytes: impl Into<Vec<u8>>) {
        self.parts.insert(path.to_owned(), (media_type.to_owned(), bytes.into()));
    }

    pub(crate) fn remove(&mut self, path: &str) {
        assert!(self.parts.remove(path).is_some(), "{path} was there");
    }

    /// The answer of a registry that works.
    pub(crate) fn reply(&self, request: &Request) -> Reply {
        match self.parts.get(&request.path) {
            Some((media_type, bytes)) => {
                let digest = Digest::of(bytes).to_string();
                Reply::ok(bytes.clone())
                    .header("content-type", media_type)
                    .header("docker-content-digest", digest)
            }
            None => {
                let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
                Reply { body: body.into(), ..Reply::status(404) }
            }
        }
    }
}

/// A layer: an archive of one file, compressed by gzip.
#[derive(Debug, Clone)]
pub(crate) struct LayerBytes {
    pub(crate) diff_id: Digest,
    pub(crate) digest: Digest,
    pub(crate) blob: Vec<u8>,
}

impl LayerBytes {
    /// A layer with one file; `size` bytes that don't compress.
    pub(crate) fn new(name: &str, size: usize) -> LayerBytes {
        LayerBytes::of(name, &noise(name, size))
    }

    /// A layer with one file of this content.
    pub(crate) fn of(name: &str, content: &[u8]) -> LayerBytes {
        LayerBytes::of_archive(&archive(name, content))
    }

    /// A layer with what is in this archive.
    pub(crate) fn of_archive(tar: &[u8]) -> LayerBytes {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(tar).unwrap();
        let blob = encoder.finish().unwrap();
        LayerBytes { diff_id: Digest::of(tar), digest: Digest::of(&blob), blob }
    }

    pub(crate) fn path(&self, repository: &str) -> String {
        format!("/v2/{repository}/blobs/{}", self.digest)
    }
}

/// An image.
#[derive(Debug, Clone)]
pub(crate) struct ImageBytes {
    pub(crate) id: Digest,
    pub(crate) config: String,
    pub(crate) layers: Vec<LayerBytes>,
    pub(crate) manifest: String,
}

impl ImageBytes {
    pub(crate) fn new(layers: Vec<LayerBytes>) -> ImageBytes {
        ImageBytes::of_platform(architecture(), layers)
    }

    pub(crate) fn of_platform(architecture: &str, layers: Vec<LayerBytes>) -> ImageBytes {
        let diff_ids: Vec<String> = layers.iter().map(|layer| format!("\"{}\"", layer.diff_id)).collect();
        let config = format!(
            r#"{{"os":"linux","architecture":"{architecture}","config":{{"User":"nobody","Cmd":["/a"]}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            diff_ids.join(",")
        );
        let entries: Vec<String> = layers.iter().map(|layer| {
            format!(
                r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{}","size":{},"urls":["http://127.0.0.1:1/evil"]}}"#,
                layer.digest,
                layer.blob.len()
            )
        }).collect();
        let id = Digest::of(config.as_bytes());
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{id}","size":{}}},"layers":[{}]}}"#,
            config.len(),
            entries.join(",")
        );
        ImageBytes { id, config, layers, manifest }
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(self.manifest.as_bytes())
    }

    /// Puts all parts where `repository:tag` leads to them.
    pub(crate) fn publish(&self, content: &mut Content, repository: &str, tag: &str) {
        content.put(&format!("/v2/{repository}/manifests/{tag}"), OCI_MANIFEST, self.manifest.clone());
        self.publish_untagged(content, repository);
    }

    pub(crate) fn publish_untagged(&self, content: &mut Content, repository: &str) {
        let manifest = format!("/v2/{repository}/manifests/{}", self.digest());
        content.put(&manifest, OCI_MANIFEST, self.manifest.clone());
        content.put(
            &format!("/v2/{repository}/blobs/{}", self.id),
            "application/octet-stream",
            self.config.clone(),
        );
        for layer in &self.layers {
            content.put(&layer.path(repository), "application/octet-stream", layer.blob.clone());
        }
    }

    /// The image as an index lists it.
    pub(crate) fn entry(&self, architecture: &str) -> String {
        format!(
            r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":{},"platform":{{"os":"linux","architecture":"{architecture}"}}}}"#,
            self.digest(),
            self.manifest.len()
        )
    }
}

/// This machine's processor in Go's words.
pub(crate) fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

/// Bytes that don't compress, always the same for a seed (a linear congruential generator).
pub(crate) fn noise(seed: &str, size: usize) -> Vec<u8> {
    let mut state = seed.bytes().fold(1u64, |state, byte| state * 31 + u64::from(byte));
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    (0..size).map(|_| next()).collect()
}

/// A tar archive of one regular file (POSIX ustar).
pub(crate) fn archive(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0u8; 512];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000755\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{:011o}\0", content.len()));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut archive = header.to_vec();
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    archive
}
