//! A log's file: whole lines are in it, or nothing of them.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use memchr::memrchr;
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, ftruncate, openat};
use rustix::io::Errno;

/// A file that lines are appended to.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    /// None when it was removed: what is written to it nobody could ever read, and it would still fill the disk.
    file: Option<OwnedFd>,
    size: u64,
    /// A part of a line is at its end, which could not be taken back.
    is_torn: bool,
}

/// Not everything was written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// How much was, in whole lines.
    pub(super) whole: usize,
    pub(super) errno: Errno,
}

impl LogFile {
    /// Opens the file at `path`, which is made where it lacks.
    pub(super) fn open(path: PathBuf) -> Result<Self, Errno> {
        let (file, size) = open(&path)?;
        Ok(Self { path, file: Some(file), size, is_torn: false })
    }

    /// Opens it anew by its path. The old file is kept when that fails.
    pub(super) fn reopen(&mut self) -> Result<(), Errno> {
        let (file, size) = open(&self.path)?;
        (self.file, self.size, self.is_torn) = (Some(file), size, false);
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// In bytes, as of the last look.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Whether it can be written at all without being opened anew.
    pub(super) fn is_there(&self) -> bool {
        self.file.is_some()
    }

    /// Looks what others have done to it: NOENT when it was removed.
    pub(super) fn look(&mut self) -> Result<(), Errno> {
        let file = self.file.as_ref().ok_or(Errno::NOENT)?;
        let stat = fstat(file)?;
        if stat.st_nlink == 0 {
            self.file = None;
            return Err(Errno::NOENT);
        }
        self.size = u64::try_from(stat.st_size).unwrap_or(0);
        Ok(())
    }

    /// Appends whole lines.
    pub(super) fn append(&mut self, lines: &[u8]) -> Result<(), Cut> {
        let cut = |errno| Cut { whole: 0, errno };
        let file = self.file.as_ref().ok_or(cut(Errno::NOENT))?;
        if self.is_torn {
            // What follows begins on a line of its own.
            write_all(file, b"\n").map_err(|(_, errno)| cut(errno))?;
            self.is_torn = false;
        }
        let written = write_all(file, lines);
        let (length, errno) = match written {
            Ok(()) => {
                self.size += u64::try_from(lines.len()).unwrap_or(0);
                return Ok(());
            }
            Err(failed) => failed,
        };
        let whole = memrchr(b'\n', &lines[..length]).map_or(0, |end| end + 1);
        self.is_torn = length > whole && take_back(file, length - whole).is_err();
        self.size += u64::try_from(whole).unwrap_or(0);
        Err(Cut { whole, errno })
    }

    #[cfg(test)]
    pub(super) fn replace(&mut self, file: OwnedFd) -> OwnedFd {
        self.file.replace(file).unwrap()
    }
}

/// Takes the part of a line away that is at the end.
fn take_back(file: &OwnedFd, length: usize) -> Result<(), Errno> {
    let size = u64::try_from(fstat(file)?.st_size).unwrap_or(0);
    let before = size.checked_sub(u64::try_from(length).unwrap_or(0)).ok_or(Errno::INVAL)?;
    ftruncate(file, before)
}

/// What was written before it failed, and why it did.
fn write_all(file: &OwnedFd, bytes: &[u8]) -> Result<(), (usize, Errno)> {
    let mut written = 0;
    while written < bytes.len() {
        match rustix::io::write(file, &bytes[written..]) {
            Ok(0) => return Err((written, Errno::IO)),
            Ok(some) => written += some,
            Err(Errno::INTR) => {}
            Err(errno) => return Err((written, errno)),
        }
    }
    Ok(())
}

/// The log directory may belong to a workload that mounts it, so the last part of the path is not followed.
fn open(path: &Path) -> Result<(OwnedFd, u64), Errno> {
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::NOFOLLOW
        | OFlags::CLOEXEC
        | OFlags::NONBLOCK;
    let file = openat(CWD, path, flags, Mode::RUSR | Mode::WUSR | Mode::RGRP)?;
    let stat = fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    Ok((file, u64::try_from(stat.st_size).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_to_the_new_file_after_it_was_opened() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let mut log = LogFile::open(path.clone()).unwrap();
        log.append(b"one\n").unwrap();
        std::fs::rename(&path, directory.path().join("1.log")).unwrap();
        log.append(b"two\n").unwrap();
        log.reopen().unwrap();
        assert_eq!(log.size(), 0);
        log.append(b"three\n").unwrap();
        assert_eq!(log.size(), 6);
        assert_eq!(std::fs::read(directory.path().join("1.log")).unwrap(), b"one\ntwo\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"three\n");
    }

    #[test]
    fn a_file_that_was_removed_is_let_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let mut log = LogFile::open(path.clone()).unwrap();
        assert_eq!(log.look(), Ok(()));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(log.look(), Err(Errno::NOENT));
        assert!(!log.is_there());
        assert_eq!(log.append(b"lost\n"), Err(Cut { whole: 0, errno: Errno::NOENT }));
        log.reopen().unwrap();
        log.append(b"back\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"back\n");
    }

    #[test]
    fn what_is_no_regular_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        assert_eq!(LogFile::open(link).unwrap_err(), Errno::LOOP);
        assert_eq!(LogFile::open("/dev/null".into()).unwrap_err(), Errno::INVAL);
    }

    #[test]
    fn a_part_of_a_line_is_taken_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let mut log = LogFile::open(path.clone()).unwrap();
        log.append(b"one\ntw").unwrap();
        take_back(log.file.as_ref().unwrap(), 2).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one\n");
        assert_eq!(take_back(log.file.as_ref().unwrap(), 5), Err(Errno::INVAL));
    }
}
