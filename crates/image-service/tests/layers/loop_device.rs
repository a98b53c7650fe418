//! Loop devices, as whoever opens a store hands them in.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

/// Makes a loop device of a file: read-only, and gone with its last user.
#[allow(unsafe_code, reason = "a test; what is shipped is handed these calls by its caller")]
pub(crate) fn attach(file: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const CTL_GET_FREE: libc::Ioctl = 0x4C82;
    const CONFIGURE: libc::Ioctl = 0x4C0A;
    // struct loop_config (linux/loop.h): descriptor, block size, then loop_info64 with its flags at 52.
    let mut config = [0u8; 304];
    config[..4].copy_from_slice(&file.as_raw_fd().to_ne_bytes());
    let (read_only, autoclear) = (1u32, 4u32);
    config[8 + 52..8 + 56].copy_from_slice(&(read_only | autoclear).to_ne_bytes());
    let control = File::options().read(true).write(true).open("/dev/loop-control")?;
    loop {
        // SAFETY: takes no argument.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), CTL_GET_FREE) };
        if number < 0 {
            return Err(io::Error::last_os_error());
        }
        let device = File::open(format!("/dev/loop{number}"))?;
        // SAFETY: reads as many bytes as `config` has.
        if unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE, config.as_ptr()) } == 0 {
            return Ok(device.into());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EBUSY) {
            return Err(error);
        }
    }
}
