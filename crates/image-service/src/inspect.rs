//! What there is to tell of the images at hand: sizes with shared layers counted once, the texts behind an image, and which
//! images nobody needs.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::catalog::{Catalog, KeptManifest};
use crate::digest::Digest;
use crate::error::Error;
use crate::image::{Image, ImageId};
use crate::layers::Layers;
use crate::manifest::{self, Descriptor, Document};
use crate::recipe;
use crate::registry::RawDocument;
use crate::usage::Usage;

/// Disk space of an image's layers, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImageDisk {
    /// Of all of them.
    pub bytes: u64,
    /// Of those that no other image has: what its removal gives back.
    pub unique_bytes: u64,
}

/// All there is to tell of an image.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// The image.
    pub image: Arc<Image>,
    /// Its configuration, word for word.
    pub config: String,
    /// The manifest that it was pulled by; none if it came without, or before manifests were kept.
    pub manifest: Option<ManifestText>,
    /// Its layers, the lowest first.
    pub layers: Vec<LayerInspection>,
}

/// A manifest, word for word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestText {
    /// Its media type.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// The text.
    pub text: String,
}

/// A layer as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerInspection {
    /// Digest of the uncompressed archive.
    pub diff_id: Digest,
    /// Use of the disk.
    pub disk: Usage,
    /// How its files are kept, by name.
    pub form: String,
    /// Digest and bytes of the compressed archive at the registry, if a manifest says.
    pub blob: Option<(Digest, u64)>,
    /// The number of images that have it.
    pub images: usize,
    /// Whether its archive can be written again.
    pub has_recipe: bool,
}

/// Which images to remove.
#[derive(Debug, Clone, Default)]
pub struct PruneRequest {
    /// All that nothing uses, and not only those without a tag.
    pub all: bool,
    /// Only tell.
    pub dry_run: bool,
    /// Those that something uses.
    pub in_use: HashSet<ImageId>,
}

/// What was removed, or would be.
#[derive(Debug, Clone, Default)]
pub struct Pruned {
    /// The images.
    pub images: Vec<Arc<Image>>,
    /// Disk space of the layers that went with them, in bytes.
    pub freed_bytes: u64,
}

/// For every image, what its layers take.
pub(crate) fn disk(images: &[Arc<Image>], layers: &Layers) -> BTreeMap<ImageId, ImageDisk> {
    let counts = counts(images);
    let of = |image: &Arc<Image>| {
        let mut disk = ImageDisk::default();
        for diff_id in distinct(image) {
            let bytes = layers.get(diff_id).map_or(0, |layer| layer.size_bytes);
            disk.bytes += bytes;
            if counts.get(diff_id) == Some(&1) {
                disk.unique_bytes += bytes;
            }
        }
        (image.id.clone(), disk)
    };
    images.iter().map(of).collect()
}

fn distinct(image: &Image) -> BTreeSet<&Digest> {
    image.layers.iter().collect()
}

/// In how many images each layer is.
fn counts(images: &[Arc<Image>]) -> HashMap<&Digest, usize> {
    let mut counts = HashMap::new();
    for diff_id in images.iter().flat_map(|image| distinct(image)) {
        *counts.entry(diff_id).or_default() += 1;
    }
    counts
}

/// Tells all of an image. Reads its record.
///
/// # Errors
/// [`Error::ImageMissing`], [`Error::Store`].
pub(crate) fn inspect(catalog: &Catalog, layers: &Layers, image: Arc<Image>) -> Result<Inspection, Error> {
    let (config, manifest) = catalog.texts(&image.id)?;
    let blobs = manifest.as_ref().and_then(blobs).filter(|blobs| blobs.len() == image.layers.len());
    let all = catalog.all();
    let counts = counts(&all);
    let mut told = Vec::with_capacity(image.layers.len());
    for (at, diff_id) in image.layers.iter().enumerate() {
        let blob =
            blobs.as_ref().and_then(|blobs| blobs.get(at)).map(|blob| (blob.digest.clone(), blob.size));
        let layer = layers.get(diff_id).ok_or_else(|| Error::LayerMissing { diff_id: diff_id.clone() })?;
        told.push(LayerInspection {
            diff_id: diff_id.clone(),
            disk: layer.record().usage(),
            form: layer.record().format.name().to_owned(),
            blob,
            images: counts.get(diff_id).copied().unwrap_or_default(),
            has_recipe: recipe::exists(&layers.dir(&layer)),
        });
    }
    let manifest =
        manifest.map(|KeptManifest { media_type, digest, text }| ManifestText { media_type, digest, text });
    Ok(Inspection { image, config, manifest, layers: told })
}

/// The layers that a manifest lists.
fn blobs(kept: &KeptManifest) -> Option<Vec<Descriptor>> {
    let raw = RawDocument {
        digest: kept.digest.clone(),
        content_type: Some(kept.media_type.clone()),
        bytes: kept.text.clone().into_bytes(),
    };
    match manifest::parse(&raw, None) {
        Ok(Document::Manifest(manifest)) => Some(manifest.layers),
        _ => None,
    }
}

impl PruneRequest {
    /// Whether the image goes.
    fn takes(&self, image: &Image) -> bool {
        !image.pinned && !self.in_use.contains(&image.id) && (self.all || image.repo_tags.is_empty())
    }
}

/// Removes the images that a request means, those that have lost layers too.
///
/// # Errors
/// [`Error::Store`]; what was removed until then is.
pub(crate) fn prune(catalog: &Catalog, layers: &Layers, request: &PruneRequest) -> Result<Pruned, Error> {
    let (mut images, mut kept): (Vec<_>, Vec<_>) =
        catalog.all_kept().into_iter().partition(|image| request.takes(image));
    if !request.dry_run {
        let mut removed = Vec::with_capacity(images.len());
        for image in images {
            // One that has got a tag meanwhile stays.
            if catalog.remove_if(&image.id, |now| request.takes(now))? {
                removed.push(image);
            }
        }
        (images, kept) = (removed, catalog.all_kept());
    }
    let needed = counts(&kept);
    let going: BTreeSet<&Digest> = images.iter().flat_map(|image| distinct(image)).collect();
    let going = going.into_iter().filter(|diff_id| !needed.contains_key(diff_id));
    let freed_bytes = going.filter_map(|diff_id| layers.get(diff_id)).map(|layer| layer.size_bytes).sum();
    if !request.dry_run {
        catalog.collect(layers)?;
    }
    Ok(Pruned { images, freed_bytes })
}
