//! The catalogue on disk.
//!
//! ```text
//! <dir>/images/<algorithm>-<hex>.json   one image: its configuration and manifest word for word
//! <dir>/references.json                 what every name means
//! ```
//!
//! A file is written beside its place, synced, renamed into it, and the directory synced: it is always whole, and a tag
//! moves from one image to another in one step.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Digester};

/// Version of an image's form. The first one had no manifest; it is read still.
pub(crate) const IMAGE_VERSION: u32 = 2;
/// Version of the form of all names.
pub(crate) const REFERENCES_VERSION: u32 = 1;
/// Ending of a file in the making.
const UNFINISHED: &str = ".tmp";
/// Ending of a file that could not be read.
const BROKEN: &str = ".broken";

/// An image, but for its names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImageRecord {
    pub(crate) version: u32,
    pub(crate) id: Digest,
    /// Bytes of the compressed layers and the configuration.
    pub(crate) size_bytes: u64,
    /// The configuration as the registry had it: its digest is the id.
    pub(crate) config: String,
    /// The manifest that the image was last pulled by. None for images of version 1, and for those that came without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) manifest: Option<KeptManifest>,
    /// It stays without any name too, until somebody removes it: one that was loaded from an archive.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) nameless: bool,
}

/// A manifest, word for word. It is the one of this machine's platform, whatever index led to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeptManifest {
    pub(crate) media_type: String,
    /// Digest of `text`.
    pub(crate) digest: Digest,
    pub(crate) text: String,
}

impl ImageRecord {
    /// Whether it is of a version that is known, and its texts are those that their digests name.
    pub(crate) fn is_right(&self) -> bool {
        let manifest = self.manifest.as_ref();
        (1..=IMAGE_VERSION).contains(&self.version)
            && is_digest_of(&self.id, &self.config)
            && manifest.is_none_or(|manifest| is_digest_of(&manifest.digest, &manifest.text))
    }
}

fn is_digest_of(digest: &Digest, text: &str) -> bool {
    let mut digester = Digester::new(digest.algorithm());
    digester.update(text.as_bytes());
    digester.finish() == *digest
}

/// All names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct References {
    pub(crate) version: u32,
    pub(crate) references: BTreeMap<String, Digest>,
}

/// The file of an image below the catalogue's directory.
pub(crate) fn image_file(dir: &Path, id: &Digest) -> PathBuf {
    dir.join("images").join(format!("{}-{}.json", id.algorithm().name(), id.hex()))
}

/// The file of all names.
pub(crate) fn references_file(dir: &Path) -> PathBuf {
    dir.join("references.json")
}

/// Reads a record.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// Writes a record durably. One that can't be written leaves nothing, which counts on a full disk.
pub(crate) fn write<T: Serialize>(path: &Path, record: &T) -> io::Result<()> {
    let beside = with_ending(path, UNFINISHED);
    let written =
        write_synced(&beside, &serde_json::to_vec(record)?).and_then(|()| fs::rename(&beside, path));
    if let Err(cause) = written {
        let _ = fs::remove_file(&beside);
        return Err(cause);
    }
    sync_parent(path)
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Removes what a crash left of a record in the making.
pub(crate) fn remove_unfinished(path: &Path) -> io::Result<()> {
    remove(&with_ending(path, UNFINISHED))
}

/// Removes a record durably. One that isn't there is fine.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(cause) => Err(cause),
    }
}

/// Writes down that the image of a record is used now: not synced.
pub(crate) fn touch(path: &Path) -> io::Result<()> {
    File::open(path)?.set_modified(SystemTime::now())
}

/// When the image of a record was used last.
pub(crate) fn touched(path: &Path) -> io::Result<SystemTime> {
    fs::metadata(path)?.modified()
}

/// Reads a record; one that isn't right is set aside. Nothing there is nothing.
pub(crate) fn read_right<T: DeserializeOwned>(path: &Path, right: impl Fn(&T) -> bool) -> Option<T> {
    let cause = match read::<T>(path) {
        Ok(record) if right(&record) => return Some(record),
        Ok(_) => io::Error::other("it is of another version or of something else"),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return None,
        Err(cause) => cause,
    };
    tracing::warn!(file = %path.display(), %cause, "setting aside a record that can't be used");
    if let Err(cause) = set_aside(path) {
        tracing::warn!(file = %path.display(), %cause, "cannot set the record aside");
    }
    None
}

/// Whether a file at this path has ever been set aside.
pub(crate) fn has_set_aside(path: &Path) -> bool {
    with_ending(path, BROKEN).exists()
}

/// Keeps a file that can't be read for whoever wants to know why, out of the way.
pub(crate) fn set_aside(path: &Path) -> io::Result<()> {
    fs::rename(path, with_ending(path, BROKEN))
}

/// Whether a file was still being written.
pub(crate) fn is_unfinished(path: &Path) -> bool {
    path.to_string_lossy().ends_with(UNFINISHED)
}

/// Whether a file has been set aside.
pub(crate) fn is_set_aside(path: &Path) -> bool {
    path.to_string_lossy().ends_with(BROKEN)
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    path.with_file_name(name)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}
