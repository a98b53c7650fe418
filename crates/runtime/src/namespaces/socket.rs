//! Sockets in a network namespace that this process is not in.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// TCP sockets of one namespace that don't block, not connected yet.
#[derive(Debug)]
pub struct TcpSockets {
    /// For IPv4.
    pub v4: OwnedFd,
    /// For IPv6; none where the kernel has it switched off.
    pub v6: Option<OwnedFd>,
}

/// Makes sockets in the network namespace of this process.
///
/// # Errors
/// What the kernel says.
pub fn own_tcp_sockets() -> io::Result<TcpSockets> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = |family| socket_with(family, SocketType::STREAM, flags, None);
    Ok(TcpSockets { v4: socket(AddressFamily::INET)?, v6: socket(AddressFamily::INET6).ok() })
}

/// Makes sockets in another network namespace: a socket stays where it was made, whoever uses it. A thread of its own enters the
/// namespace and ends then, so that nothing else is ever done in there.
///
/// # Errors
/// What the kernel says of the thread, of the namespace (EINVAL: it is none of the network; EPERM: its user namespace is not below
/// this one), or of the sockets.
pub fn tcp_sockets(network: OwnedFd) -> io::Result<TcpSockets> {
    let work = move || {
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
        own_tcp_sockets()
    };
    let thread = std::thread::Builder::new().name("pod-socket".to_owned()).spawn(work)?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that makes sockets panicked")))
}
