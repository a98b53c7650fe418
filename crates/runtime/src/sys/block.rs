//! Loop devices: block devices on files.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::clone::last_error;

/// Requests of linux/loop.h.
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;

/// struct loop_config of linux/loop.h, with struct loop_info64 in it: what isn't named here stays zero.
#[repr(C)]
struct LoopConfig {
    file: u32,
    block_size: u32,
    before_flags: [u8; 52],
    flags: u32,
    names_and_keys: [u8; 176],
    reserved: [u64; 8],
}

/// How a loop device treats its file: the bits of `lo_flags`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoopFlags(u32);

impl LoopFlags {
    pub(crate) const READ_ONLY: Self = Self(1);
    /// The device lets go of the file when nobody has it open or mounted any more.
    pub(crate) const AUTOCLEAR: Self = Self(4);
    /// The file is read past the page cache, so that the device's pages are the only ones.
    pub(crate) const DIRECT_IO: Self = Self(16);

    pub(crate) const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The number of a loop device that nobody has yet; others may take it before the caller does.
pub(crate) fn free_loop_device() -> Result<u32, Errno> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let control = rustix::fs::open("/dev/loop-control", flags, Mode::empty())?;
    // SAFETY: the request takes no argument; the descriptor is open through the call.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    u32::try_from(number).map_err(|_| last_error())
}

/// Has an open loop device show a file.
pub(crate) fn configure_loop_device(
    device: impl AsFd,
    file: BorrowedFd<'_>,
    flags: LoopFlags,
) -> Result<(), Errno> {
    let config = LoopConfig {
        file: u32::try_from(file.as_raw_fd()).map_err(|_| Errno::BADF)?,
        block_size: 0,
        before_flags: [0; 52],
        flags: flags.0,
        names_and_keys: [0; 176],
        reserved: [0; 8],
    };
    const { assert!(size_of::<LoopConfig>() == 304) };
    // SAFETY: the request reads a struct loop_config, which `config` is in size and layout and which lives through the
    // call; both descriptors are open through it. The kernel takes a reference of its own on the file.
    let returned =
        unsafe { libc::ioctl(device.as_fd().as_raw_fd(), LOOP_CONFIGURE, std::ptr::from_ref(&config)) };
    if returned == 0 { Ok(()) } else { Err(last_error()) }
}
