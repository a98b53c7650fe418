//! Archives of `docker save`: `manifest.json`, configurations, layers; the last also by links to each other.

use serde::Deserialize;

use super::spool::Spool;
use super::{Configured, Found, MAX_IMAGES, Name, configured, refused};
use crate::digest::Digest;
use crate::error::Error;
use crate::manifest::{Keys, Object};

/// The document that names the rest.
const MANIFEST: &str = "manifest.json";

/// An image of it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl Keys for Item {
    const KEYS: &'static [&'static str] = &["Config", "RepoTags", "Layers"];
}

/// The images of an archive; each must be for this machine.
pub(super) fn images(spool: &Spool) -> Result<Vec<Found>, Error> {
    if !spool.has(MANIFEST) {
        return Err(refused(match spool.has("repositories") {
            true => "it is of Docker's first form, without a \"manifest.json\"",
            false => "it has neither an \"index.json\" nor a \"manifest.json\"",
        }));
    }
    let mut found: Vec<Found> = Vec::new();
    for item in items(spool)? {
        let image = image(spool, &item)?;
        match found.iter_mut().find(|known| known.id == image.id) {
            Some(known) => known.names.extend(image.names),
            None => found.push(image),
        }
    }
    match found.is_empty() {
        true => Err(refused("it has no image")),
        false => Ok(found),
    }
}

/// Adds the names that a `manifest.json` beside a layout's index has for these images.
pub(super) fn add_names(spool: &Spool, found: &mut [Found]) -> Result<(), Error> {
    if !spool.has(MANIFEST) {
        return Ok(());
    }
    for item in items(spool)? {
        let Some(config) = spool.find(&item.config) else { continue };
        if let Some(image) = found.iter_mut().find(|image| image.id == config.digest) {
            image.names.extend(item.names()?);
        }
    }
    Ok(())
}

fn items(spool: &Spool) -> Result<Vec<Item>, Error> {
    let items: Vec<Object<Item>> = serde_json::from_slice(&spool.document(MANIFEST)?)
        .map_err(|cause| refused(format!("\"{MANIFEST}\" can't be read: {cause}")))?;
    if items.len() > MAX_IMAGES {
        return Err(refused(format!("it has more than {MAX_IMAGES} images")));
    }
    Ok(items.into_iter().map(|item| item.0).collect())
}

impl Item {
    fn names(&self) -> Result<Vec<Name>, Error> {
        self.repo_tags.iter().flatten().map(|name| Name::whole(name)).collect()
    }
}

fn image(spool: &Spool, item: &Item) -> Result<Found, Error> {
    let bytes = spool.document(&item.config)?;
    let names = item.layers.as_deref().unwrap_or_default();
    let Configured { id, text, file } = configured(Digest::of(&bytes), bytes, names.len())?;
    let mut size_bytes = text.len() as u64;
    let mut layers = Vec::with_capacity(names.len());
    for (diff_id, name) in file.diff_ids.into_iter().zip(names) {
        let blob = spool.find(name);
        size_bytes = size_bytes.saturating_add(blob.map_or(0, |blob| blob.size));
        layers.push((diff_id, blob.map(|blob| blob.path.clone())));
    }
    Ok(Found { id, config: text, manifest: None, names: item.names()?, layers, size_bytes })
}
