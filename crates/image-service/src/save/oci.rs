//! OCI image layout 1.0 (OCI image-spec, "Image Layout"), its documents first, so that whoever reads it as a stream knows what
//! is coming. Docker's `manifest.json` names the same blobs.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::tar::Tar;
use super::{Compression, Saved, SavedLayers, docker};
use crate::digest::Digest;
use crate::error::Error;
use crate::manifest::{IMAGE_NAME, REF_NAME};
use crate::manifest::{OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST};

pub(super) fn write(images: &[Saved], layers: &SavedLayers, tar: &mut Tar<'_>) -> Result<(), Error> {
    let manifests: Vec<(Digest, Vec<u8>)> = images.iter().map(|saved| manifest(saved, layers)).collect();
    tar.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let entries: Vec<Value> =
        images.iter().zip(&manifests).flat_map(|(saved, manifest)| entries(saved, manifest)).collect();
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
    tar.file("index.json", index.to_string().as_bytes())?;
    tar.file("manifest.json", docker::manifest(images, layers, (blob, blob)).to_string().as_bytes())?;
    for (saved, (digest, manifest)) in images.iter().zip(&manifests) {
        tar.file(&blob(digest), manifest)?;
        tar.file(&blob(&saved.image.id), saved.config.as_bytes())?;
    }
    let mut written = BTreeSet::new();
    for (_, layer) in &layers.layers {
        // Two archives may come out of a compressor as the same bytes only if they are the same; but be sure.
        if written.insert(&layer.digest) {
            layer.write(&blob(&layer.digest), tar)?;
        }
    }
    Ok(())
}

fn blob(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

/// The manifest of an image as it is here.
fn manifest(saved: &Saved, layers: &SavedLayers) -> (Digest, Vec<u8>) {
    let media_type = match layers.compression {
        Compression::None => OCI_LAYER.to_owned(),
        Compression::Gzip => format!("{OCI_LAYER}+gzip"),
        Compression::Zstd => format!("{OCI_LAYER}+zstd"),
    };
    let of_layers: Vec<Value> =
        layers.of(&saved.image).map(|layer| descriptor(&media_type, &layer.digest, layer.size)).collect();
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, &saved.image.id, saved.config.len() as u64),
        "layers": of_layers,
    });
    if let Some(annotations) = annotations(saved) {
        manifest["annotations"] = Value::Object(annotations);
    }
    let bytes = manifest.to_string().into_bytes();
    (Digest::of(&bytes), bytes)
}

/// Those of the manifest that the image was pulled by.
fn annotations(saved: &Saved) -> Option<Map<String, Value>> {
    let manifest: Value = serde_json::from_str(saved.manifest.as_deref()?).ok()?;
    manifest.get("annotations")?.as_object().filter(|annotations| !annotations.is_empty()).cloned()
}

fn descriptor(media_type: &str, digest: &Digest, size: u64) -> Value {
    json!({ "mediaType": media_type, "digest": digest.to_string(), "size": size })
}

/// What the index says of an image: once for each of its names, or once without.
fn entries(saved: &Saved, (digest, manifest): &(Digest, Vec<u8>)) -> Vec<Value> {
    let mut entry = descriptor(OCI_MANIFEST, digest, manifest.len() as u64);
    // One that doesn't say what it is for stays so: its configuration tells.
    if !saved.image.architecture.is_empty() {
        entry["platform"] = json!({ "os": "linux", "architecture": saved.image.architecture });
    }
    if saved.names.is_empty() {
        return vec![entry];
    }
    let named = |name: &crate::reference::Reference| {
        let mut entry = entry.clone();
        entry["annotations"] = json!({ IMAGE_NAME: name.to_string(), REF_NAME: name.to_string() });
        entry
    };
    saved.names.iter().map(named).collect()
}
