//! fs-verity: files that the kernel checks whenever they are read.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::io::Errno;

use super::clone::last_error;

/// Request of linux/fsverity.h.
const FS_IOC_ENABLE_VERITY: libc::Ioctl = 0x4080_6685;
/// FS_VERITY_HASH_ALG_SHA256 of the same.
const SHA256: u32 = 1;
/// Bytes that have a hash of their own. Linux before 6.3 takes the size of a page only.
const BLOCK: u32 = 4096;

/// struct fsverity_enable_arg of linux/fsverity.h.
#[derive(Default)]
#[repr(C)]
struct Enable {
    version: u32,
    hash_algorithm: u32,
    block_size: u32,
    salt_size: u32,
    salt: u64,
    signature_size: u32,
    reserved: u32,
    signature: u64,
    more_reserved: [u64; 11],
}

/// Has the kernel hash all of a file that is open for reading, and check it from then on. Nobody can write to it any more.
pub(crate) fn enable_verity(file: BorrowedFd<'_>) -> Result<(), Errno> {
    let enable = Enable { version: 1, hash_algorithm: SHA256, block_size: BLOCK, ..Enable::default() };
    const { assert!(size_of::<Enable>() == 128) };
    // SAFETY: the request reads a struct fsverity_enable_arg, which `enable` is in size and layout and which lives through the
    // call; it has neither salt nor signature, whose addresses would be followed. The descriptor is open through the call.
    let returned =
        unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_ENABLE_VERITY, std::ptr::from_ref(&enable)) };
    if returned == 0 { Ok(()) } else { Err(last_error()) }
}
