//! File systems on disks.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A kind of file system that a node's store may be on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Ext4,
    Xfs,
    Btrfs,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Ext4 => "ext4",
            Kind::Xfs => "xfs",
            Kind::Btrfs => "btrfs",
        }
    }

    /// Bytes of a disk for it: mkfs.xfs wants 300 MiB at least.
    pub(crate) fn disk(self) -> u64 {
        320 << 20
    }

    /// Makes the file system. Nothing is discarded before: the disk is new.
    pub(crate) fn make(self, file: &Path) {
        let arguments: &[&str] = match self {
            Kind::Ext4 => &["-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"],
            Kind::Xfs => &["-q", "-f", "-K"],
            Kind::Btrfs => &["-q", "-f", "-K"],
        };
        run(Command::new(format!("mkfs.{}", self.name())).args(arguments).arg(file));
    }

    /// Whether it can be made and mounted here; why not is told.
    pub(crate) fn is_here(self) -> bool {
        let tool = format!("mkfs.{}", self.name());
        let has_tool = Command::new(&tool).arg("-V").output().is_ok();
        let known = std::fs::read_to_string("/proc/filesystems").unwrap();
        let has = |name: &str| known.lines().any(|line| line.trim_start_matches("nodev").trim() == name);
        let missing = match () {
            () if !rustix::process::geteuid().is_root() => "needs root",
            () if !has_tool => "its mkfs isn't installed",
            () if !has(self.name()) || !has("fuse") => "the kernel lacks it, or FUSE",
            () if !Path::new("/dev/loop-control").exists() => "no loop devices",
            () => return true,
        };
        println!("skipped on {}: {missing}", self.name());
        false
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {said}", output.status);
}

/// A file system mounted through a loop device, in the mount namespace of the thread that mounted it.
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    /// Mounts it, which lets the file system recover from what happened to it.
    pub(crate) fn new(kind: Kind, file: &Path, at: PathBuf) -> Mounted {
        run(Command::new("mount").args(["-o", "loop", "-t", kind.name()]).arg(file).arg(&at));
        Mounted(at)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Files are closed a moment after their last user has let go of them.
        let started = Instant::now();
        while let Err(errno) = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::empty()) {
            if std::thread::panicking() {
                let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
                return;
            }
            assert!(started.elapsed() < Duration::from_secs(20), "cannot unmount: {errno}");
            std::thread::yield_now();
        }
    }
}
