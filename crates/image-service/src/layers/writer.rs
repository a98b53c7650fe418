//! A layer in the making.
//!
//! ```text
//! begin ─► bytes… ─► commit: end of bytes ─► digest right? ─► record ─► sync ─► rename ─► sync of the parent ─► visible
//!             └─ dropped, or any failure: the half-made layer goes to the trash
//! ```

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;

use bytes::Bytes;
use rustix::fs::Mode;

use super::record::{Format, Record, Unpacked};
use super::{Hold, Inner, Layer, NewLayer, layer, open_dir, store};
use crate::digest::Digest;
use crate::error::Error;
use crate::names;
use crate::recipe::Recorder;
use crate::unpack::{self, Chunk, DirectoryTarget, Fault, Stream};

/// Name of a layer's root directory beside its record.
pub(crate) const TREE: &str = "fs";

/// Name of the one file that a layer is which isn't a directory tree.
pub(crate) const IMAGE: &str = "layer.erofs";

/// Name of the directory that files and directories are in which later entries replaced: the recipe of the layer's archive
/// needs them. Mostly there are none, and no directory.
pub(crate) const ASIDE: &str = "replaced";

/// Takes the compressed bytes of a layer and unpacks them on a thread of its own, while more are on their way.
///
/// Dropped without [`LayerWriter::commit`], it leaves nothing.
#[derive(Debug)]
pub struct LayerWriter {
    store: Arc<Inner>,
    diff_id: Digest,
    dir: PathBuf,
    /// Of the layer's directory, from before anything was written: syncing it reports every failure since.
    opened: OwnedFd,
    chunks: Option<SyncSender<Chunk>>,
    thread: Option<JoinHandle<Outcome>>,
    hold: Option<Arc<Hold>>,
}

type Outcome = Result<(Digest, Unpacked), Fault>;

impl LayerWriter {
    pub(super) fn begin(store: &Arc<Inner>, new: NewLayer) -> Result<LayerWriter, Error> {
        let NewLayer { diff_id } = new;
        let dir = store.root.join("ingest").join(names::unique());
        let tree = dir.join(TREE);
        super::make_private_dir(&dir)?;
        let opened = open_dir(&dir).map_err(|cause| super::store("open", &dir, cause))?;
        let mut writer = LayerWriter {
            store: Arc::clone(store),
            diff_id: diff_id.clone(),
            dir,
            opened,
            chunks: None,
            thread: None,
            hold: Some(store.hold(&mut store.index(), &diff_id)),
        };
        let root = make_root(&tree).map_err(|cause| super::store("create", &tree, cause))?;
        let aside = dir_aside(&writer.dir)?;
        let recorder = Recorder::create(&writer.dir)
            .map_err(|cause| super::store("write the recipe in", &writer.dir, cause))?;
        let (chunks, received) = unpack::channel();
        let pace = store.writeback.pace();
        let run = move || {
            // Set first: modes of what is created below come out as the archive has them.
            unpack::own_umask().map_err(Fault::Stream)?;
            let progress = move |bytes| pace.iter().for_each(|pace| pace.advance(bytes));
            let stream = Stream::open(received, diff_id.algorithm(), Box::new(progress))?;
            unpack::unpack(stream, &mut DirectoryTarget::new(root, aside), Some(recorder))
        };
        let thread = std::thread::Builder::new().name("unpack".to_owned()).spawn(run);
        writer.thread =
            Some(thread.map_err(|cause| super::store("start the thread that fills", &tree, cause))?);
        writer.chunks = Some(chunks);
        Ok(writer)
    }

    /// Hands over the next compressed bytes. Blocks while the unpacking thread is behind.
    ///
    /// # Errors
    /// Whatever made the layer fail: a broken archive or stream, a refused entry, [`Error::NoSpace`].
    pub fn write(&mut self, bytes: Bytes) -> Result<(), Error> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.send(Chunk::Bytes(bytes))
    }

    /// Ends the layer and makes it visible, unless another writer has done so meanwhile.
    ///
    /// # Errors
    /// As [`LayerWriter::write`]; [`Error::LayerDigest`] if the bytes are another layer's.
    pub fn commit(mut self) -> Result<Layer, Error> {
        self.send(Chunk::End)?;
        let (actual, unpacked) = self.join()?;
        if actual != self.diff_id {
            return Err(Error::LayerDigest { expected: self.diff_id.clone(), actual });
        }
        match fs::remove_dir(self.dir.join(ASIDE)) {
            Err(cause) if cause.kind() != io::ErrorKind::DirectoryNotEmpty => {
                return Err(store("remove", &self.dir.join(ASIDE), cause));
            }
            _ => {}
        }
        let record = Record::new(actual, Format::Directory, unpacked);
        record.write(&self.dir).map_err(|cause| store("write the record of", &self.dir, cause))?;
        rustix::fs::syncfs(&self.opened).map_err(|errno| store("sync", &self.dir, errno.into()))?;
        self.publish(record)
    }

    /// Renames the synced layer into its place.
    fn publish(&mut self, record: Record) -> Result<Layer, Error> {
        let target = self.store.layer_dir(&self.diff_id);
        let hold =
            self.hold.take().unwrap_or_else(|| self.store.hold(&mut self.store.index(), &self.diff_id));
        {
            let mut index = self.store.index();
            if let Some(present) = index.layers.get(&self.diff_id) {
                return Ok(layer(Arc::clone(present), hold));
            }
            rustix::fs::rename(&self.dir, &target)
                .map_err(|errno| store("rename", &self.dir, errno.into()))?;
            index.layers.insert(self.diff_id.clone(), Arc::new(record.clone()));
        }
        let parent = target.parent().unwrap_or(&self.store.root);
        let synced = open_dir(parent).and_then(|dir| Ok(rustix::fs::fsync(&dir)?));
        synced.map_err(|cause| store("sync", parent, cause))?;
        Ok(layer(Arc::new(record), hold))
    }

    fn send(&mut self, chunk: Chunk) -> Result<(), Error> {
        let sent = self.chunks.as_ref().map(|chunks| chunks.send(chunk));
        match sent {
            Some(Ok(())) => Ok(()),
            // The thread ends early only when it fails; its outcome says why.
            Some(Err(_)) | None => match self.join() {
                Err(error) => Err(error),
                Ok(_) => Err(stopped(&self.diff_id)),
            },
        }
    }

    fn join(&mut self) -> Result<(Digest, Unpacked), Error> {
        self.chunks = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome.map_err(|fault| fault.of_layer(&self.diff_id)),
            Some(Err(_)) | None => Err(stopped(&self.diff_id)),
        }
    }
}

impl Drop for LayerWriter {
    fn drop(&mut self) {
        self.chunks = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        // After a commit there's nothing at this path any more.
        if let Err(error) = self.store.trash.discard(&self.dir) {
            tracing::warn!(layer = %self.diff_id, %error, "cannot remove a layer that was given up");
        }
    }
}

/// The error of a writer that is used after it failed.
fn stopped(diff_id: &Digest) -> Error {
    let cause = io::Error::other("unpacking it has failed before");
    Error::LayerStream { diff_id: diff_id.clone(), cause }
}

fn dir_aside(layer_dir: &Path) -> Result<OwnedFd, Error> {
    let path = layer_dir.join(ASIDE);
    super::make_private_dir(&path)?;
    open_dir(&path).map_err(|cause| store("open", &path, cause))
}

/// Makes the root directory of a layer, as it is where the archive doesn't describe it.
fn make_root(path: &Path) -> io::Result<OwnedFd> {
    fs::create_dir(path)?;
    let dir = open_dir(path)?;
    rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o755))?;
    Ok(dir)
}
