//! A supervisor: started, and asked one thing after another.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use runtime::supervisor::{Arguments, Begin};
use runtime::wire::{Listener, Message, Received, Reply, Request, Socket, WireError};
use rustix::event::{PollFd, PollFlags, poll};

use crate::{Outcome, SUPERVISE};

const SOCKET: &str = "supervisor.sock";

/// A connection.
pub struct Client {
    socket: Socket,
    next: u64,
}

impl Client {
    /// Starts a container's supervisor. It belongs to whoever adopts orphans when this program ends.
    pub fn start(id: &str, directory: &Path) -> Outcome<Self> {
        let listener = Listener::bind(directory, SOCKET)?;
        // The supervisor takes fewer characters for an id than runc does.
        let pod = id.replace('+', "_");
        let arguments = Arguments {
            pod,
            directory: directory.to_owned(),
            cgroup: None,
            begin: Begin::AtOnce,
            open_files: None,
        };
        Command::new("/proc/self/exe")
            .arg(SUPERVISE)
            .args(arguments.to_vec())
            .env_clear()
            .stdin(listener.into_descriptor())
            .stdout(Stdio::null())
            .stderr(File::create(directory.join("supervisor.log"))?)
            .spawn()?;
        Self::connect(directory)
    }

    pub fn connect(directory: &Path) -> Outcome<Self> {
        Ok(Self { socket: Socket::connect(directory, SOCKET)?, next: 1 })
    }

    pub fn ask(
        &mut self,
        request: Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Outcome<(Reply, Vec<OwnedFd>)> {
        let sequence = self.next;
        self.next += 1;
        let message = Message::Request(request);
        while let Err(error) = self.socket.send(sequence, &message, descriptors) {
            match error {
                WireError::Full => self.wait(PollFlags::OUT)?,
                other => return Err(other.into()),
            }
        }
        loop {
            match self.socket.receive()? {
                Received::Pending => self.wait(PollFlags::IN)?,
                Received::Message { sequence: of, message, descriptors, .. } => match *message {
                    Message::Reply(Reply::Failed(failure)) if of == sequence => return Err(failure.into()),
                    Message::Reply(Reply::Unknown { why }) if of == sequence => return Err(why.into()),
                    Message::Reply(reply) if of == sequence => return Ok((reply, descriptors)),
                    _ => {}
                },
                Received::Unreadable { why, .. } => return Err(why.into()),
                Received::Incomplete { .. } => return Err("too many files are open".into()),
                Received::Closed => return Err("the container's supervisor has ended".into()),
            }
        }
    }

    fn wait(&self, flags: PollFlags) -> Outcome<()> {
        poll(&mut [PollFd::from_borrowed_fd(self.socket.as_fd(), flags)], None)?;
        Ok(())
    }
}

/// An answer that makes no sense.
pub fn unexpected(reply: &Reply) -> Box<dyn std::error::Error> {
    format!("the container's supervisor answered {reply:?}").into()
}
