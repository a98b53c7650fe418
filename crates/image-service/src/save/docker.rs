//! The archive of `docker save`: `manifest.json` names each image's configuration and layers (moby, `image/spec/v1.2.md`,
//! "Combined Image JSON + Filesystem Changeset Format").

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::tar::Tar;
use super::{Saved, SavedLayers};
use crate::digest::Digest;
use crate::error::Error;

pub(super) fn write(images: &[Saved], layers: &SavedLayers, tar: &mut Tar<'_>) -> Result<(), Error> {
    tar.file("manifest.json", manifest(images, layers, (config, layer)).to_string().as_bytes())?;
    for saved in images {
        tar.file(&config(&saved.image.id), saved.config.as_bytes())?;
    }
    let mut written = BTreeSet::new();
    for (_, saved) in &layers.layers {
        if written.insert(&saved.digest) {
            saved.write(&layer(&saved.digest), tar)?;
        }
    }
    Ok(())
}

/// The name of a file by its digest.
type Name = fn(&Digest) -> String;

/// `manifest.json`, where configurations and layers have these names.
pub(super) fn manifest(images: &[Saved], layers: &SavedLayers, (config, layer): (Name, Name)) -> Value {
    let image = |saved: &Saved| {
        let names: Vec<String> = saved.names.iter().map(ToString::to_string).collect();
        let layers: Vec<String> = layers.of(&saved.image).map(|saved| layer(&saved.digest)).collect();
        json!({ "Config": config(&saved.image.id), "RepoTags": names, "Layers": layers })
    };
    images.iter().map(image).collect()
}

fn config(id: &Digest) -> String {
    format!("{}.json", id.hex())
}

fn layer(digest: &Digest) -> String {
    format!("{}.tar", digest.hex())
}
