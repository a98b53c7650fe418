//! Files in places where others write too, such as the bundle of an external runtime: read only where a regular file lies, and never
//! waited for. Opening a FIFO waits for its other end, and a link leads anywhere.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};

/// The first `most` bytes of a file.
pub(crate) fn first(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The last `most` bytes of a file.
pub(crate) fn last(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut file = open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(CWD, path, flags, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    Ok(file.into())
}

/// Makes a file anew, for appending; what had its name has no name any more.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // O_EXCL (in `create_new`) follows no link and opens nothing that exists.
    File::options().append(true).create_new(true).open(path)
}

/// Makes a file anew with this content.
pub(crate) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    create(path)?.write_all(content)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn what_is_no_file_is_neither_waited_for_nor_followed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let victim = directory.path().join("victim");
        std::fs::write(&victim, "kept").unwrap();
        let fifo = || rustix::fs::mkfifoat(CWD, &path, Mode::from_raw_mode(0o600)).unwrap();
        let link = || symlink(&victim, &path).unwrap();
        let plants: [&dyn Fn(); 2] = [&fifo, &link];
        for plant in plants {
            plant();
            assert!(first(&path, 10).is_err() && last(&path, 10).is_err());
            write(&path, b"new content").unwrap();
            assert_eq!(std::fs::symlink_metadata(&path).unwrap().nlink(), 1);
            assert_eq!(
                (first(&path, 3).unwrap(), last(&path, 7).unwrap()),
                (b"new".into(), b"content".into())
            );
            std::fs::remove_file(&path).unwrap();
        }
        assert_eq!(std::fs::read(&victim).unwrap(), b"kept");
        assert!(first(directory.path(), 10).is_err());
    }
}
