//! From the compressed bytes of a layer to its files, in one pass.
//!
//! ```text
//! bytes ─► decoder ─► stream, digested ─► archive: tar entries ─► apply: paths, whiteouts ─► Target: the files
//! ```
//!
//! [`Target`] is the wall between archives and the forms in which layers are kept: it is told every entry in the order
//! of the archive, with a name that can't leave the layer. [`directory`] is the target for plain overlay directories, [`erofs`] the one
//! for images.
//! The archive comes from a stranger. Nothing in it makes a target touch anything outside the layer, and what it can
//! make us hold in memory is bounded.
//! Not here: where layers live and when they become visible (`layers`).

mod archive;
mod chunks;
mod decoder;
mod digesting;
mod directory;
pub(crate) mod entry;
mod erofs;
mod header;
mod meter;
mod path;
mod pax;
mod source;
mod sparse;
mod standalone;
mod stream;
mod tree;
mod window;
mod zstd;

use std::io;

use crate::digest::Digest;
use crate::error::Error;
use crate::layers::{Unpacked, is_no_space};

pub(crate) use archive::{Archive, Content};
pub(crate) use chunks::{Chunk, channel};
pub(crate) use digesting::{Digesting, Lane, Piece};
pub(crate) use directory::{DirectoryTarget, own_umask};
pub(crate) use entry::{Entry, Kind};
pub(crate) use erofs::{ErofsTarget, NameMemory};
pub(crate) use meter::{Meter, Stage, thread_time};
pub(crate) use path::TreePath;
pub(crate) use sparse::Extent;
pub use standalone::{ErofsImage, write_directory, write_erofs};
pub(crate) use stream::{Stream, Tools};
pub(crate) use window::Windows;

use crate::recipe::Recorder;
use path::Role;
pub(crate) use source::Source;

/// Entries that a layer may have. The largest images in public use have some hundred thousand.
const MAX_ENTRIES: u64 = 5_000_000;

/// Bytes of the paths of directories that a layer uses and doesn't describe: they stay in memory as long as the layer is
/// here, and are looked at for each container. A hundred thousand of usual length fit.
const MAX_IMPLIED: usize = 16 << 20;

/// What is said of a layer that has more of them.
const TOO_MANY_IMPLIED: Fault =
    Fault::Archive("the paths of directories that it doesn't describe take more than 16 MiB");

/// A form in which the files of one layer are written down.
pub(crate) trait Target {
    /// Adds a file, directory, link or node, in the place of what an earlier entry of the same name made; but a
    /// directory named again keeps what is in it.
    ///
    /// The answer says where all content went that was read from `content`, in the order of the archive.
    fn add(&mut self, path: &TreePath, entry: &Entry, content: &mut Content<'_>) -> Result<Stored, Fault>;

    /// Hides `path` of the layers below. What this layer itself has at `path` stays.
    fn whiteout(&mut self, path: &TreePath) -> Result<(), Fault>;

    /// Hides everything that the layers below have in the directory `path`.
    fn opaque(&mut self, path: &TreePath) -> Result<(), Fault>;

    /// What the last call has put aside, out of the way of something new. Those whose content stays where it was, whatever
    /// comes later, have nothing to tell.
    fn replaced(&mut self) -> Vec<Replaced> {
        Vec::new()
    }

    /// Writes what had to wait for the last entry, such as times of directories.
    fn finish(&mut self) -> Result<Unpacked, Fault>;
}

/// Where a target has put the content of an entry, so that the archive can be written out again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stored {
    /// There was none.
    Nothing,
    /// In these parts of the one file that the layer is, one after the other.
    At(Vec<Extent>),
    /// In the file with this real path below the layer's root, where the entry's extents say.
    File(TreePath),
}

/// A file or directory with content that an earlier entry made, and that has been put aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Replaced {
    /// Where it was.
    pub(crate) path: TreePath,
    /// Its name among those put aside.
    pub(crate) name: String,
}

/// Unpacks a whole layer into `target`, and writes its recipe if there is somebody to do that; returns what it found and the
/// digest of the uncompressed bytes.
pub(crate) fn unpack(
    stream: Stream,
    target: &mut dyn Target,
    recorder: Option<Recorder>,
) -> Result<(Digest, Unpacked), Fault> {
    let mut source = Source::new(stream, recorder);
    let mut archive = Archive::new(&mut source);
    let mut entries = 0u64;
    while let Some(entry) = archive.next_entry()? {
        entries += 1;
        if entries > MAX_ENTRIES {
            return Err(Fault::Archive("it has too many entries"));
        }
        let stored = apply(&entry, &mut archive.content(&entry), target)?;
        archive.record(&entry, &stored, &target.replaced())?;
    }
    let unpacked = target.finish()?;
    Ok((source.finish()?, unpacked))
}

fn apply(entry: &Entry, content: &mut Content<'_>, target: &mut dyn Target) -> Result<Stored, Fault> {
    let path = TreePath::parse(&entry.name).map_err(|reason| Fault::refused(&entry.name, reason))?;
    match path.role().map_err(|reason| Fault::refused(&entry.name, reason))? {
        Role::Node => target.add(&path, entry, content),
        Role::Whiteout(hidden) => target.whiteout(&hidden).map(|()| Stored::Nothing),
        Role::Opaque(dir) => target.opaque(&dir).map(|()| Stored::Nothing),
        Role::Ignored => Ok(Stored::Nothing),
    }
}

/// Why a layer could not be unpacked; becomes an [`Error`] where the layer's name is known.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The bytes could not be had or decompressed.
    Stream(io::Error),
    /// The archive as such is broken.
    Archive(&'static str),
    /// An entry asks for what no entry gets.
    Refused { entry: Vec<u8>, reason: &'static str },
    /// An entry could not be created.
    Create { entry: Vec<u8>, cause: io::Error },
}

impl Fault {
    pub(crate) fn refused(entry: &[u8], reason: &'static str) -> Fault {
        Fault::Refused { entry: entry.to_owned(), reason }
    }

    pub(crate) fn create(entry: &[u8], cause: impl Into<io::Error>) -> Fault {
        Fault::Create { entry: entry.to_owned(), cause: cause.into() }
    }

    /// The public error, now that the layer is known.
    pub(crate) fn of_layer(self, diff_id: &Digest) -> Error {
        let diff_id = diff_id.clone();
        let text = |entry: Vec<u8>| String::from_utf8_lossy(&entry).into_owned();
        match self {
            Fault::Stream(cause) => Error::LayerStream { diff_id, cause },
            Fault::Archive(reason) => Error::LayerArchive { diff_id, reason },
            Fault::Refused { entry, reason } => Error::EntryRefused { diff_id, entry: text(entry), reason },
            Fault::Create { cause, .. } if is_no_space(&cause) => {
                Error::NoSpace { what: format!("layer \"{diff_id}\""), cause }
            }
            Fault::Create { entry, cause } => Error::EntryUnpack { diff_id, entry: text(entry), cause },
        }
    }
}
