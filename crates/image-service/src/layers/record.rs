//! What is written down about a layer beside its files: `layer.json`.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::usage::Usage;

/// Name of the record in a layer's directory.
const NAME: &str = "layer.json";
/// Version of the record's form.
const VERSION: u32 = 1;

/// A layer's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    /// Digest of the uncompressed archive; the directory's name repeats it.
    pub(crate) diff_id: Digest,
    /// How the files are kept.
    pub(crate) format: Format,
    bytes: u64,
    inodes: u64,
    /// The layer hides everything below it.
    #[serde(default)]
    pub(crate) opaque_root: bool,
    /// Directories that the archive uses but doesn't describe, from the root downwards; `""` is the root itself. They
    /// exist in the layer with attributes that nobody chose, which must not win over those of a layer below.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) implied_dirs: Vec<String>,
    /// CRC-32C of each MiB of an image, the last of what is left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) checksums: Vec<u32>,
}

/// How a layer's files are kept on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Format {
    /// A plain directory tree in overlay's own notation of whiteouts.
    Directory,
    /// An EROFS image of such a tree.
    Erofs,
}

/// What unpacking found out about a layer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Unpacked {
    pub(crate) usage: Usage,
    pub(crate) opaque_root: bool,
    pub(crate) implied_dirs: Vec<String>,
    /// CRC-32C of each MiB of the layer's image, the last of what is left; none where the layer is no image.
    pub(crate) checksums: Vec<u32>,
}

impl Record {
    pub(crate) fn new(diff_id: Digest, format: Format, unpacked: Unpacked) -> Record {
        let Unpacked { usage, opaque_root, implied_dirs, checksums } = unpacked;
        let Usage { bytes, inodes } = usage;
        Record { version: VERSION, diff_id, format, bytes, inodes, opaque_root, implied_dirs, checksums }
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage { bytes: self.bytes, inodes: self.inodes }
    }

    /// Writes the record into a layer's directory that isn't visible yet.
    pub(crate) fn write(&self, layer_dir: &Path) -> io::Result<()> {
        fs::write(layer_dir.join(NAME), serde_json::to_vec(self)?)
    }

    /// Reads the record of the layer directory `layer_dir`, whose name it must repeat.
    pub(crate) fn read(layer_dir: &Path, algorithm: &str) -> io::Result<Record> {
        let record: Record = serde_json::from_slice(&fs::read(layer_dir.join(NAME))?)?;
        let same_name = layer_dir.file_name() == Some(OsStr::new(record.diff_id.hex()))
            && record.diff_id.algorithm().name() == algorithm;
        if record.version != VERSION || !same_name {
            return Err(io::Error::other("it is of another version or another layer"));
        }
        Ok(record)
    }
}
