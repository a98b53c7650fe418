//! Files of ours on disk: written beside and renamed, so that a reader finds the old or the new, never a part.

use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::error::Error;

/// What the names of files end with that aren't written whole yet.
const BESIDE: &str = ".tmp";

/// Writes a record, 0600, whole or not at all.
///
/// Nothing is synced: what the record describes (links, addresses in a namespace) ends with the kernel's life as well.
pub(crate) fn write_whole(path: &Path, content: &[u8]) -> Result<(), Error> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(BESIDE);
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .and_then(|mut file| file.write_all(content))
        .and_then(|()| fs::rename(&beside, path));
    written.map_err(|source| {
        let _ = fs::remove_file(&beside);
        Error::Record { action: "write", path: path.to_owned(), source }
    })
}

/// Removes what a process that was killed had not written whole. Nobody may be writing into the directory.
pub(crate) fn sweep(dir: &Path) -> Result<(), Error> {
    let failed = |source| Error::Record { action: "list", path: dir.to_owned(), source };
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.as_os_str().as_bytes().ends_with(BESIDE.as_bytes()) {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Removes a file that may be gone already.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::Record { action: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Makes a directory for us alone, with its parents.
pub(crate) fn make_dir(path: &Path) -> Result<(), Error> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| Error::Record { action: "make", path: path.to_owned(), source })
}
