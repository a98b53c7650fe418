//! A file system of a test's own, in a file.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::needs;

/// A file system mounted through a loop device; unmounted with this value.
pub struct Disk {
    /// Where it is mounted.
    pub at: PathBuf,
    _file: tempfile::NamedTempFile,
}

impl Disk {
    /// Makes a file system of a kind (`ext4`, `xfs`) with so many MiB and mounts it with options of mount(8).
    ///
    /// # Errors
    /// What the machine lacks for it, for the report of a skipped test.
    ///
    /// # Panics
    /// When it can't be made.
    pub fn new(kind: &str, at: PathBuf, mib: u64, options: &[&str]) -> Result<Self, String> {
        let mkfs = format!("mkfs.{kind}");
        let made_with: &[&str] = match kind {
            "xfs" => &["-q", "-K"],
            _ => &["-q", "-m", "0", "-E", "nodiscard"],
        };
        if !Path::new("/dev/loop-control").exists() {
            return Err("no loop devices".to_owned());
        }
        let mkfs = needs::program(&mkfs).ok_or(format!("no {mkfs}"))?;
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(mib << 20).expect("a sparse file");
        run(Command::new(mkfs).args(made_with).arg(file.path())).expect("a file system");
        let options = [&["loop"], options].concat().join(",");
        run(Command::new("mount").args(["-o", &options, "-t", kind]).arg(file.path()).arg(&at))?;
        Ok(Self { at, _file: file })
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
        for (n, size) in [1 << 20, 4096, 1].into_iter().enumerate() {
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
