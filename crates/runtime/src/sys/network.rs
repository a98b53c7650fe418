//! Switching the loopback interface on (netdevice(7)).

use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use rustix::io::Errno;

use super::clone::last_error;

/// Brings `lo` of the calling process's network namespace up; the kernel gives it its addresses then.
pub(crate) fn bring_loopback_up() -> Result<(), Errno> {
    let socket: OwnedFd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .map_err(crate::handshake::to_rustix)?;
    // SAFETY: struct ifreq is plain data for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads a struct ifreq, whose name is terminated by the zeroes it started with.
    let returned =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, std::ptr::from_ref(&request)) };
    if returned == 0 { Ok(()) } else { Err(last_error()) }
}
