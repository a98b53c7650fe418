//! Writing images out as one archive that others can read.
//!
//! | form | read by |
//! |---|---|
//! | OCI image layout in a tar, with Docker's `manifest.json` beside its index | whoever knows either |
//! | docker-archive: `manifest.json` and plain names | old Docker too |
//!
//! Configurations go out word for word, so that ids stay. Layers are written again from their recipes and checked while they
//! are; compressed, they first go to a file that has no name, since their digest comes before them. Manifests are new, for the
//! compressed layers of the registry's are gone. Everything that can be missing is looked for before the first byte.
//! Not here: reading archives (`load`), writing a layer's archive again (`recipe`).

mod compressed;
mod docker;
mod oci;
mod tar;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use crate::catalog::Catalog;
use crate::digest::Digest;
use crate::error::Error;
use crate::image::Image;
use crate::layers::Layers;
use crate::recipe::Rewrite;
use crate::reference::{Pointer, Reference};

use compressed::Spooled;
use tar::Tar;

/// What to write out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaveRequest {
    /// Names or ids. An image that is named by a tag is saved under it, one that is named by an id or a digest without.
    pub images: Vec<String>,
    /// Form of the archive.
    pub form: ArchiveForm,
    /// How layers are compressed.
    pub compression: Compression,
}

/// Form of an archive with images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ArchiveForm {
    /// OCI image layout 1.0.
    #[default]
    Oci,
    /// What `docker save` wrote before it knew the other.
    Docker,
}

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip, which everybody reads.
    Gzip,
    /// Zstandard, which is smaller and faster.
    Zstd,
}

/// An image that goes out.
struct Saved {
    image: Arc<Image>,
    /// The tags that it goes out under.
    names: Vec<Reference>,
    config: String,
    manifest: Option<String>,
}

/// A layer that goes out.
struct SavedLayer {
    /// Digest of the bytes that go out.
    digest: Digest,
    /// Their number.
    size: u64,
    bytes: Bytes,
}

enum Bytes {
    Plain(Rewrite),
    Spooled(Spooled),
}

/// What writing out works with.
pub(crate) struct Saver<'a> {
    pub(crate) catalog: &'a Catalog,
    pub(crate) layers: &'a Layers,
    /// A directory of the store's, for compressed layers.
    pub(crate) spool: &'a Path,
}

impl Saver<'_> {
    /// Writes images to `out`. What has been written is good when this returns without an error, and not before.
    ///
    /// # Errors
    /// [`Error::ImageMissing`] and the like for the request, [`Error::NoRecipe`], [`Error::LayerDigest`] when a layer is
    /// damaged, [`Error::NoSpace`], [`Error::Store`], [`Error::Output`].
    pub(crate) fn save(&self, request: &SaveRequest, out: &mut dyn Write) -> Result<(), Error> {
        let images = self.find(&request.images)?;
        let mut rewrites = Vec::new();
        for diff_id in images.iter().flat_map(|saved| &saved.image.layers) {
            if !rewrites.iter().any(|known: &Rewrite| known.layer().diff_id == *diff_id) {
                let layer = self.layers.get(diff_id);
                let layer = layer.ok_or_else(|| Error::LayerMissing { diff_id: diff_id.clone() })?;
                rewrites.push(Rewrite::open(self.layers, layer)?);
            }
        }
        let mut layers = Vec::with_capacity(rewrites.len());
        for rewrite in rewrites {
            let diff_id = rewrite.layer().diff_id.clone();
            layers.push((diff_id, self.layer(rewrite, request.compression)?));
        }
        let layers = SavedLayers { layers, compression: request.compression };
        let mut tar = Tar::new(out);
        match request.form {
            ArchiveForm::Oci => oci::write(&images, &layers, &mut tar)?,
            ArchiveForm::Docker => docker::write(&images, &layers, &mut tar)?,
        }
        tar.finish()
    }

    /// The images, each once, with the names that they were asked for by.
    fn find(&self, asked: &[String]) -> Result<Vec<Saved>, Error> {
        let mut found: Vec<Saved> = Vec::new();
        for text in asked {
            let image = self.catalog.find(text)?;
            let image = image.ok_or_else(|| Error::ImageMissing { image: text.clone() })?;
            let name = text.parse::<Reference>().ok().filter(|name| {
                matches!(name.pointer(), Pointer::Tag(_)) && image.repo_tags.contains(&name.to_string())
            });
            match found.iter_mut().find(|saved| saved.image.id == image.id) {
                Some(saved) => {
                    let new = name.filter(|name| !saved.names.contains(name));
                    saved.names.extend(new);
                }
                None => {
                    let (config, manifest) = self.catalog.texts(&image.id)?;
                    let manifest = manifest.map(|manifest| manifest.text);
                    found.push(Saved { image, names: name.into_iter().collect(), config, manifest });
                }
            }
        }
        Ok(found)
    }

    fn layer(&self, rewrite: Rewrite, compression: Compression) -> Result<SavedLayer, Error> {
        let (digest, size, bytes) = match compression {
            Compression::None => (rewrite.layer().diff_id.clone(), rewrite.size(), Bytes::Plain(rewrite)),
            compression => {
                let spooled = Spooled::compress(&rewrite, compression, self.spool)?;
                (spooled.digest().clone(), spooled.size(), Bytes::Spooled(spooled))
            }
        };
        Ok(SavedLayer { digest, size, bytes })
    }
}

/// All layers that go out, each once.
struct SavedLayers {
    layers: Vec<(Digest, SavedLayer)>,
    compression: Compression,
}

impl SavedLayers {
    /// Those of an image, from the lowest upwards.
    fn of<'s>(&'s self, image: &'s Image) -> impl Iterator<Item = &'s SavedLayer> {
        let find = |diff_id| self.layers.iter().find(move |(known, _)| known == diff_id);
        image.layers.iter().filter_map(find).map(|(_, layer)| layer)
    }
}

impl SavedLayer {
    fn write(&self, name: &str, tar: &mut Tar<'_>) -> Result<(), Error> {
        let mut entry = tar.entry(name, self.size)?;
        match &self.bytes {
            Bytes::Plain(rewrite) => rewrite.write(&mut entry)?,
            Bytes::Spooled(spooled) => spooled.write(&mut entry)?,
        }
        entry.end()
    }
}
