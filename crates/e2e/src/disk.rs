//! A file system of a test's own, in a file.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::needs;

/// A file system mounted through a loop device; unmounted with this value.
#[derive(Debug)]
pub struct Disk {
    /// Where it is mounted.
    pub at: PathBuf,
    kind: &'static str,
    file: tempfile::NamedTempFile,
}

impl Disk {
    /// Makes a file system of a kind (`ext4`, `xfs`) with so many MiB and mounts it.
    ///
    /// # Errors
    /// What the machine lacks for it, for the report of a skipped test.
    ///
    /// # Panics
    /// When it can't be made or mounted all the same.
    pub fn new(kind: &'static str, at: PathBuf, mib: u64) -> Result<Self, String> {
        let disk = Self::made(kind, at, mib, &[])?;
        disk.mount("loop").expect("mounted");
        Ok(disk)
    }

    /// ext4 that checks files which are to be checked (fs-verity).
    ///
    /// # Errors
    /// As [`Disk::new`]; that the kernel's ext4 can't do that among them.
    ///
    /// # Panics
    /// As [`Disk::new`].
    pub fn with_verity(at: PathBuf, mib: u64) -> Result<Self, String> {
        if !Path::new("/sys/fs/ext4/features/verity").exists() {
            return Err("the kernel's ext4 has no fs-verity".to_owned());
        }
        let disk = Self::made("ext4", at, mib, &["-O", "verity", "-b", "4096"])?;
        disk.mount("loop").expect("mounted");
        Ok(disk)
    }

    /// Changes a bit wherever the disk has these bytes, below its file system: as a disk that fails. Says how often they
    /// were there.
    ///
    /// # Panics
    /// When it is in use, or can't be mounted any more.
    pub fn damage(&self, bytes: &[u8]) -> usize {
        run(Command::new("umount").arg(&self.at)).expect("unmounted");
        let mut disk = std::fs::read(self.file.path()).expect("the disk's file");
        let found: Vec<usize> = memchr::memmem::find_iter(&disk, bytes).collect();
        for at in &found {
            disk[*at] ^= 1;
        }
        std::fs::write(self.file.path(), disk).expect("the disk's file");
        self.mount("loop").expect("mounted again");
        found.len()
    }

    /// xfs that holds projects to their quotas.
    ///
    /// # Errors
    /// As [`Disk::new`]; that the kernel's xfs has no quotas among them.
    ///
    /// # Panics
    /// As [`Disk::new`].
    pub fn with_quotas(at: PathBuf, mib: u64) -> Result<Self, String> {
        let disk = Self::made("xfs", at, mib, &[])?;
        if let Err(why) = disk.mount("loop,prjquota") {
            disk.mount("loop").expect("mounted without quotas");
            return Err(format!("no quotas of xfs: {why}"));
        }
        Ok(disk)
    }

    fn made(kind: &'static str, at: PathBuf, mib: u64, features: &[&str]) -> Result<Self, String> {
        let mkfs = format!("mkfs.{kind}");
        let made_with: &[&str] = match kind {
            "xfs" => &["-q", "-K"],
            _ => &["-q", "-m", "0", "-E", "nodiscard"],
        };
        let mkfs = needs::program(&mkfs).ok_or(format!("no {mkfs}"))?;
        if !Path::new("/dev/loop-control").exists() {
            return Err("no loop devices".to_owned());
        }
        // Loads it where it is a module.
        if rustix::mount::fsopen(kind, rustix::mount::FsOpenFlags::empty()).is_err() {
            return Err(format!("the kernel has no {kind}"));
        }
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(mib << 20).expect("a sparse file");
        run(Command::new(mkfs).args(made_with).args(features).arg(file.path())).expect("a file system");
        Ok(Self { at, kind, file })
    }

    fn mount(&self, options: &str) -> Result<(), String> {
        run(Command::new("mount").args(["-o", options, "-t", self.kind]).arg(self.file.path()).arg(&self.at))
    }

    /// Bytes that are free.
    ///
    /// # Panics
    /// When it isn't mounted.
    pub fn free(&self) -> u64 {
        let disk = rustix::fs::statvfs(&self.at).expect("figures of the file system");
        disk.f_bavail * disk.f_frsize
    }

    /// Writes until nothing is free.
    ///
    /// # Panics
    /// When something stays free.
    pub fn fill(&self) {
        let root = std::fs::File::open(&self.at).expect("its root");
        for (n, size) in [1 << 20, 4096, 1].into_iter().enumerate() {
            // What was freed a moment ago can be had when that is on the disk.
            rustix::fs::syncfs(&root).expect("synced");
            let mut file = std::fs::File::create(self.at.join(format!("ballast{n}"))).expect("a file");
            while std::io::Write::write_all(&mut file, &vec![1; size]).is_ok() {}
            let _ = file.sync_all();
        }
        assert_eq!(self.free(), 0);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Not waiting for a daemon that a failed test leaves.
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{}: {said}", output.status)) }
}
