//! Reading and writing the files of a cgroup, with errors that name the file.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::Error;

pub(super) fn error(operation: &'static str, path: &Path, errno: Errno) -> Error {
    Error::Cgroup { operation, path: path.to_owned(), source: errno.into() }
}

/// One write to a file that exists; the kernel takes a setting as one write or not at all.
pub(super) fn write_raw(path: &Path, value: &[u8]) -> Result<(), Errno> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::retry_on_intr(|| rustix::io::write(&file, value)).map(drop)
}

/// A file that takes a setting with each write, opened once for all of them.
pub(super) struct Setting {
    path: PathBuf,
    file: OwnedFd,
}

impl Setting {
    pub(super) fn open(path: PathBuf) -> Result<Self, Error> {
        match rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => Ok(Self { path, file }),
            Err(errno) => Err(error("open cgroup file", &path, errno)),
        }
    }

    pub(super) fn write(&self, value: &str) -> Result<(), Error> {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&self.file, value.as_bytes()));
        written.map(drop).map_err(|errno| error("write cgroup file", &self.path, errno))
    }
}

pub(super) fn write(path: &Path, value: &str) -> Result<(), Error> {
    write_raw(path, value.as_bytes()).map_err(|errno| error("write cgroup file", path, errno))
}

pub(super) fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::Cgroup {
        operation: "read cgroup file",
        path: path.to_owned(),
        source,
    })
}

/// The text of a file, or none when there is no such file (or the cgroup is gone).
pub(super) fn read_if_there(path: &Path) -> Result<Option<String>, Error> {
    match read(path) {
        Ok(text) => Ok(Some(text)),
        Err(Error::Cgroup { source, .. }) if is_gone(&source) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_gone(error: &std::io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NODEV))
}

/// The number in a file of one number; `max` is none.
pub(super) fn number_if_there(path: &Path) -> Result<Option<u64>, Error> {
    Ok(read_if_there(path)?.and_then(|text| text.trim().parse().ok()))
}

/// The value of `key` in a file of `key value` lines.
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Makes a directory and those above it. The last one is tried first: the others nearly always exist.
pub(super) fn make_directories(directory: &Path) -> Result<(), Error> {
    match rustix::fs::mkdir(directory, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(Errno::NOENT) => {
            let parent = directory.parent().ok_or_else(|| error("create cgroup", directory, Errno::NOENT))?;
            make_directories(parent)?;
            match rustix::fs::mkdir(directory, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => Ok(()),
                Err(errno) => Err(error("create cgroup", directory, errno)),
            }
        }
        Err(errno) => Err(error("create cgroup", directory, errno)),
    }
}
