//! A layer in the making, on the thread of whoever fills it.
//!
//! ```text
//! begin ─► fill: unpack to the end ─► digest right? ─► record ─► sync ─► rename ─► sync of the parent ─► visible
//!             └─ dropped, or any failure: the half-made layer goes to the trash
//! ```

use std::fs;
use std::io::{self, BufRead};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::Mode;

use super::record::{Format, Record, Unpacked};
use super::{Hold, Inner, Layer, NewLayer, layer, make_private_dir, open_dir, store};
use crate::digest::Digest;
use crate::error::Error;
use crate::names;
use crate::unpack::{self, DirectoryTarget, Fault, Stream, Tools};

/// Name of a layer's root directory beside its record.
pub(super) const TREE: &str = "fs";

/// Name of the directory that replaced directories go to, while the layer is in the making.
const ASIDE: &str = "replaced";

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

    /// Unpacks the compressed bytes of `source` to their end, checks them and makes the layer visible, unless another
    /// one like it has become so meanwhile. The calling thread gets an umask of its own.
    pub(super) fn receive(self, source: impl BufRead + 'static, tools: Tools) -> Result<Layer, Error> {
        let meter = Arc::clone(&tools.meter);
        let (actual, unpacked) = self.fill(source, tools)?;
        if actual != self.diff_id {
            return Err(Error::LayerDigest { expected: self.diff_id.clone(), actual });
        }
        let record = Record::new(actual, Format::Directory, unpacked);
        record.write(&self.dir).map_err(|cause| store("write the record of", &self.dir, cause))?;
        let synced = meter.sync(|| rustix::fs::syncfs(&self.opened));
        synced.map_err(|errno| store("sync", &self.dir, errno.into()))?;
        self.publish(record)
    }

    fn fill(&self, source: impl BufRead + 'static, tools: Tools) -> Result<(Digest, Unpacked), Error> {
        let of_layer = |fault: Fault| fault.of_layer(&self.diff_id);
        let tree = self.dir.join(TREE);
        let root = make_root(&tree).map_err(|cause| store("create", &tree, cause))?;
        let aside = self.dir.join(ASIDE);
        make_private_dir(&aside)?;
        let replaced = open_dir(&aside).map_err(|cause| store("open", &aside, cause))?;
        // Modes of what is created below come out as the archive has them.
        unpack::own_umask().map_err(|cause| of_layer(Fault::Stream(cause)))?;
        let pace = self.store.writeback.pace();
        let progress = move |bytes| pace.iter().for_each(|pace| pace.advance(bytes));
        let stream =
            Stream::open(source, self.diff_id.algorithm(), Box::new(progress), tools).map_err(of_layer)?;
        let filled = unpack::unpack(stream, &mut DirectoryTarget::new(root, replaced)).map_err(of_layer)?;
        // Directories that later entries replaced.
        self.store.trash.discard(&aside)?;
        Ok(filled)
    }

    /// Renames the synced layer into its place.
    fn publish(&self, record: Record) -> Result<Layer, Error> {
        let target = self.store.layer_dir(&self.diff_id);
        let hold = Arc::clone(&self.hold);
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
