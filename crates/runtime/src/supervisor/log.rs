//! A container's log file.
//!
//! Lines are appended whole. A disk that is full, or a directory that was removed, never stops the container:
//! what can't be written is dropped, once reported, and writing goes on when it works again.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

/// An open log.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: OwnedFd,
    health: Health,
}

/// Whether the last write went well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Good,
    /// It did not, and that was reported. `torn`: a part of a line is in the file.
    Failed {
        torn: bool,
    },
}

impl Log {
    /// Opens the log at `path`, which is made where it lacks.
    pub(super) fn open(path: PathBuf) -> Result<Self, Errno> {
        let file = open(&path)?;
        Ok(Self { path, file, health: Health::Good })
    }

    /// Opens the log anew by its path. Only whole lines are ever written, so the change is between two of
    /// them. The old file is kept when the new one can't be opened.
    pub(super) fn reopen(&mut self) -> Result<(), Errno> {
        self.file = open(&self.path)?;
        self.health = Health::Good;
        Ok(())
    }

    /// Its path.
    pub(super) fn path(&self) -> &PathBuf {
        &self.path
    }

    /// Appends whole lines. A failure is returned when it is the first in a row.
    pub(super) fn append(&mut self, lines: &[u8]) -> Result<(), Errno> {
        let result = match self.health {
            // The rest of a torn line is lost; what follows begins on a line of its own.
            Health::Failed { torn: true } => {
                write_all(&self.file, b"\n").and_then(|()| write_all(&self.file, lines))
            }
            Health::Good | Health::Failed { torn: false } => write_all(&self.file, lines),
        };
        match (result, self.health) {
            (Ok(()), _) => {
                self.health = Health::Good;
                Ok(())
            }
            (Err(failed), health) => {
                let was_torn = matches!(health, Health::Failed { torn: true });
                self.health = Health::Failed { torn: failed.written > 0 || was_torn };
                if health == Health::Good { Err(failed.errno) } else { Ok(()) }
            }
        }
    }
}

/// How far a write got.
struct Failed {
    written: usize,
    errno: Errno,
}

fn write_all(file: &OwnedFd, bytes: &[u8]) -> Result<(), Failed> {
    let mut written = 0;
    while written < bytes.len() {
        match rustix::io::write(file, &bytes[written..]) {
            Ok(0) => return Err(Failed { written, errno: Errno::IO }),
            Ok(some) => written += some,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Failed { written, errno }),
        }
    }
    Ok(())
}

/// The log directory may belong to a workload that mounts it, so the last part of the path is not followed.
fn open(path: &PathBuf) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::NOFOLLOW
        | OFlags::CLOEXEC
        | OFlags::NONBLOCK;
    let file = openat(CWD, path, flags, Mode::RUSR | Mode::WUSR | Mode::RGRP)?;
    if rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode)
        != rustix::fs::FileType::RegularFile
    {
        return Err(Errno::INVAL);
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_to_the_new_file_after_it_was_opened() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let mut log = Log::open(path.clone()).unwrap();
        log.append(b"one\n").unwrap();
        std::fs::rename(&path, directory.path().join("1.log")).unwrap();
        log.append(b"two\n").unwrap();
        log.reopen().unwrap();
        log.append(b"three\n").unwrap();
        assert_eq!(std::fs::read(directory.path().join("1.log")).unwrap(), b"one\ntwo\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"three\n");
    }

    #[test]
    fn a_removed_directory_keeps_the_old_file() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("logs");
        std::fs::create_dir(&below).unwrap();
        let mut log = Log::open(below.join("0.log")).unwrap();
        std::fs::remove_dir_all(&below).unwrap();
        assert_eq!(log.reopen(), Err(Errno::NOENT));
        log.append(b"still open\n").unwrap();
    }

    #[test]
    fn what_is_no_regular_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        assert_eq!(Log::open(link).unwrap_err(), Errno::LOOP);
        assert_eq!(Log::open("/dev/null".into()).unwrap_err(), Errno::INVAL);
    }

    #[test]
    fn a_full_disk_is_reported_once_and_writing_goes_on() {
        // /dev/full refuses every write as a full disk does.
        let full = openat(CWD, "/dev/full", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let mut log = Log::open(directory.path().join("0.log")).unwrap();
        let good = std::mem::replace(&mut log.file, full);
        assert_eq!(log.append(b"lost\n"), Err(Errno::NOSPC));
        assert_eq!(log.append(b"lost\n"), Ok(()));
        log.file = good;
        log.append(b"kept\n").unwrap();
        assert_eq!(std::fs::read(directory.path().join("0.log")).unwrap(), b"kept\n");
    }
}
