//! The images that are pulled.

use std::io::Write as _;

use image_service::Digest;

/// Those of `e2e`'s bench: the second with both compressions.
pub(crate) const NAMES: [&str; 3] = ["small-files", "gzip", "zstd"];

/// Bytes of each of the eight layers, before compression.
const LAYER: usize = 40 << 20;
/// Files of the image of small ones.
const FILES: usize = 30_000;

/// A blob or manifest, and where a registry has it.
pub(crate) struct Part {
    pub(crate) path: String,
    pub(crate) media_type: &'static str,
    pub(crate) bytes: Vec<u8>,
}

/// All parts of the image `name`, tagged `v1`.
pub(crate) fn parts(name: &str) -> Vec<Part> {
    match name {
        "small-files" => image(name, [gzip(small_files())]),
        "gzip" => image(name, (0..8).map(layer).map(gzip)),
        "zstd" => image(name, (0..8).map(layer).map(zstd)),
        "tar-gzip" => image(name, [gzip(std::fs::read(std::env::var_os("PULLS_TAR").unwrap()).unwrap())]),
        "tar-zstd" => image(name, [zstd(std::fs::read(std::env::var_os("PULLS_TAR").unwrap()).unwrap())]),
        other => panic!("there is no image \"{other}\""),
    }
}

fn image(name: &str, layers: impl IntoIterator<Item = (Digest, Vec<u8>)>) -> Vec<Part> {
    let (mut parts, mut ids, mut entries) = (Vec::new(), Vec::new(), Vec::new());
    for (diff_id, bytes) in layers {
        let digest = Digest::of(&bytes);
        ids.push(format!("\"{diff_id}\""));
        entries.push(format!(
            r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{digest}","size":{}}}"#,
            bytes.len()
        ));
        parts.push(Part {
            path: format!("/v2/{name}/blobs/{digest}"),
            media_type: "application/octet-stream",
            bytes,
        });
    }
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = format!(
        r#"{{"os":"linux","architecture":"{architecture}","config":{{}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        ids.join(",")
    );
    let id = Digest::of(config.as_bytes());
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{id}","size":{}}},"layers":[{}]}}"#,
        config.len(),
        entries.join(",")
    );
    parts.push(Part {
        path: format!("/v2/{name}/blobs/{id}"),
        media_type: "application/octet-stream",
        bytes: config.into(),
    });
    parts.push(Part { path: format!("/v2/{name}/manifests/v1"), media_type, bytes: manifest.into() });
    parts
}

/// One file of bytes that compress to about a half, as programs do.
fn layer(number: u64) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut tar = header(&format!("layer-{number}"), LAYER, b'0');
    while tar.len() < LAYER + 512 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        tar.extend_from_slice(&state.to_le_bytes());
        tar.extend_from_slice(&state.to_le_bytes());
    }
    ended(tar)
}

/// Files of a few bytes, a hundred to a directory.
fn small_files() -> Vec<u8> {
    let mut tar = Vec::new();
    for number in 0..FILES {
        let directory = format!("d{}", number / 100);
        if number % 100 == 0 {
            tar.extend(header(&directory, 0, b'5'));
        }
        let content = number.to_string();
        tar.extend(header(&format!("{directory}/f{number}"), content.len(), b'0'));
        tar.extend(content.as_bytes());
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    ended(tar)
}

fn ended(mut tar: Vec<u8>) -> Vec<u8> {
    tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
    tar
}

/// A header (POSIX ustar).
fn header(name: &str, size: usize, kind: u8) -> Vec<u8> {
    let mut header = vec![0u8; 512];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000755\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "00000000000\0");
    put(148, "        ");
    put(257, "ustar\x0000");
    header[156] = kind;
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

fn gzip(tar: Vec<u8>) -> (Digest, Vec<u8>) {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&tar).unwrap();
    (Digest::of(&tar), encoder.finish().unwrap())
}

fn zstd(tar: Vec<u8>) -> (Digest, Vec<u8>) {
    (Digest::of(&tar), zstd::encode_all(&tar[..], 3).unwrap())
}
