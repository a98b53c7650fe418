//! A directory on a filesystem that never answers, as a network filesystem whose server is gone.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A FUSE mount that nobody serves: whoever looks at it waits until this is dropped.
pub struct DeadMount {
    path: PathBuf,
    _device: File,
}

impl DeadMount {
    /// Mounts at `path`, which it makes. `None` on a machine without FUSE.
    ///
    /// # Panics
    /// When the directory can't be made.
    pub fn new(path: PathBuf) -> Option<Self> {
        let device = File::options().read(true).write(true).open("/dev/fuse").ok()?;
        std::fs::create_dir_all(&path).expect("a directory");
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let mounted = mount(Some("dead"), &path, Some("fuse"), MsFlags::empty(), Some(options.as_str()));
        mounted.ok().map(|()| Self { path, _device: device })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for DeadMount {
    fn drop(&mut self) {
        // Without looking at it; the waiting calls fail when the device is closed.
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
    }
}
