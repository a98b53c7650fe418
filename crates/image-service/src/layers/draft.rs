//! A layer in the making, on the thread of whoever fills it.
//!
//! ```text
//! begin ─► fill: unpack to the end ─► digest right? ─► record ─► sync ─► rename ─► sync of the parent ─► visible
//!             └─ dropped, or any failure: the half-made layer goes to the trash
//! ```

use std::fs::{self, File};
use std::io::{self, BufRead};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::Mode;
use rustix::io::Errno;

use super::record::{Format, Record, Unpacked};
use super::writeback::{Image, Pace};
use super::{Hold, Inner, Layer, NewLayer, layer, make_private_dir, open_dir, store, verity};
use crate::digest::Digest;
use crate::error::Error;
use crate::names;
use crate::recipe::Recorder;
use crate::unpack::{self, DirectoryTarget, ErofsTarget, Fault, Stream, Target, Tools};

/// Name of a layer's root directory beside its record.
pub(crate) const TREE: &str = "fs";

/// Name of a layer's image beside its record.
pub(crate) const IMAGE: &str = "layer.erofs";

/// Name of the directory that holds what later entries of a layer's archive replaced.
pub(crate) const ASIDE: &str = "replaced";

/// Longest wait for what is being written back before an image is sealed.
const SETTLING: Duration = Duration::from_secs(30);

/// A layer in the making. Dropped before it is whole, it leaves nothing.
#[derive(Debug)]
pub(super) struct Draft {
    store: Arc<Inner>,
    diff_id: Digest,
    dir: PathBuf,
    /// Of the layer's directory, from before anything was written: syncing it reports every failure since.
    opened: OwnedFd,
    hold: Arc<Hold>,
}

impl Draft {
    /// Makes the directory for it.
    pub(super) fn begin(store: &Arc<Inner>, new: NewLayer) -> Result<Draft, Error> {
        let dir = store.root.join("ingest").join(names::unique());
        make_private_dir(&dir)?;
        let opened = open_dir(&dir).map_err(|cause| super::store("open", &dir, cause))?;
        let hold = store.hold(&mut store.index(), &new.diff_id);
        Ok(Draft { store: Arc::clone(store), diff_id: new.diff_id, dir, opened, hold })
    }

    /// Confines the calling thread to the work on it.
    pub(super) fn confine(&self) -> Result<(), Error> {
        self.store.confine()
    }

    /// Unpacks the compressed bytes of `source` to their end, checks them and makes the layer visible, unless another
    /// one like it has become so meanwhile. The calling thread gets an umask of its own.
    pub(super) fn receive(self, source: impl BufRead + 'static, tools: Tools) -> Result<Layer, Error> {
        let record = match self.store.format()? {
            Format::Directory => self.directory(source, tools)?,
            Format::Erofs => self.image(source, tools)?,
        };
        self.publish(record)
    }

    /// Makes a directory of it, synced.
    fn directory(&self, source: impl BufRead + 'static, tools: Tools) -> Result<Record, Error> {
        let meter = Arc::clone(&tools.meter);
        let tree = self.dir.join(TREE);
        let root = make_root(&tree).map_err(|cause| store("create", &tree, cause))?;
        let aside = self.dir.join(ASIDE);
        make_private_dir(&aside)?;
        let replaced = open_dir(&aside).map_err(|cause| store("open", &aside, cause))?;
        // Modes of what is created below come out as the archive has them.
        unpack::own_umask().map_err(|cause| Fault::Stream(cause).of_layer(&self.diff_id))?;
        let pace = self.store.writeback.of_directory();
        let unpacked = self.fill((source, tools), pace, &mut DirectoryTarget::new(root, replaced))?;
        // What later entries replaced stays: the archive can't be written again without it.
        match rustix::fs::rmdir(&aside) {
            Ok(()) | Err(Errno::NOTEMPTY) => {}
            Err(errno) => return Err(store("remove", &aside, errno.into())),
        }
        let record = self.record(Format::Directory, unpacked)?;
        let synced = meter.sync(|| rustix::fs::syncfs(&self.opened));
        synced.map_err(|errno| store("sync", &self.dir, errno.into()))?;
        Ok(record)
    }

    /// Makes an image of it, synced.
    fn image(&self, source: impl BufRead + 'static, tools: Tools) -> Result<Record, Error> {
        let meter = Arc::clone(&tools.meter);
        let path = self.dir.join(IMAGE);
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|cause| store("create", &path, cause))?;
        let image = file.try_clone().map(Image::new).map_err(|cause| store("open", &path, cause))?;
        let pace = self.store.writeback.of_image(&image);
        let unpacked = self.fill((source, tools), pace, &mut ErofsTarget::new(file, &self.store.names))?;
        meter.sync(|| image.sync()).map_err(|cause| store("sync", &path, cause))?;
        drop(image);
        meter.sync(|| self.seal(&path))?;
        let record = self.record(Format::Erofs, unpacked)?;
        meter.sync(|| self.sync_others()).map_err(|cause| store("sync", &self.dir, cause))?;
        Ok(record)
    }

    /// Has the kernel check the image whenever it is read, where the filesystem does that.
    fn seal(&self, path: &Path) -> Result<(), Error> {
        let Some(verity) = self.store.mounting.verity() else { return Ok(()) };
        let sealed = verity.seal(path).or_else(|cause| match verity::is_busy(&cause) {
            // The thread that writes back may have it open.
            true => {
                self.store.writeback.settle(SETTLING);
                verity.seal(path)
            }
            false => Err(cause),
        });
        match sealed {
            Err(cause) if verity::is_left(&cause) => {
                tracing::warn!(layer = %self.diff_id, %cause, "the image is not checked whenever it is read");
                Ok(())
            }
            sealed => sealed.map_err(|cause| store("seal", path, cause)),
        }
    }

    /// Unpacks all of `source` into `target`.
    fn fill(
        &self,
        (source, tools): (impl BufRead + 'static, Tools),
        mut pace: Option<Pace>,
        target: &mut dyn Target,
    ) -> Result<Unpacked, Error> {
        let of_layer = |fault: Fault| fault.of_layer(&self.diff_id);
        let progress = move |bytes| pace.iter_mut().for_each(|pace| pace.advance(bytes));
        let stream =
            Stream::open(source, self.diff_id.algorithm(), Box::new(progress), tools).map_err(of_layer)?;
        let recorder = Recorder::create(&self.dir);
        let recorder = recorder.map_err(|cause| store("write the recipe in", &self.dir, cause))?;
        let (actual, unpacked) = unpack::unpack(stream, target, Some(recorder)).map_err(of_layer)?;
        if actual != self.diff_id {
            return Err(Error::LayerDigest { expected: self.diff_id.clone(), actual });
        }
        Ok(unpacked)
    }

    fn record(&self, format: Format, unpacked: Unpacked) -> Result<Record, Error> {
        let record = Record::new(self.diff_id.clone(), format, unpacked);
        record.write(&self.dir).map_err(|cause| store("write the record of", &self.dir, cause))?;
        Ok(record)
    }

    /// Syncs what lies beside an image, and the names of all of it. The filesystem as a whole, which is others' too, can
    /// take its time.
    fn sync_others(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.file_name() != IMAGE {
                File::open(entry.path())?.sync_data()?;
            }
        }
        Ok(rustix::fs::fsync(&self.opened)?)
    }

    /// Renames the synced layer into its place. It can be found once that is on the disk too: an image that takes it could be
    /// there for good sooner.
    fn publish(&self, record: Record) -> Result<Layer, Error> {
        let target = self.store.layer_dir(&self.diff_id);
        let hold = Arc::clone(&self.hold);
        if let Some(present) = self.store.index().layers.get(&self.diff_id) {
            return Ok(layer(Arc::clone(present), hold));
        }
        let record = match rustix::fs::rename(&self.dir, &target) {
            Err(Errno::EXIST | Errno::NOTEMPTY) => self.in_its_place(&target, record)?,
            renamed => renamed.map(|()| record).map_err(|errno| store("rename", &self.dir, errno.into()))?,
        };
        let parent = target.parent().unwrap_or(&self.store.root);
        let synced = open_dir(parent).and_then(|dir| Ok(rustix::fs::fsync(&dir)?));
        synced.map_err(|cause| store("sync", parent, cause))?;
        let mut index = self.store.index();
        let known = index.layers.entry(self.diff_id.clone()).or_insert_with(|| Arc::new(record));
        let known = Arc::clone(known);
        drop(index);
        Ok(layer(known, hold))
    }

    /// The record of what is in the layer's place already: of another writer's that was quicker, or of our own in the place of
    /// what is no layer.
    fn in_its_place(&self, target: &Path, own: Record) -> Result<Record, Error> {
        if let Ok(others) = Record::read(target, self.diff_id.algorithm().name()) {
            return Ok(others);
        }
        self.store.trash.discard(target)?;
        let renamed = rustix::fs::rename(&self.dir, target);
        renamed.map(|()| own).map_err(|errno| store("rename", &self.dir, errno.into()))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After a commit there's nothing at this path any more.
        if let Err(error) = self.store.trash.discard(&self.dir) {
            tracing::warn!(layer = %self.diff_id, %error, "cannot remove a layer that was given up");
        }
    }
}

/// Makes the root directory of a layer, as it is where the archive doesn't describe it.
fn make_root(path: &Path) -> io::Result<OwnedFd> {
    fs::create_dir(path)?;
    let dir = open_dir(path)?;
    rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o755))?;
    Ok(dir)
}
