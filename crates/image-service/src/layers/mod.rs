//! The layer store: every unpacked layer once, keyed by the digest of its uncompressed archive (its diff id) and shared
//! by all images and containers that name it.
//!
//! ```text
//! <root>/layers/sha256/<hex>/    a whole, synced layer: `layer.erofs` or `fs`, and `layer.json`
//! <root>/ingest/<random>/        a layer in the making; whatever a crash leaves here is removed at open
//! <root>/trash/<random>          renamed away, deleted in the background
//! ```
//!
//! A layer is visible once its directory has been renamed into `layers/`, which happens after everything in it has
//! reached the disk. Because layers are keyed by diff id and not by chain, whiteouts stay in the layer; overlay applies
//! them when a root filesystem is mounted.
//! Not here: reading archives (`unpack`), which layers an image has (`catalog`), mounting (`rootfs`).
//!
//! Everything here blocks: call it from a blocking thread.

mod check;
mod draft;
mod form;
mod mounts;
mod record;
mod size;
mod verity;
mod writeback;
mod writer;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, BufRead};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rustix::fs::{IFlags, Mode, OFlags};

use crate::confinement::{Bounds, Confinement, Files};
use crate::digest::Digest;
use crate::error::Error;
use crate::gc::Trash;
use crate::mounting::{Stage, open_place};
use crate::unpack::{NameMemory, Tools};
use crate::usage::Usage;

pub use check::Condition;
pub(crate) use draft::{ASIDE, IMAGE, TREE};
pub use form::{LayerForm, LayerSettings};
pub use mounts::LoopDevices;
pub(crate) use record::{Record, Unpacked};
pub use verity::Verity;
pub use writer::LayerWriter;

use draft::Draft;
use mounts::Mounting;
use record::Format;
use writeback::Writeback;

/// What a layer in the making is.
#[derive(Debug, Clone)]
pub struct NewLayer {
    /// Digest that the uncompressed archive must have (an element of `rootfs.diff_ids` of the image's configuration).
    pub diff_id: Digest,
}

/// A layer of the store. While a value of this type lives, the layer isn't collected.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Digest of the uncompressed archive.
    pub diff_id: Digest,
    /// Disk space of its files, in bytes, each rounded up to blocks of 4 KiB.
    pub size_bytes: u64,
    /// Number of files, directories and other nodes.
    pub inodes: u64,
    record: Arc<Record>,
    _hold: Arc<Hold>,
}

impl Layer {
    pub(crate) fn record(&self) -> &Record {
        &self.record
    }
}

/// The layer store. Cheap to clone; all clones are the same store.
#[derive(Debug, Clone)]
pub struct Layers {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    index: Mutex<Index>,
    trash: Trash,
    writeback: Writeback,
    sizes: size::Sizes,
    mounting: Mounting,
    /// The form of new layers; nothing as long as it couldn't be found out.
    format: OnceLock<Format>,
    form: LayerForm,
    names: Arc<NameMemory>,
    confinement: Option<Confinement>,
    /// Of threads that work in this store.
    bounds: Bounds,
}

#[derive(Debug, Default)]
struct Index {
    layers: HashMap<Digest, Arc<Record>>,
    /// Layers in use by something in this process: a pull, a container being prepared.
    holds: HashMap<Digest, usize>,
    mounts: mounts::Table,
}

/// Keeps one layer from being collected, whether or not it is in the store yet.
#[derive(Debug)]
struct Hold {
    inner: Arc<Inner>,
    diff_id: Digest,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut index = self.inner.index();
        let Some(count) = index.holds.get_mut(&self.diff_id) else { return };
        *count -= 1;
        if *count == 0 {
            index.holds.remove(&self.diff_id);
            let unmounted = index.mounts.released(&self.diff_id);
            drop(index);
            // This thread may be one that can't unmount.
            unmounted.into_iter().for_each(|slot| self.inner.writeback.let_go(slot));
        }
    }
}

impl Inner {
    /// The form of new layers.
    fn format(&self) -> Result<Format, Error> {
        if let Some(known) = self.format.get() {
            return Ok(*known);
        }
        let chosen = form::choose(self.form, &self.mounting, &self.root)?;
        Ok(*self.format.get_or_init(|| chosen))
    }

    fn confine(&self) -> Result<(), Error> {
        // A trial mount, the first time: not to be had any more afterwards.
        let format = self.format()?;
        self.enter(format)
    }

    fn enter(&self, format: Format) -> Result<(), Error> {
        let files = match format {
            Format::Erofs => Files::Own,
            Format::Directory => Files::Anybodys,
        };
        let entered = self.bounds.enter(files);
        entered.map_err(|cause| store("confine the thread that works in", &self.root, cause))
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn layer_dir(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers").join(diff_id.algorithm().name()).join(diff_id.hex())
    }

    fn hold(self: &Arc<Self>, index: &mut Index, diff_id: &Digest) -> Arc<Hold> {
        let count = index.holds.entry(diff_id.clone()).or_default();
        *count += 1;
        if *count == 1 {
            index.mounts.held(diff_id);
        }
        Arc::new(Hold { inner: Arc::clone(self), diff_id: diff_id.clone() })
    }
}

impl Layers {
    /// Opens the store below `root`, making its directories where they lack. What a crash left half-made is removed,
    /// and a layer whose record can't be read is as good as absent.
    ///
    /// # Errors
    /// [`Error::Store`] names the directory that couldn't be made or read.
    pub fn open(root: &Path) -> Result<Layers, Error> {
        Layers::open_as(root, LayerSettings::default())
    }

    /// Does as [`open`](Self::open), with settings.
    ///
    /// # Errors
    /// As there, and when the form that the settings insist on can't be used.
    pub fn open_as(root: &Path, settings: LayerSettings) -> Result<Layers, Error> {
        for dir in ["layers/sha256", "layers/sha512", "ingest"] {
            make_private_dir(&root.join(dir))?;
        }
        spread_over_disk(&root.join("ingest"));
        let confinement = settings.confinement.clone();
        let trash = Trash::open(&root.join("trash"), confinement.as_ref())?;
        let bounds = Bounds::below(root, confinement.as_ref());
        let writeback = Writeback::start(root)?;
        let mounting = Mounting::new(root.join("ingest"), &settings);
        let (root, form, format) = (root.to_owned(), settings.form, OnceLock::new());
        let (index, names, sizes) = (Mutex::default(), Arc::default(), size::Sizes::default());
        let inner = Inner {
            root,
            index,
            trash,
            writeback,
            sizes,
            mounting,
            format,
            form,
            names,
            confinement,
            bounds,
        };
        inner.discard_broken_ingests()?;
        let layers = inner.read_layers()?;
        inner.index().layers = layers;
        match inner.format() {
            // To be found out when there is space for a layer.
            Ok(_) | Err(Error::NoSpace { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(Layers { inner: Arc::new(inner) })
    }

    /// Whether the layer is in the store, whole. To rely on it, [`Layers::get`] it.
    pub fn contains(&self, diff_id: &Digest) -> bool {
        self.inner.index().layers.contains_key(diff_id)
    }

    /// The layer, kept from collection for as long as the value lives.
    pub fn get(&self, diff_id: &Digest) -> Option<Layer> {
        let mut index = self.inner.index();
        let record = Arc::clone(index.layers.get(diff_id)?);
        let hold = self.inner.hold(&mut index, diff_id);
        Some(layer(record, hold))
    }

    /// Confines the calling thread to what unpacking a layer takes.
    ///
    /// # Errors
    /// [`Error::Store`]: the thread must not go on.
    pub(crate) fn confine(&self) -> Result<(), Error> {
        self.inner.confine()
    }

    /// The same for looking at a layer, which may be of another form than new ones.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn confine_to_look_at(&self, diff_id: &Digest) -> Result<(), Error> {
        let format = self.inner.index().layers.get(diff_id).map(|record| record.format);
        self.inner.enter(format.unwrap_or(Format::Erofs))
    }

    /// For what is beside this store.
    pub(crate) fn confinement(&self) -> Option<&Confinement> {
        self.inner.confinement.as_ref()
    }

    /// Starts a layer: its compressed bytes are then written to the returned writer, which unpacks them on a thread of
    /// its own while the caller fetches more. Gzip, zstd and plain archives are told apart by their first bytes.
    ///
    /// Two writers of the same layer may run at once; the first to commit wins and the second finds it there.
    ///
    /// # Errors
    /// [`Error::Store`] or [`Error::NoSpace`] if no directory or thread for it can be made.
    pub fn begin(&self, new: NewLayer) -> Result<LayerWriter, Error> {
        self.begin_bounded(new, u64::MAX)
    }

    /// Does as [`begin`](Self::begin), for a layer that may have `most` uncompressed bytes.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn begin_bounded(&self, new: NewLayer, most: u64) -> Result<LayerWriter, Error> {
        LayerWriter::begin(&self.inner, new, most)
    }

    /// Makes a layer of the compressed bytes that `source` gives, and commits it when they end: an end that isn't one has
    /// to be an error of the source. To be called on a thread that is nobody else's, since it gets an umask of its own.
    ///
    /// # Errors
    /// As [`Layers::begin`], [`LayerWriter::write`] and [`LayerWriter::commit`].
    pub(crate) fn receive(
        &self,
        new: NewLayer,
        source: impl BufRead + 'static,
        tools: Tools,
    ) -> Result<Layer, Error> {
        Draft::begin(&self.inner, new)?.receive(source, tools)
    }

    /// Disk space and inodes of the files of all layers together. Kept in memory: never reads the disk.
    pub fn usage(&self) -> Usage {
        let index = self.inner.index();
        index.layers.values().fold(Usage::default(), |sum, record| sum + record.usage())
    }

    /// Disk space and inodes of all whole layers with all that is kept beside them. Reads the disk for those that are new.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub(crate) fn disk(&self) -> Result<Usage, Error> {
        self.inner.disk()
    }

    /// Waits until the disk space of what was removed is free, for so long at most.
    pub(crate) fn settle(&self, at_most: Duration) {
        self.inner.writeback.settle(at_most);
        self.inner.trash.settle(at_most);
    }

    /// The directory of a layer.
    pub(crate) fn dir(&self, layer: &Layer) -> PathBuf {
        self.inner.layer_dir(&layer.diff_id)
    }

    /// The root directory of a layer, for mounting it below others: opened as a place, or the mount of its image.
    ///
    /// # Errors
    /// [`Error::LayerMissing`] if it isn't there, [`Error::Store`].
    pub(crate) fn lower(&self, layer: &Layer) -> Result<OwnedFd, Error> {
        let dir = self.inner.layer_dir(&layer.diff_id);
        let missing = || Error::LayerMissing { diff_id: layer.diff_id.clone() };
        let (format, slot) = {
            let mut index = self.inner.index();
            let format = index.layers.get(&layer.diff_id).ok_or_else(missing)?.format;
            (format, (format == Format::Erofs).then(|| index.mounts.slot(&layer.diff_id)))
        };
        let path = dir.join(match format {
            Format::Directory => draft::TREE,
            Format::Erofs => draft::IMAGE,
        });
        let opened = match slot {
            Some(slot) => slot.root(&self.inner.mounting, &path, &dir),
            None => open_place(&path).map_err(|cause| ("open", cause)),
        };
        opened.map_err(|(action, cause)| match (action, cause.kind()) {
            ("open", io::ErrorKind::NotFound) => missing(),
            _ => store(action, &path, cause),
        })
    }

    /// The mount namespace in which [`lower`](Self::lower) has mounted images, where overlay finds them in no other way.
    pub(crate) fn stage(&self) -> Option<Arc<Stage>> {
        self.inner.mounting.used_stage()
    }

    /// Removes every layer that is neither in `referenced` nor held by a [`Layer`] value, and returns their number.
    /// A layer is gone when this returns; its disk space comes back in the background.
    ///
    /// # Errors
    /// The first failure, after all others have been tried.
    pub fn collect(&self, referenced: &HashSet<Digest>) -> Result<usize, Error> {
        let mut index = self.inner.index();
        let unused =
            |diff_id: &&Digest| !referenced.contains(*diff_id) && !index.holds.contains_key(*diff_id);
        let victims: Vec<Digest> = index.layers.keys().filter(unused).cloned().collect();
        let mut outcome = Ok(());
        let mut removed = 0;
        let mut unmounted = Vec::new();
        for diff_id in victims {
            // Under the lock, so that nobody gets hold of a layer between the decision and the rename.
            match self.inner.trash.discard(&self.inner.layer_dir(&diff_id)) {
                Ok(()) => {
                    index.layers.remove(&diff_id);
                    unmounted.extend(index.mounts.forget(&diff_id));
                    removed += 1;
                }
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        drop(index);
        drop(unmounted);
        outcome.and(self.sweep_damaged()).map(|()| removed)
    }
}

fn layer(record: Arc<Record>, hold: Arc<Hold>) -> Layer {
    let Usage { bytes, inodes } = record.usage();
    Layer { diff_id: record.diff_id.clone(), size_bytes: bytes, inodes, record, _hold: hold }
}

impl Inner {
    fn discard_broken_ingests(&self) -> Result<(), Error> {
        let ingest = self.root.join("ingest");
        for entry in fs::read_dir(&ingest).map_err(|cause| store("read", &ingest, cause))? {
            let entry = entry.map_err(|cause| store("read", &ingest, cause))?;
            // Bytes that pulls have fetched already: theirs to go on with.
            if entry.file_name() == "blobs" {
                continue;
            }
            self.trash.discard_leftover(&entry.path());
        }
        Ok(())
    }

    fn read_layers(&self) -> Result<HashMap<Digest, Arc<Record>>, Error> {
        let mut layers = HashMap::new();
        for algorithm in ["sha256", "sha512"] {
            let dir = self.root.join("layers").join(algorithm);
            for entry in fs::read_dir(&dir).map_err(|cause| store("read", &dir, cause))? {
                let path = entry.map_err(|cause| store("read", &dir, cause))?.path();
                match Record::read(&path, algorithm) {
                    Ok(record) => {
                        layers.insert(record.diff_id.clone(), Arc::new(record));
                    }
                    Err(cause) => {
                        tracing::warn!(layer = %path.display(), %cause, "removing a layer without a readable record");
                        self.trash.discard_leftover(&path);
                    }
                }
            }
        }
        Ok(layers)
    }
}

/// Makes a directory that only root may look into (images hold other people's setuid files), with those above it.
pub(crate) fn make_private_dir(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|cause| store("create", path, cause))
}

/// Opens a directory for reading it, or syncing what is behind it.
fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Asks ext4 to place each directory made in `path` anywhere on the disk instead of near the last one (`chattr +T`).
///
/// ext4 doesn't use an inode again for minutes after it was freed and looks at every such inode each time it makes one
/// nearby: a layer unpacked soon after others were removed took seven times as long. Other filesystems don't know the
/// flag, and none needs it to work.
pub(crate) fn spread_over_disk(path: &Path) {
    let Ok(dir) = open_dir(path) else { return };
    if let Ok(current) = rustix::fs::ioctl_getflags(&dir) {
        let _ = rustix::fs::ioctl_setflags(&dir, current | IFlags::TOPDIR);
    }
}

/// An [`Error::Store`], or [`Error::NoSpace`] where that is the reason.
pub(crate) fn store(action: &'static str, path: &Path, cause: io::Error) -> Error {
    if is_no_space(&cause) {
        return Error::NoSpace { what: format!("\"{}\"", path.display()), cause };
    }
    Error::Store { action, path: path.to_owned(), cause }
}

/// Whether an error means a full disk or an exhausted quota.
pub(crate) fn is_no_space(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
