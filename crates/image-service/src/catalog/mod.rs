//! What images there are, and their names.
//!
//! A name (`repository:tag` or `repository@digest`) means one image; an image has any number of names. A tag that is
//! pulled again may move to another image: the old one keeps its other names. A pulled image without names is what a crash
//! left between two writes, and goes at the next open; a loaded one may do without and stays.
//! An image is listed while all its layers are in the store. One that has lost some is kept, unlisted, until it is
//! pulled again, which fetches only what is missing.
//! Not here: the layers themselves (`layers`), how images get here (`pull`).
//!
//! Changing things blocks: call it from a blocking thread. Looking doesn't.

mod record;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::SystemTime;

use crate::digest::Digest;
use crate::error::Error;
use crate::image::{Image, ImageId, ImageUser};
use crate::layers::{Layers, make_private_dir, store};
use crate::manifest::ConfigFile;
use crate::reference::{Pointer, Reference};
use crate::step;

use record::{IMAGE_VERSION, ImageRecord, REFERENCES_VERSION, References};

pub(crate) use record::KeptManifest;

/// Hexadecimal digits that the beginning of an id must have to count as one; fewer may well be a name, as in `cafe`.
/// Tools show 12 or 13.
const SHORTEST_ID: usize = 8;

/// A new image, or an old one under new names.
#[derive(Debug)]
pub(crate) struct NewImage {
    pub(crate) id: ImageId,
    /// The configuration as the registry had it.
    pub(crate) config: String,
    /// The manifest that led to it; none for one that came without.
    pub(crate) manifest: Option<KeptManifest>,
    /// Bytes of the compressed layers and the configuration.
    pub(crate) size_bytes: u64,
    /// Names that mean this image from now on.
    pub(crate) names: Vec<Reference>,
    /// It stays without any name too, until somebody removes it.
    pub(crate) nameless: bool,
}

/// An image that has lost layers, and by which names those can be asked for: its own by digest, else its manifest's in the
/// repositories of its tags. What a tag means by now may be another image.
#[derive(Debug)]
pub(crate) struct Lacking {
    pub(crate) id: ImageId,
    pub(crate) origins: Vec<Reference>,
}

/// The catalogue.
#[derive(Debug)]
pub(crate) struct Catalog {
    dir: PathBuf,
    /// Held while files are written, so that one change follows another.
    state: Mutex<State>,
    /// What others see; replaced after each change.
    view: RwLock<Arc<View>>,
}

#[derive(Debug, Default)]
struct State {
    /// Full names of images that kubelet must not collect.
    pinned: HashSet<String>,
    images: HashMap<ImageId, Known>,
    names: BTreeMap<String, ImageId>,
    /// The file has more names than these: those of images that were removed while the disk was full.
    names_lag: bool,
}

/// An image in memory, but for its names.
#[derive(Debug)]
struct Known {
    file: ConfigFile,
    /// Digest of the manifest that the record has.
    manifest: Option<Digest>,
    size_bytes: u64,
    nameless: bool,
    /// All its layers are in the store.
    whole: bool,
}

#[derive(Debug, Default)]
struct View {
    /// Those that are whole.
    images: Images,
    /// Those that have lost layers.
    lacking: Images,
    names: BTreeMap<String, ImageId>,
}

type Images = BTreeMap<ImageId, Arc<Image>>;

impl View {
    /// Which of `images` a name, an id, or the beginning of an id means.
    fn find(&self, text: &str, images: &Images) -> Result<Option<Arc<Image>>, Error> {
        if let Ok(id) = text.parse::<Digest>() {
            return Ok(images.get(&id).cloned());
        }
        let reference = text.parse::<Reference>();
        let named = reference.as_ref().ok().and_then(|name| self.names.get(&name.to_string()));
        if let Some(image) = named.and_then(|id| images.get(id)) {
            return Ok(Some(Arc::clone(image)));
        }
        let Some(beginning) = id_beginning(text) else { return reference.map(|_| None) };
        let mut fitting = images.values().filter(|image| image.id.hex().starts_with(beginning));
        match (fitting.next(), fitting.next()) {
            (Some(_), Some(_)) => Err(Error::AmbiguousId { id: text.to_owned() }),
            (found, _) => Ok(found.cloned()),
        }
    }
}

impl Catalog {
    /// Opens the catalogue in `dir`, making it where it lacks. A file that can't be read is set aside, with a line in
    /// the log.
    ///
    /// # Errors
    /// [`Error::Store`] names the directory that can't be used.
    pub(crate) fn open(dir: &Path, pinned: &[String], layers: &Layers) -> Result<Catalog, Error> {
        make_private_dir(&dir.join("images"))?;
        let mut state = State { images: read_images(dir, layers)?, ..State::default() };
        let references = record::references_file(dir);
        record::remove_unfinished(&references).map_err(|cause| store("remove", &references, cause))?;
        let named = match record::read_right::<References>(&references, |record| {
            record.version == REFERENCES_VERSION
        }) {
            Some(record) => {
                state.names = record.references;
                true
            }
            // Without the names nobody knows which images have none.
            None => !record::has_set_aside(&references),
        };
        let State { images, names, .. } = &mut state;
        names.retain(|_, id| images.contains_key(id));
        if named {
            let in_use: HashSet<&ImageId> = names.values().collect();
            let lost = |(id, known): &(&ImageId, &Known)| !known.nameless && !in_use.contains(id);
            let nameless: Vec<ImageId> = images.iter().filter(lost).map(|(id, _)| id.clone()).collect();
            for id in nameless {
                forget(dir, &id)?;
                images.remove(&id);
            }
        }
        state.pinned = full_names(pinned);
        let catalog = Catalog { dir: dir.to_owned(), state: Mutex::default(), view: RwLock::default() };
        catalog.publish(&state);
        *catalog.state() = state;
        Ok(catalog)
    }

    /// These are the names of pinned images from now on. Blocks while the catalogue is being written.
    pub(crate) fn pin(&self, pinned: &[String]) {
        let mut state = self.state();
        state.pinned = full_names(pinned);
        self.publish(&state);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The image with this id, if it is whole.
    pub(crate) fn get(&self, id: &ImageId) -> Option<Arc<Image>> {
        self.view().images.get(id).cloned()
    }

    /// All images, in the order of their ids.
    pub(crate) fn all(&self) -> Vec<Arc<Image>> {
        self.view().images.values().cloned().collect()
    }

    /// All images, also those that have lost layers.
    pub(crate) fn all_kept(&self) -> Vec<Arc<Image>> {
        let view = self.view();
        view.images.values().chain(view.lacking.values()).cloned().collect()
    }

    /// The image that a name, an id, or the beginning of an id means.
    ///
    /// # Errors
    /// [`Error::AmbiguousId`]; [`Error::BadReference`] if it can't be any of these.
    pub(crate) fn find(&self, text: &str) -> Result<Option<Arc<Image>>, Error> {
        let view = self.view();
        view.find(text, &view.images)
    }

    /// The same, and where there is none, one that has lost layers.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn find_kept(&self, text: &str) -> Result<Option<Arc<Image>>, Error> {
        let view = self.view();
        let found = view.find(text, &view.images)?;
        found.map_or_else(|| view.find(text, &view.lacking), |image| Ok(Some(image)))
    }

    /// The configuration of an image, word for word. Reads its file.
    ///
    /// # Errors
    /// [`Error::ImageMissing`], [`Error::Store`].
    pub(crate) fn config_text(&self, id: &ImageId) -> Result<String, Error> {
        self.texts(id).map(|(config, _)| config)
    }

    /// The configuration of an image and its manifest, if there is one, word for word. Reads its file.
    ///
    /// # Errors
    /// [`Error::ImageMissing`], [`Error::Store`].
    pub(crate) fn texts(&self, id: &ImageId) -> Result<(String, Option<KeptManifest>), Error> {
        let path = record::image_file(&self.dir, id);
        match record::read::<ImageRecord>(&path) {
            Ok(record) => Ok((record.config, record.manifest)),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                Err(Error::ImageMissing { image: id.to_string() })
            }
            Err(cause) => Err(store("read", &path, cause)),
        }
    }

    /// Adds an image whose layers are all in the store, and held until this returns; or gives a known one more names, and
    /// the manifest that it was pulled by this time. Durable when this returns.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::NoSpace`], [`Error::Document`].
    pub(crate) fn add(&self, new: NewImage) -> Result<Arc<Image>, Error> {
        let NewImage { id, config, manifest, size_bytes, names, nameless } = new;
        let file = ConfigFile::parse(&id, config.as_bytes())?;
        let mut state = self.state();
        let digest = manifest.as_ref().map(|manifest| manifest.digest.clone());
        let is_new = !state.images.contains_key(&id);
        match state.images.get_mut(&id) {
            Some(known)
                if (digest.is_none() || known.manifest == digest) && (known.nameless || !nameless) =>
            {
                known.whole = true;
                self.used(&id);
            }
            known => {
                let nameless = nameless || known.as_ref().is_some_and(|known| known.nameless);
                let kept = known.as_ref().filter(|known| digest.is_none() && known.manifest.is_some());
                let (manifest, size_bytes) = match kept {
                    Some(known) => (self.texts(&id)?.1, known.size_bytes),
                    None => (manifest, size_bytes),
                };
                let digest = manifest.as_ref().map(|manifest| manifest.digest.clone());
                let path = record::image_file(&self.dir, &id);
                let image = ImageRecord {
                    version: IMAGE_VERSION,
                    id: id.clone(),
                    size_bytes,
                    config,
                    manifest,
                    nameless,
                };
                step::at_once("write_record")?;
                record::write(&path, &image).map_err(|cause| store("write", &path, cause))?;
                let known = Known { file, manifest: digest, size_bytes, nameless, whole: true };
                state.images.insert(id.clone(), known);
            }
        }
        let mut all = state.names.clone();
        all.extend(names.iter().map(|name| (name.to_string(), id.clone())));
        if let Err(error) = self.rename(&mut state, all) {
            if is_new {
                self.take_back(&mut state, &id);
            }
            return Err(error);
        }
        self.publish(&state);
        drop(state);
        self.get(&id).ok_or(Error::ImageMissing { image: id.to_string() })
    }

    /// Removes the record of an image whose names couldn't be written: nobody would know it by any.
    fn take_back(&self, state: &mut State, id: &ImageId) {
        if let Err(error) = forget(&self.dir, id) {
            tracing::warn!(image = %id, %error, "an image that was not added stays until the next start");
        }
        state.images.remove(id);
    }

    /// The image is used now. Blocks for a moment.
    pub(crate) fn used(&self, id: &ImageId) {
        if let Err(cause) = record::touch(&record::image_file(&self.dir, id)) {
            tracing::debug!(image = %id, %cause, "cannot write down that an image is used");
        }
    }

    /// When the image was used or pulled last.
    pub(crate) fn last_used(&self, id: &ImageId) -> Option<SystemTime> {
        record::touched(&record::image_file(&self.dir, id)).ok()
    }

    /// Removes an image with all its names, durably. An unknown one is fine. It works on a full disk too: there the names
    /// can't be written, but names of an image whose record has gone mean nothing.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub(crate) fn remove(&self, id: &ImageId) -> Result<(), Error> {
        self.remove_if(id, |_| true).map(drop)
    }

    /// The same if the image, as it is at that moment, is one of those that `unwanted` tells. Says whether it was.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub(crate) fn remove_if(
        &self,
        id: &ImageId,
        unwanted: impl FnOnce(&Image) -> bool,
    ) -> Result<bool, Error> {
        let mut state = self.state();
        let Some(known) = state.images.get(id) else { return Ok(false) };
        if !unwanted(&image(id, known, &state)) {
            return Ok(false);
        }
        let mut left = state.names.clone();
        left.retain(|_, other| other != id);
        let full = match self.rename(&mut state, left.clone()) {
            Ok(()) => false,
            Err(Error::NoSpace { .. }) => true,
            Err(error) => return Err(error),
        };
        forget(&self.dir, id)?;
        if full {
            (state.names, state.names_lag) = (left, true);
        }
        state.images.remove(id);
        self.publish(&state);
        Ok(true)
    }

    /// Takes a name from its image, durably, if the image has other ones. False if it hasn't, or nothing has this name.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub(crate) fn untag(&self, name: &Reference) -> Result<bool, Error> {
        let mut state = self.state();
        let text = name.to_string();
        let is_tag = |name: &str| !name.contains('@');
        let Some(id) = state.names.get(&text) else { return Ok(false) };
        let mut others = state.names.iter().filter(|(other, of)| *of == id && **other != text);
        if !others.any(|(other, _)| is_tag(other)) {
            return Ok(false);
        }
        let mut left = state.names.clone();
        left.remove(&text);
        self.rename(&mut state, left)?;
        self.publish(&state);
        Ok(true)
    }

    /// Removes the layers that neither an image nor anything else needs.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub(crate) fn collect(&self, layers: &Layers) -> Result<usize, Error> {
        step::at_once("collect")?;
        // The lock keeps a pull from ending in between: its layers would be neither held nor in the set.
        let mut state = self.state();
        let needed = state.images.values().flat_map(|known| known.file.diff_ids.iter().cloned()).collect();
        let collected = layers.collect(&needed);
        if state.names_lag {
            let names = state.names.clone();
            // Still full is fine: there will be a next time.
            let _ = self.rename(&mut state, names);
        }
        collected
    }

    /// Whether an image has lost layers.
    pub(crate) fn lacks(&self) -> bool {
        self.state().images.values().any(|known| !known.whole)
    }

    /// Looks which images have all their layers: from now on those are listed, and the others aren't. The answer is the others.
    pub(crate) fn look_again(&self, layers: &Layers) -> Vec<Lacking> {
        let mut state = self.state();
        let State { images, names, .. } = &mut *state;
        let mut lacking = Vec::new();
        for (id, known) in images {
            known.whole = known.file.diff_ids.iter().all(|diff_id| layers.contains(diff_id));
            if !known.whole {
                let names = names.iter().filter(|(_, other)| *other == id);
                let names = names.filter_map(|(name, _)| name.parse::<Reference>().ok());
                let origins = origins(names.collect(), known.manifest.as_ref());
                lacking.push(Lacking { id: id.clone(), origins });
            }
        }
        self.publish(&state);
        lacking
    }

    fn rename(&self, state: &mut State, names: BTreeMap<String, ImageId>) -> Result<(), Error> {
        if names == state.names && !state.names_lag {
            return Ok(());
        }
        let path = record::references_file(&self.dir);
        let references = References { version: REFERENCES_VERSION, references: names };
        step::at_once("write_names")?;
        record::write(&path, &references).map_err(|cause| store("write", &path, cause))?;
        (state.names, state.names_lag) = (references.references, false);
        Ok(())
    }

    fn publish(&self, state: &State) {
        let mut view = View { names: state.names.clone(), ..View::default() };
        for (id, known) in &state.images {
            let images = if known.whole { &mut view.images } else { &mut view.lacking };
            images.insert(id.clone(), Arc::new(image(id, known, state)));
        }
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
    }
}

/// An image as others see it.
fn image(id: &ImageId, known: &Known, state: &State) -> Image {
    let names = state.names.iter().filter(|(_, other)| *other == id).map(|(name, _)| name);
    let is_digest = |name: &&String| matches!(name.parse::<Reference>(), Ok(reference) if matches!(reference.pointer(), Pointer::Digest(_)));
    let (repo_digests, repo_tags): (Vec<&String>, Vec<&String>) = names.partition(is_digest);
    let pinned = repo_digests.iter().chain(&repo_tags).any(|name| state.pinned.contains(*name));
    let file = &known.file;
    Image {
        id: id.clone(),
        repo_tags: repo_tags.into_iter().cloned().collect(),
        repo_digests: repo_digests.into_iter().cloned().collect(),
        size_bytes: known.size_bytes,
        user: ImageUser::parse(&file.config.user),
        config: file.config.clone(),
        pinned,
        created: file.created.clone(),
        architecture: file.architecture.clone(),
        layers: file.diff_ids.clone(),
    }
}

/// Pinned names in the form that the catalogue has names in; what is no name pins nothing.
fn full_names(pinned: &[String]) -> HashSet<String> {
    let full = |name: &String| name.parse::<Reference>().map(|reference| reference.to_string()).ok();
    pinned.iter().filter_map(full).collect()
}

/// Names by which exactly this image can be asked for.
fn origins(names: Vec<Reference>, manifest: Option<&Digest>) -> Vec<Reference> {
    let (mut origins, tags): (Vec<_>, Vec<_>) =
        names.into_iter().partition(|name| matches!(name.pointer(), Pointer::Digest(_)));
    if origins.is_empty() {
        origins = tags.iter().filter_map(|tag| Some(tag.with_digest(manifest?.clone()))).collect();
        origins.dedup();
    }
    origins
}

/// The digits of a text that may be the beginning of an id.
fn id_beginning(text: &str) -> Option<&str> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    let is_hex = digits.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'));
    (is_hex && (SHORTEST_ID..=64).contains(&digits.len())).then_some(digits)
}

fn forget(dir: &Path, id: &ImageId) -> Result<(), Error> {
    step::at_once("forget")?;
    let path = record::image_file(dir, id);
    record::remove(&path).map_err(|cause| store("remove", &path, cause))
}

fn read_images(dir: &Path, layers: &Layers) -> Result<HashMap<ImageId, Known>, Error> {
    let images_dir = dir.join("images");
    let mut images = HashMap::new();
    for entry in fs::read_dir(&images_dir).map_err(|cause| store("read", &images_dir, cause))? {
        let path = entry.map_err(|cause| store("read", &images_dir, cause))?.path();
        if record::is_set_aside(&path) {
            continue;
        }
        if record::is_unfinished(&path) {
            record::remove(&path).map_err(|cause| store("remove", &path, cause))?;
            continue;
        }
        let right = |record: &ImageRecord| record::image_file(dir, &record.id) == path && record.is_right();
        let Some(record) = record::read_right::<ImageRecord>(&path, right) else { continue };
        let Ok(file) = ConfigFile::parse(&record.id, record.config.as_bytes()) else { continue };
        let whole = file.diff_ids.iter().all(|diff_id| layers.contains(diff_id));
        if !whole {
            tracing::warn!(image = %record.id, "an image has lost layers; it is back once it has been pulled again");
        }
        let manifest = record.manifest.map(|manifest| manifest.digest);
        let ImageRecord { id, size_bytes, nameless, .. } = record;
        images.insert(id, Known { file, manifest, size_bytes, nameless, whole });
    }
    Ok(images)
}

#[cfg(test)]
mod tests;
