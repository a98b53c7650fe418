//! Loop devices for images of filesystems that can't be mounted from a file.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::sys::{LoopFlags, configure_loop_device, free_loop_device};

/// How often another process may be quicker to take the device that is free.
const ATTEMPTS: usize = 100;

/// Makes a loop device of an open file and opens it: read-only, past the page cache of the file where its filesystem can,
/// and gone with the last who has it open or mounted.
///
/// # Errors
/// The kernel's: ENOENT where there are no loop devices, EACCES or EPERM where they are others'.
pub fn attach(file: BorrowedFd<'_>) -> std::io::Result<OwnedFd> {
    let own = LoopFlags::READ_ONLY.with(LoopFlags::AUTOCLEAR);
    for _ in 0..ATTEMPTS {
        let path = PathBuf::from(format!("/dev/loop{}", free_loop_device()?));
        let device = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let configured = match configure_loop_device(&device, file, own.with(LoopFlags::DIRECT_IO)) {
            Err(Errno::INVAL) => configure_loop_device(&device, file, own),
            configured => configured,
        };
        match configured {
            Ok(()) => return Ok(device),
            Err(Errno::BUSY) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(Errno::BUSY.into())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read as _;
    use std::os::fd::AsFd as _;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_device_shows_a_file_and_goes_with_its_user() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, vec![7; 8192]).unwrap();
        let attached = attach(File::open(&path).unwrap().as_fd());
        let device = match attached {
            Ok(device) => device,
            Err(error) => {
                println!("skipped: no loop devices: {error}");
                return;
            }
        };
        let mut content = Vec::new();
        let mut device = File::from(device);
        device.read_to_end(&mut content).unwrap();
        assert_eq!(content, vec![7; 8192]);
        assert!(is_in_use(&path));
        drop(device);
        let started = Instant::now();
        while is_in_use(&path) {
            assert!(started.elapsed() < Duration::from_secs(20), "the device keeps the file");
            std::thread::yield_now();
        }
    }

    fn is_in_use(path: &std::path::Path) -> bool {
        let devices = std::fs::read_dir("/sys/block").unwrap().map(|entry| entry.unwrap().path());
        let mut files =
            devices.filter_map(|device| std::fs::read_to_string(device.join("loop/backing_file")).ok());
        files.any(|file| std::path::Path::new(file.trim_end()) == path)
    }
}
