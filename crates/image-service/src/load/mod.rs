//! Images from an archive: what [`crate::Images::save`] and the other tools write, in both forms.
//!
//! ```text
//! bytes ─► tar (plain, gzip, zstd) ─► spool: one file an entry ─► documents (oci, docker) ─► layers, each as a pull's ─► catalogue
//! ```
//!
//! Entries come in any order, and what they are is said by documents that may come last; so they are first put into files,
//! with numbers for names. The archive is a stranger's: documents are bounded, and so is what it and its layers unpack to, as for
//! pulls; blobs must have the digests that they are named by, names can't lead out, sparse entries are refused. All images of an
//! archive are loaded, or none; only a catalogue that can't be written any more half-way through leaves some of them.
//! A full disk is given what a pull is given; an archive that is read can't be begun anew, so that is done at each write, too.
//! Not here: what a layer may do (`unpack`), how room is made (`pull`).

mod docker;
mod oci;
mod spool;

use std::fs::File;
use std::io::{BufRead, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::catalog::{Catalog, KeptManifest, NewImage};
use crate::config::Limits;
use crate::digest::Digest;
use crate::error::Error;
use crate::image::ImageId;
use crate::layers::{Layer, Layers, NewLayer, store};
use crate::manifest::{ConfigFile, Platform};
use crate::pull::Room;
use crate::reference::{Pointer, Reference};

use spool::Spool;

/// Images of one archive, at most.
const MAX_IMAGES: usize = 1_000;
/// Bytes of a layer that are handed on at a time.
const CHUNK: usize = 256 * 1024;

/// What to load, beside the archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadRequest {
    /// The name of an image that has none in the archive, or only a tag, which then follows this name.
    pub name: Option<String>,
}

/// An image that has been loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedImage {
    /// Its id.
    pub id: ImageId,
    /// The names that mean it now; none for one that can be reached by its id alone.
    pub names: Vec<String>,
}

/// An image as an archive has it.
struct Found {
    id: ImageId,
    config: String,
    manifest: Option<KeptManifest>,
    names: Vec<Name>,
    /// From the lowest upwards: digest of the uncompressed archive, and the compressed one's file, if it is there.
    layers: Vec<(Digest, Option<PathBuf>)>,
    size_bytes: u64,
}

/// What an archive says of an image's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Whole(Reference),
    Tag(String),
}

/// What loading works with.
pub(crate) struct Loader<'a> {
    pub(crate) catalog: &'a Catalog,
    pub(crate) layers: &'a Layers,
    pub(crate) limits: &'a Limits,
    pub(crate) room: &'a Arc<Room>,
    /// A directory of the store's whose content goes when the store is opened.
    pub(crate) spool: &'a Path,
}

impl Loader<'_> {
    /// Loads all images of an archive that are for this machine.
    ///
    /// # Errors
    /// [`Error::ArchiveRefused`], [`Error::ArchiveRead`], [`Error::NoPlatform`]; those of documents and layers;
    /// [`Error::NoSpace`], [`Error::Store`].
    pub(crate) fn load(
        &self,
        request: &LoadRequest,
        archive: Box<dyn BufRead + Send>,
    ) -> Result<Vec<LoadedImage>, Error> {
        let base: Option<Reference> = request.name.as_deref().map(str::parse).transpose()?;
        let spool = Spool::fill(self.spool, (self.limits, self.room), archive)?;
        let found = if spool.has("index.json") { oci::images(&spool)? } else { docker::images(&spool)? };
        let named = names(found, base.as_ref())?;
        let keep = || self.unpack_all(&named).and_then(|held| self.add_all(&named, held));
        let outcome = self.room.for_work(|error| matches!(error, Error::NoSpace { .. }), keep);
        if outcome.is_err()
            && let Err(error) = self.catalog.collect(self.layers)
        {
            tracing::warn!(%error, "cannot remove the layers of an archive that was refused");
        }
        outcome
    }

    fn unpack_all(&self, images: &[(Found, Vec<Reference>)]) -> Result<Vec<Layer>, Error> {
        let mut held = Vec::new();
        for (diff_id, file) in images.iter().flat_map(|(found, _)| &found.layers) {
            held.push(match (self.layers.get(diff_id), file) {
                (Some(layer), _) => layer,
                (None, Some(file)) => self.unpack(diff_id, file)?,
                (None, None) => return Err(refused(format!("it lacks the layer \"{diff_id}\""))),
            });
        }
        Ok(held)
    }

    fn unpack(&self, diff_id: &Digest, path: &Path) -> Result<Layer, Error> {
        let failed = |cause| store("read", path, cause);
        let mut file = File::open(path).map_err(failed)?;
        let most = self.limits.unpacked(file.metadata().map_err(failed)?.len());
        let mut writer = self.layers.begin_bounded(NewLayer { diff_id: diff_id.clone() }, most)?;
        loop {
            let mut chunk = Vec::with_capacity(CHUNK);
            (&mut file).take(CHUNK as u64).read_to_end(&mut chunk).map_err(failed)?;
            if chunk.is_empty() {
                return writer.commit();
            }
            writer.write(Bytes::from(chunk))?;
        }
    }

    fn add_all(
        &self,
        images: &[(Found, Vec<Reference>)],
        held: Vec<Layer>,
    ) -> Result<Vec<LoadedImage>, Error> {
        let mut loaded = Vec::with_capacity(images.len());
        for (found, names) in images {
            let shown = names.iter().map(ToString::to_string).collect();
            loaded.push(LoadedImage { id: found.id.clone(), names: shown });
            self.catalog.add(NewImage {
                id: found.id.clone(),
                config: found.config.clone(),
                manifest: found.manifest.clone(),
                size_bytes: found.size_bytes,
                names: names.clone(),
                nameless: true,
            })?;
        }
        if self.catalog.lacks() {
            // A layer that came with these may be one that others had lost.
            self.catalog.look_again(self.layers);
        }
        // Only now may they be collected: the catalogue has them.
        drop(held);
        Ok(loaded)
    }
}

/// The names that images get.
fn names(found: Vec<Found>, base: Option<&Reference>) -> Result<Vec<(Found, Vec<Reference>)>, Error> {
    let nameless = found.iter().filter(|found| found.names.is_empty()).count();
    if base.is_some() && nameless > 1 {
        return Err(refused(format!("it has {nameless} images without a name, which can't have the same")));
    }
    let of = |found: Found| {
        let mut names: Vec<Reference> = found.names.iter().filter_map(|name| name.with(base)).collect();
        if found.names.is_empty() {
            names.extend(base.cloned());
        }
        names.sort();
        names.dedup();
        (found, names)
    };
    Ok(found.into_iter().map(of).collect())
}

impl Name {
    /// The whole name, which a tag makes only with one that was asked for.
    fn with(&self, base: Option<&Reference>) -> Option<Reference> {
        match self {
            Name::Whole(reference) => Some(reference.clone()),
            Name::Tag(tag) => base.map(|base| base.with_tag(tag.clone())),
        }
    }

    fn whole(text: &str) -> Result<Name, Error> {
        let reference: Reference = text.parse()?;
        match reference.pointer() {
            Pointer::Tag(_) => Ok(Name::Whole(reference)),
            // Who has an archive could claim any digest for it.
            Pointer::Digest(_) => Err(refused(format!("it names an image by a digest, \"{text}\""))),
        }
    }
}

/// A configuration that has been read, and what it says.
struct Configured {
    id: ImageId,
    text: String,
    file: ConfigFile,
}

/// Reads an image's configuration; `layers` is the number of layers that the archive has for it.
fn configured(id: Digest, bytes: Vec<u8>, layers: usize) -> Result<Configured, Error> {
    let refused =
        |reason: String| Error::DocumentRefused { kind: "configuration", digest: id.clone(), reason };
    let file = ConfigFile::parse(&id, &bytes)?;
    let host = Platform::host();
    if !host.runs(&file.os, &file.architecture) {
        let offered = format!("{}/{}", file.os, file.architecture);
        return Err(Error::NoPlatform { digest: id, wanted: host.to_string(), offered });
    }
    if file.diff_ids.len() != layers {
        return Err(refused(format!(
            "it names {} layers where the archive has {layers}",
            file.diff_ids.len()
        )));
    }
    let text = String::from_utf8(bytes).map_err(|_| refused("it is not UTF-8".to_owned()))?;
    Ok(Configured { id, text, file })
}

fn refused(reason: impl Into<String>) -> Error {
    Error::ArchiveRefused { reason: reason.into() }
}
