//! Where an external runtime sends the master side of a terminal that it has made (its `--console-socket`).

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::termios::isatty;

use crate::handshake::receive_descriptor;

/// A listening socket.
#[derive(Debug)]
pub(in crate::supervisor) struct Console {
    listener: UnixListener,
    directory: OwnedFd,
    name: String,
}

impl Console {
    /// Listens in a directory. Its path may be longer than an address can be: it is reached through its descriptor.
    pub(super) fn listen(directory: &Path, name: &str) -> std::io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = openat(CWD, directory, flags, Mode::empty())?;
        let name = format!("{name}.sock");
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, directory, name })
    }

    /// Its path for the runtime.
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}/{}", std::process::id(), self.directory.as_raw_fd(), self.name).into()
    }

    /// The terminal. The runtime has sent it when it has ended, so nothing is waited for. What is none could not be read without
    /// waiting: a file ignores that flag.
    pub(super) fn terminal(&self) -> Result<OwnedFd, Errno> {
        let broken = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        let (stream, _) = self.listener.accept().map_err(broken)?;
        let sent = receive_descriptor(&stream.into())?.ok_or(Errno::PROTO)?;
        if isatty(&sent) { Ok(sent) } else { Err(Errno::NOTTY) }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _gone =
            std::fs::remove_file(format!("/proc/self/fd/{}/{}", self.directory.as_raw_fd(), self.name));
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::IoSlice;
    use std::os::unix::net::UnixStream;

    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use rustix::pty::{OpenptFlags, openpt};

    use super::*;

    #[test]
    fn only_a_terminal_is_taken_for_one() {
        let directory = tempfile::tempdir().unwrap();
        let console = Console::listen(directory.path(), "init").unwrap();
        let send = |raw: i32| {
            let stream = UnixStream::connect(console.path()).unwrap();
            let rights = [ControlMessage::ScmRights(&[raw])];
            sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(b"x")], &rights, MsgFlags::empty(), None)
                .unwrap();
            console.terminal()
        };
        let file = File::open("/proc/self/status").unwrap();
        assert_eq!(send(file.as_raw_fd()).unwrap_err(), Errno::NOTTY);
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        send(terminal.as_raw_fd()).unwrap();
        assert_eq!(console.terminal().unwrap_err(), Errno::AGAIN, "nobody is waited for");
    }
}
