//! Files on disk: ours, written beside and renamed, so that a reader finds the old or the new, never a part; and others', read
//! whatever they are.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::Error;

/// What the names of files end with that aren't written whole yet.
const BESIDE: &str = ".tmp";

/// What a regular file holds, as far as it is no larger than that; of a larger one a byte more. What else a path may lead to (a
/// pipe, a device) could block its reader or never end.
///
/// # Errors
/// What the system says, and [`io::ErrorKind::InvalidInput`] for what is no regular file.
pub(crate) fn read_regular(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    // A pipe that nobody writes to would block as soon as it is opened.
    let flags = OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let irregular = || io::Error::new(io::ErrorKind::InvalidInput, "isn't a regular file");
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        // A socket, or a device that isn't there.
        Err(Errno::NXIO) => return Err(irregular()),
        opened => fs::File::from(opened?),
    };
    if !file.metadata()?.is_file() {
        return Err(irregular());
    }
    let mut content = Vec::new();
    file.take(limit + 1).read_to_end(&mut content)?;
    Ok(content)
}

/// Writes a record, 0600, whole or not at all. It outlives this process, however that ends; the machine only when it is [`keep`]-ed.
///
/// # Errors
/// [`Error::Record`].
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

/// Has a record outlive the machine as well, a power cut, for one: what isn't synced may be there empty afterwards, or not at all,
/// though it was renamed long before. One that has been removed meanwhile needn't.
///
/// Blocks, for as long as the disk takes.
///
/// # Errors
/// [`Error::Record`].
pub(crate) fn keep(path: &Path) -> Result<(), Error> {
    let synced = fs::File::open(path).and_then(|file| {
        file.sync_all()?;
        sync_name(path)
    });
    match synced {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::Record { action: "sync", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Has the directory keep the file's name.
fn sync_name(path: &Path) -> io::Result<()> {
    let Some(dir) = path.parent() else { return Ok(()) };
    match fs::File::open(dir)?.sync_all() {
        // A file system that knows no such thing of a directory.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        outcome => outcome,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_a_regular_file_is_read_and_no_more_of_it_than_that() {
        let dir = tempfile::tempdir().unwrap();
        let (pipe, file) = (dir.path().join("pipe"), dir.path().join("file"));
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for path in [&pipe, &socket, Path::new("/dev/zero"), dir.path()] {
            let error = read_regular(path, 4).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{}", path.display());
        }
        for (content, read) in [("", ""), ("1234", "1234"), ("123456", "12345")] {
            fs::write(&file, content).unwrap();
            assert_eq!(read_regular(&file, 4).unwrap(), read.as_bytes());
        }
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(read_regular(&link, 9).unwrap(), b"123456");
    }
}
