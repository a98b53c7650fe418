//! Images packed by hand, in both forms and in wrong ones.

use image_service::Digest;
use serde_json::{Value, json};

use crate::archive::{Tar, dir, file, symlink};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image in memory.
pub(crate) struct Packed {
    pub(crate) config: Vec<u8>,
    pub(crate) layers: Vec<Vec<u8>>,
}

pub(crate) fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

/// An image of two layers, which differ by `content`; the lower one is the same for all.
pub(crate) fn image(content: &str) -> Packed {
    let lower = Tar::new()
        .with(dir("etc"))
        .with(file("etc/shared", "in every image ".repeat(20_000)))
        .with(file("gone", "hidden by the next layer"))
        .with(symlink("link", "etc/shared"));
    let upper = Tar::new().with(file(".wh.gone", "")).with(file("content", content));
    Packed::new(architecture(), vec![lower.bytes(), upper.bytes()])
}

impl Packed {
    pub(crate) fn new(architecture: &str, layers: Vec<Vec<u8>>) -> Packed {
        let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
        // Spaces that no writer of JSON would make: the text must stay as it is.
        let config = format!(
            r#"{{ "architecture":"{architecture}",  "os":"linux","config":{{"Cmd":["/content"]}},"created":"2026-01-02T03:04:05Z",
            "history":[{{"created_by":"lower"}},{{"created_by":"nothing","empty_layer":true}},{{"created_by":"upper"}}],
            "rootfs":{{"type":"layers","diff_ids":{} }} }}"#,
            json!(diff_ids)
        );
        Packed { config: config.into_bytes(), layers }
    }

    pub(crate) fn id(&self) -> String {
        Digest::of(&self.config).to_string()
    }
}

pub(crate) fn blob(bytes: &[u8]) -> String {
    format!("blobs/sha256/{}", Digest::of(bytes).hex())
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::of(bytes).to_string(), "size": bytes.len() })
}

/// Files of a layout in the making.
#[derive(Default)]
pub(crate) struct Layout {
    pub(crate) blobs: Vec<(String, Vec<u8>)>,
    pub(crate) entries: Vec<Value>,
}

impl Layout {
    /// Adds a blob, and gives its descriptor.
    pub(crate) fn blob(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let descriptor = descriptor(media_type, &bytes);
        self.blobs.push((blob(&bytes), bytes));
        descriptor
    }

    /// Adds the blobs of an image, and gives the descriptor of its manifest.
    pub(crate) fn image(&mut self, packed: &Packed) -> Value {
        let layers: Vec<Value> = packed.layers.iter().map(|layer| self.blob(LAYER, layer.clone())).collect();
        let config = self.blob(CONFIG, packed.config.clone());
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
        self.blob(MANIFEST, manifest.to_string().into_bytes())
    }

    /// Adds an entry to the index.
    pub(crate) fn entry(&mut self, mut descriptor: Value, more: Value) {
        for (key, value) in more.as_object().unwrap() {
            descriptor[key] = value.clone();
        }
        self.entries.push(descriptor);
    }

    pub(crate) fn tar(&self) -> Tar {
        let index = json!({ "schemaVersion": 2, "manifests": self.entries });
        let mut tar = Tar::new().with(file("./index.json", index.to_string())).with(dir("./blobs"));
        for (name, bytes) in &self.blobs {
            tar.add(file(name, bytes));
        }
        tar.with(file("oci-layout", r#"{"imageLayoutVersion": "1.0.0"}"#))
    }
}

/// A layout of one image with a name.
pub(crate) fn layout(packed: &Packed, name: &str) -> Vec<u8> {
    let mut layout = Layout::default();
    let manifest = layout.image(packed);
    layout.entry(manifest, json!({ "annotations": { "org.opencontainers.image.ref.name": name } }));
    layout.tar().bytes()
}

/// What old Dockers write: layers in directories, the same one twice as a link, `manifest.json` last.
pub(crate) fn docker(packed: &Packed, names: &[&str]) -> Vec<u8> {
    let config = format!("{}.json", Digest::of(&packed.config).hex());
    let mut tar = Tar::new();
    let mut layers = Vec::new();
    for (at, layer) in packed.layers.iter().enumerate() {
        tar.add(dir(&format!("layer{at}/")));
        tar.add(file(&format!("layer{at}/VERSION"), "1.0"));
        let name = format!("layer{at}/layer.tar");
        match packed.layers[..at].iter().position(|other| other == layer) {
            Some(other) => tar.add(symlink(&name, &format!("../layer{other}/layer.tar"))),
            None => tar.add(file(&name, layer)),
        }
        layers.push(name);
    }
    tar.add(file(&config, &packed.config));
    let manifest = json!([{ "Config": config, "RepoTags": names, "Layers": layers }]);
    tar.with(file("manifest.json", manifest.to_string())).bytes()
}
