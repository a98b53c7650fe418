//! Where an external runtime sends the master side of a terminal that it has made (its `--console-socket`).

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::handshake::receive_descriptor;

/// A listening socket.
#[derive(Debug)]
pub(in crate::supervisor) struct Console {
    listener: UnixListener,
    directory: File,
    name: String,
}

impl Console {
    /// Listens in a directory. Its path may be longer than an address can be: it is reached through its descriptor.
    pub(super) fn listen(directory: &Path, name: &str) -> std::io::Result<Self> {
        let directory = File::open(directory)?;
        let name = format!("{name}.sock");
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, directory, name })
    }

    /// Its path for the runtime.
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}/{}", std::process::id(), self.directory.as_raw_fd(), self.name).into()
    }

    /// The terminal. The runtime has sent it when it has ended, so nothing is waited for.
    pub(super) fn terminal(&self) -> Result<OwnedFd, Errno> {
        let broken = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        let (stream, _) = self.listener.accept().map_err(broken)?;
        receive_descriptor(&stream.into())?.ok_or(Errno::PROTO)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _gone =
            std::fs::remove_file(format!("/proc/self/fd/{}/{}", self.directory.as_raw_fd(), self.name));
    }
}
