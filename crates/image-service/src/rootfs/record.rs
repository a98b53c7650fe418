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
}

impl Record {
    pub(super) fn new(layers: Vec<Digest>) -> Record {
        Record { version: VERSION, layers }
    }

    pub(super) fn layers(&self) -> &[Digest] {
        &self.layers
    }

    /// Writes the record into a directory that hasn't its final name yet.
    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        fs::write(dir.join(NAME), serde_json::to_vec(self)?)
    }

    pub(super) fn read(dir: &Path) -> io::Result<Record> {
        let record: Record = serde_json::from_slice(&fs::read(dir.join(NAME))?)?;
        if record.version != VERSION {
            return Err(io::Error::other("it is of another version"));
        }
        Ok(record)
    }
}
