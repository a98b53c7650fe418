//! What is written down about a container's root filesystem: `rootfs.json`.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

const NAME: &str = "rootfs.json";
const VERSION: u32 = 1;

/// The record of one root filesystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    /// From the lowest upwards.
    layers: Vec<Digest>,
    /// Images that the container has as volumes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    images: Vec<ImageRecord>,
}

/// An image that a container has as a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ImageRecord {
    /// The digest of its configuration.
    pub(super) id: Digest,
    /// From the lowest upwards.
    pub(super) layers: Vec<Digest>,
}

impl Record {
    pub(super) fn new(layers: Vec<Digest>) -> Record {
        Record { version: VERSION, layers, images: Vec::new() }
    }

    pub(super) fn with_images(&self, images: Vec<ImageRecord>) -> Record {
        Record { images, ..self.clone() }
    }

    pub(super) fn layers(&self) -> &[Digest] {
        &self.layers
    }

    pub(super) fn images(&self) -> &[ImageRecord] {
        &self.images
    }

    /// Writes the record into a directory that hasn't its final name yet.
    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        fs::write(dir.join(NAME), serde_json::to_vec(self)?)
    }

    /// Replaces the record in a directory.
    pub(super) fn replace(&self, dir: &Path) -> io::Result<()> {
        let beside = dir.join(".rootfs.json");
        fs::write(&beside, serde_json::to_vec(self)?)?;
        fs::rename(&beside, dir.join(NAME))
    }

    pub(super) fn read(dir: &Path) -> io::Result<Record> {
        let record: Record = serde_json::from_slice(&fs::read(dir.join(NAME))?)?;
        if record.version != VERSION {
            return Err(io::Error::other("it is of another version"));
        }
        Ok(record)
    }
}
