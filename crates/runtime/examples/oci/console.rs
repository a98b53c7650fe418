//! Handing a terminal to whoever listens on a console socket: one byte-ish message with the descriptor, as runc does.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::Outcome;

/// Sends a terminal's master side.
pub fn send(socket: &Path, terminal: BorrowedFd<'_>) -> Outcome<()> {
    let failed = |error: &dyn std::fmt::Display| format!("--console-socket {}: {error}", socket.display());
    let stream = UnixStream::connect(socket).map_err(|error| failed(&error))?;
    let descriptors = [terminal.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    sendmsg::<()>(
        stream.as_fd().as_raw_fd(),
        &[IoSlice::new(b"/dev/ptmx")],
        &rights,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
    .map_err(|error| failed(&error))?;
    Ok(())
}

/// A process with a terminal needs somebody to give it to, and one without has nothing to give.
pub fn check(has_terminal: bool, socket: Option<&Path>) -> Outcome<()> {
    match (has_terminal, socket) {
        (true, None) => Err("process.terminal: needs --console-socket".into()),
        (false, Some(_)) => Err("--console-socket: the process has no terminal".into()),
        (true, Some(_)) | (false, None) => Ok(()),
    }
}
