//! Manifests, indexes and configurations: any text, and objects made of the keys and values that matter, some of them
//! twice or in the wrong case.

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use serde_json::json;

use super::json::Json;
use crate::digest::Digest;
use crate::manifest::{self, ConfigFile, Descriptor, Document, Manifest, Platform};
use crate::registry::RawDocument;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const TYPES: [&str; 10] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.empty.v1+json",
    "application/json",
    "",
];
/// Keys of every kind of document, and such that another reader takes for them.
const KEYS: [&str; 36] = [
    "schemaVersion",
    "mediaType",
    "config",
    "layers",
    "manifests",
    "fsLayers",
    "artifactType",
    "subject",
    "annotations",
    "digest",
    "size",
    "urls",
    "platform",
    "os",
    "architecture",
    "variant",
    "data",
    "Layers",
    "CONFIG",
    "Manifests",
    "MediaType",
    "Digest",
    "layer\u{17f}",
    "rootfs",
    "diff_ids",
    "Rootfs",
    "created",
    "history",
    "User",
    "Env",
    "Cmd",
    "Labels",
    "Volumes",
    "StopSignal",
    "env",
    "user",
];

/// Manifests and indexes.
pub fn check_manifest(input: &[u8]) {
    let Some((&mode, rest)) = input.split_first() else { return };
    let bytes = if mode & 1 == 0 { rest.to_vec() } else { object(rest) };
    let content_type = TYPES[usize::from(mode >> 1) % TYPES.len()];
    let pointer =
        Descriptor { media_type: content_type.to_owned(), digest: DIGEST.parse().unwrap(), size: 1 };
    let pointer = (mode >= 128).then_some(&pointer);
    let raw = RawDocument { digest: Digest::of(&bytes), content_type: Some(content_type.to_owned()), bytes };
    let Ok(document) = manifest::parse(&raw, pointer) else { return };
    let Some(seen) = Json::parse(&raw.bytes) else { return };
    match &document {
        Document::Manifest(manifest) => {
            check_image(&seen, manifest);
            assert_eq!(manifest::parse(&printed(manifest), None).expect("printed"), document);
        }
        Document::Index(index) => {
            once(&seen, &["manifests", "schemaVersion"]);
            none(&seen, &["config", "layers", "fsLayers"]);
            if let Ok(chosen) = index.select(&Platform::linux("amd64")) {
                assert!(chosen.descriptor.digest.to_string().parse::<Digest>().is_ok());
            }
        }
    }
}

fn check_image(seen: &Json, manifest: &Manifest) {
    once(seen, &["config", "layers", "schemaVersion"]);
    none(seen, &["manifests", "fsLayers"]);
    once(seen.all("config")[0], &["mediaType", "digest", "size"]);
    let Json::Array(layers) = seen.all("layers")[0] else { panic!("layers that are no list") };
    assert_eq!(layers.len(), manifest.layers.len());
    for (layer, ours) in layers.iter().zip(&manifest.layers) {
        once(layer, &["mediaType", "digest", "size"]);
        assert_eq!(layer.all("digest"), [&Json::Text(ours.digest.to_string())]);
    }
}

/// Every reader finds these, and the same ones.
fn once(seen: &Json, keys: &[&str]) {
    for key in keys {
        assert_eq!(seen.all(key).len(), 1, "\"{key}\"");
    }
}

/// No reader finds these; null is nothing.
fn none(seen: &Json, keys: &[&str]) {
    for key in keys {
        assert!(seen.all(key).iter().all(|value| **value == Json::Other), "\"{key}\"");
    }
}

fn printed(manifest: &Manifest) -> RawDocument {
    let descriptor =
        |d: &Descriptor| json!({"mediaType": d.media_type, "digest": d.digest.to_string(), "size": d.size});
    let layers: Vec<_> = manifest.layers.iter().map(descriptor).collect();
    let document = json!({"schemaVersion": 2, "config": descriptor(&manifest.config), "layers": layers});
    let bytes = document.to_string().into_bytes();
    RawDocument { digest: Digest::of(&bytes), content_type: None, bytes }
}

/// Configurations.
pub fn check_config(input: &[u8]) {
    let Some((&mode, rest)) = input.split_first() else { return };
    let bytes = if mode & 1 == 0 { rest.to_vec() } else { object(rest) };
    let id = Digest::of(&bytes);
    let Ok(file) = ConfigFile::parse(&id, &bytes) else { return };
    let _ = Platform::host().runs(&file.os, &file.architecture);
    let _ = crate::image::ImageUser::parse(&file.config.user);
    let config = &file.config;
    let volumes: serde_json::Map<_, _> =
        config.volumes.iter().map(|path| (path.clone(), json!({}))).collect();
    let ids: Vec<_> = file.diff_ids.iter().map(Digest::to_string).collect();
    let document = json!({"os": file.os, "architecture": file.architecture, "created": file.created,
        "config": {"User": config.user, "Env": config.env, "Entrypoint": config.entrypoint, "Cmd": config.cmd,
            "WorkingDir": config.working_dir, "StopSignal": config.stop_signal, "Volumes": volumes, "Labels": config.labels},
        "rootfs": {"type": "layers", "diff_ids": ids}});
    let again = ConfigFile::parse(&id, document.to_string().as_bytes()).expect("printed");
    assert_eq!(again, file);
    let Some(seen) = Json::parse(&bytes) else { return };
    for diff_ids in seen.all("rootfs").iter().flat_map(|rootfs| rootfs.all("diff_ids")) {
        if let Json::Array(ids) = diff_ids {
            assert_eq!(ids.len(), file.diff_ids.len(), "another reader sees other layers");
        }
    }
}

/// A text of JSON out of any bytes.
fn object(bytes: &[u8]) -> Vec<u8> {
    let mut input = Unstructured::new(bytes);
    let mut text = String::new();
    let _ = value(&mut input, &mut text, 0);
    text.into_bytes()
}

fn value(input: &mut Unstructured<'_>, text: &mut String, depth: usize) -> Result<()> {
    let kind = if depth == 0 { 0 } else { input.int_in_range(0..=11u8)? };
    match kind {
        0..=2 if depth < 5 => pairs(input, text, depth)?,
        3..=4 if depth < 5 => {
            text.push('[');
            for at in 0..input.int_in_range(0..=3u8)? {
                text.push_str(if at == 0 { "" } else { "," });
                value(input, text, depth + 1)?;
            }
            text.push(']');
        }
        5 => text.push_str(
            ["null", "2", "1", "-1", "1e3", "18446744073709551616", "true"]
                [input.int_in_range(0..=6usize)?],
        ),
        6 => text.push('2'),
        7 => text.push_str(&json!(DIGEST).to_string()),
        8 => text.push_str(&json!(String::from_utf8_lossy(some(input)?)).to_string()),
        9 => text.push_str(&String::from_utf8_lossy(some(input)?)),
        _ => text.push_str(&json!(input.choose(&TYPES)?).to_string()),
    }
    Ok(())
}

fn pairs(input: &mut Unstructured<'_>, text: &mut String, depth: usize) -> Result<()> {
    text.push('{');
    // The parts that nearly every document needs, then any others.
    if input.ratio(7, 8)? {
        match input.int_in_range(0..=3u8)? {
            0 => text.push_str(&descriptor(input)?),
            1 => text.push_str(&format!(
                "\"schemaVersion\":2,\"config\":{{{}}},\"layers\":[{{{}}}]",
                descriptor(input)?,
                descriptor(input)?
            )),
            2 => text.push_str(&format!("\"schemaVersion\":2,\"manifests\":[{{{}}}]", descriptor(input)?)),
            _ => text.push_str(&format!(
                "\"rootfs\":{{\"diff_ids\":[\"{DIGEST}\"]}},\"config\":{{\"User\":\"0\"}}"
            )),
        }
    } else {
        text.push_str("\"x\":0");
    }
    for _ in 0..input.int_in_range(0..=4u8)? {
        text.push_str(&format!(",{}:", json!(input.choose(&KEYS)?)));
        value(input, text, depth + 1)?;
    }
    text.push('}');
    Ok(())
}

fn descriptor(input: &mut Unstructured<'_>) -> Result<String> {
    Ok(format!(
        "\"mediaType\":{},\"digest\":\"{DIGEST}\",\"size\":{}",
        json!(input.choose(&TYPES)?),
        input.int_in_range(0..=9u8)?
    ))
}

fn some<'a>(input: &mut Unstructured<'a>) -> Result<&'a [u8]> {
    let length = input.int_in_range(0..=20usize)?.min(input.len());
    input.bytes(length)
}
