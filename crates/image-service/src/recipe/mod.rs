//! The recipe of a layer: what is needed, beside its files, to write its archive again bit by bit.
//!
//! A layer is kept once, unpacked. Its archive, whose digest is the diff id, can't be made from the files alone: headers,
//! their order, padding and what follows the end are lost in them. So, while a layer is unpacked, all bytes of its archive
//! that are no file's content are kept in order, and for every content where the target has put it.
//!
//! ```text
//! <layer>/archive     zstd: version, then records in the order of the archive
//!   L length bytes                  bytes of the archive
//!   A extents                       content, in parts of the layer's one file
//!   F path extents                  content, in parts of the file with this path below `fs/`
//!   R path name                     what was at this path was replaced, and is `replaced/<name>` from here on
//!   E                               the end
//! ```
//!
//! Numbers are LEB128. A recipe isn't believed: whatever is written by it is digested, and is the layer's archive or an
//! error. Layers from before there were recipes have none, and so have those whose recipe would be too large.
//! Not here: reading archives (`unpack`), which archives make an image (`save`).

mod reader;
mod recorder;
mod rewrite;

pub(crate) use recorder::Recorder;
pub(crate) use rewrite::Rewrite;

use std::io::Write;
use std::path::Path;

use crate::error::Error;
use crate::layers::{Layer, Layers};

/// Whether there is a recipe in a layer's directory.
pub(crate) fn exists(layer_dir: &Path) -> bool {
    layer_dir.join(NAME).exists()
}

impl Layers {
    /// Writes the uncompressed archive that a layer was unpacked from, byte for byte. What has been written is that archive
    /// when this returns without an error, and not before.
    ///
    /// # Errors
    /// [`Error::NoRecipe`], [`Error::LayerDigest`] if the layer was damaged, [`Error::Store`], [`Error::Output`].
    pub fn write_archive(&self, layer: &Layer, out: &mut dyn Write) -> Result<(), Error> {
        Rewrite::open(self, layer.clone())?.write(out)
    }
}

/// Name of the recipe in a layer's directory.
const NAME: &str = "archive";
/// What a recipe begins with.
const VERSION: &[u8] = b"knarr archive 1\n";

const LITERAL: u8 = b'L';
const EXTENTS: u8 = b'A';
const FILE: u8 = b'F';
const REPLACED: u8 = b'R';
const END: u8 = b'E';

/// Bytes of the archive in one record, at most.
const LITERAL_BYTES: usize = 64 * 1024;
/// Bytes of a path in a record, at most: the kernel's bound and what an archive's own may be.
const PATH_BYTES: usize = 4096;
/// Parts of one content, at most: as many as a sparse file's map may have, and two more for each file's tail.
const MAX_EXTENTS: usize = 1 << 17;
/// Bytes of paths and names of things that were replaced, at most: who writes an archive out again keeps them in memory.
const MAX_REPLACED: usize = 16 << 20;
