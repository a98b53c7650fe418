//! From a name to the layers of the image for this machine.

use crate::catalog::KeptManifest;
use crate::digest::Digest;
use crate::error::Error;
use crate::image::ImageId;
use crate::manifest::{self, Choice, ConfigFile, Descriptor, Document, Manifest, Platform};
use crate::reference::{Pointer, Reference};
use crate::registry::{RawDocument, Repository};

/// Indexes that lead to a manifest: an index may list indexes, but nobody needs more than one in another.
const INDEX_DEPTH: usize = 3;

/// What an image is made of.
#[derive(Debug)]
pub(super) struct Resolved {
    /// Digest of what the name means: a manifest, or an index.
    pub(super) digest: Digest,
    /// Digest of the configuration.
    pub(super) id: ImageId,
    /// The configuration, word for word.
    pub(super) config: String,
    /// The manifest, word for word.
    pub(super) manifest: KeptManifest,
    /// Bytes of the compressed layers and the configuration.
    pub(super) size_bytes: u64,
    /// For each layer, the lowest first: digest of the uncompressed archive, and where its compressed form is.
    pub(super) layers: Vec<(Digest, Descriptor)>,
}

/// Finds out what an image is made of. Safe to cancel.
///
/// # Errors
/// The registry's failure; [`Error::Document`], [`Error::DocumentRefused`], [`Error::NoPlatform`].
pub(super) async fn resolve(
    repository: &Repository,
    reference: &Reference,
    platform: &Platform,
) -> Result<Resolved, Error> {
    let Found { meant: digest, manifest, text: kept, is_for_us } =
        find_manifest(repository, reference, platform).await?;
    let Manifest { config, layers } = manifest;
    let id = config.digest;
    let bytes = repository.small_blob(&id, config.size).await?;
    let refused =
        |reason: String| Error::DocumentRefused { kind: "configuration", digest: id.clone(), reason };
    check_size(&bytes, config.size).map_err(refused)?;
    let file = ConfigFile::parse(&id, &bytes)?;
    if !platform.runs(&file.os, &file.architecture) {
        let offered = format!("{}/{}", file.os, file.architecture);
        if !is_for_us || !platform.is_of_system(&file.os) {
            return Err(Error::NoPlatform { digest, wanted: platform.to_string(), offered });
        }
        // Emulated, a mere carrier of files, or its builder named its own processor: who wants it knows.
        tracing::warn!(image = %reference, %offered, "an image says that it is for another processor");
    }
    if file.diff_ids.len() != layers.len() {
        let (named, there) = (file.diff_ids.len(), layers.len());
        return Err(refused(format!("it names {named} layers where the manifest has {there}")));
    }
    let config = String::from_utf8(bytes).map_err(|_| refused("it is not UTF-8".to_owned()))?;
    let blobs = layers.iter().map(|layer| layer.size);
    let size_bytes = blobs.fold(config.len() as u64, u64::saturating_add);
    let layers = file.diff_ids.into_iter().zip(layers).collect();
    Ok(Resolved { digest, id, config, manifest: kept, size_bytes, layers })
}

/// A manifest, and how it was found.
struct Found {
    /// Digest of what the name means: the manifest, or an index that led to it.
    meant: Digest,
    manifest: Manifest,
    text: KeptManifest,
    /// It was asked for by its own name, or an index has it for this machine: what its configuration says of the processor
    /// doesn't count then.
    is_for_us: bool,
}

/// The manifest that a name leads to.
async fn find_manifest(
    repository: &Repository,
    reference: &Reference,
    platform: &Platform,
) -> Result<Found, Error> {
    let mut raw = repository.document(reference.pointer()).await?;
    let meant = raw.digest.clone();
    let mut pointed_by: Option<Descriptor> = None;
    let mut is_for_us = true;
    for _ in 0..=INDEX_DEPTH {
        let index = match manifest::parse(&raw, pointed_by.as_ref())? {
            Document::Manifest(manifest) => {
                let media_type = manifest::media_type(&raw, pointed_by.as_ref());
                return Ok(Found { meant, manifest, text: kept(raw, media_type)?, is_for_us });
            }
            Document::Index(index) => index,
        };
        let Choice { descriptor: entry, for_platform } = index.select(platform)?;
        is_for_us = for_platform;
        raw = repository.document(&Pointer::Digest(entry.digest.clone())).await?;
        check_size(&raw.bytes, entry.size).map_err(|reason| Error::DocumentRefused {
            kind: "manifest",
            digest: entry.digest.clone(),
            reason,
        })?;
        pointed_by = Some(entry);
    }
    let reason = format!("it leads through more than {INDEX_DEPTH} indexes");
    Err(Error::DocumentRefused { kind: "index", digest: meant, reason })
}

/// The manifest for the catalogue, which keeps texts: JSON is UTF-8 (RFC 8259, section 8.1).
fn kept(raw: RawDocument, media_type: String) -> Result<KeptManifest, Error> {
    let RawDocument { digest, bytes, .. } = raw;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(KeptManifest { media_type, digest, text }),
        Err(_) => {
            Err(Error::DocumentRefused { kind: "manifest", digest, reason: "it is not UTF-8".to_owned() })
        }
    }
}

fn check_size(bytes: &[u8], stated: u64) -> Result<(), String> {
    match bytes.len() as u64 == stated {
        true => Ok(()),
        false => Err(format!("it has {} bytes where its descriptor says {stated}", bytes.len())),
    }
}
