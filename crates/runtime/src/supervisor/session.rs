//! The connection of the daemon that is there at the moment.
//!
//! A daemon that doesn't read never makes the loop wait: what can't be sent is kept, up to a bound, and
//! beyond it the connection is given up. Nothing is lost by that: a daemon that comes back asks for a
//! snapshot.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::wire::frame::Kind;
use crate::wire::{Event, Message, Received, Reply, Request, Socket, WireError};

/// Messages that may wait for a daemon that doesn't read.
const BACKLOG: usize = 256;

/// A connection.
#[derive(Debug)]
pub(super) struct Session {
    socket: Socket,
    unsent: VecDeque<(u64, Message, Vec<OwnedFd>)>,
}

/// The connection is of no use any more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lost;

/// A request with its number and its descriptors, or what to answer to one that can't be read, or one whose descriptors are lost.
#[derive(Debug)]
pub(super) enum Incoming {
    Request(u64, Request, Vec<OwnedFd>),
    Unknown(u64, String),
    Incomplete(u64),
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Session {
    pub(super) fn new(socket: Socket) -> Self {
        Self { socket, unsent: VecDeque::new() }
    }

    /// Whether something waits to be sent.
    pub(super) fn is_behind(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Answers a request.
    pub(super) fn reply(
        &mut self,
        sequence: u64,
        reply: Reply,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Lost> {
        self.send(sequence, Message::Reply(reply), descriptors)
    }

    /// Tells something unasked.
    pub(super) fn tell(&mut self, event: Event) -> Result<(), Lost> {
        self.send(0, Message::Event(event), Vec::new())
    }

    fn send(&mut self, sequence: u64, message: Message, descriptors: Vec<OwnedFd>) -> Result<(), Lost> {
        if self.unsent.len() >= BACKLOG {
            return Err(Lost);
        }
        self.unsent.push_back((sequence, message, descriptors));
        self.flush()
    }

    /// Sends what waits, as far as the daemon takes it.
    pub(super) fn flush(&mut self) -> Result<(), Lost> {
        while let Some((sequence, message, descriptors)) = self.unsent.front() {
            let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
            match self.socket.send(*sequence, message, &borrowed) {
                Ok(()) => drop(self.unsent.pop_front()),
                Err(WireError::Full) => return Ok(()),
                Err(_) => return Err(Lost),
            }
        }
        Ok(())
    }

    /// Takes the next request.
    pub(super) fn receive(&mut self) -> Result<Option<Incoming>, Lost> {
        match self.socket.receive() {
            Ok(Received::Pending) => Ok(None),
            Ok(Received::Message { sequence, message, descriptors, .. }) => match *message {
                Message::Request(request) => Ok(Some(Incoming::Request(sequence, request, descriptors))),
                // A daemon answers nothing and tells nothing.
                Message::Reply(_) | Message::Event(_) => Err(Lost),
            },
            Ok(Received::Unreadable { sequence, why, .. }) => Ok(Some(Incoming::Unknown(sequence, why))),
            Ok(Received::Incomplete { sequence, kind: Kind::Request }) => {
                Ok(Some(Incoming::Incomplete(sequence)))
            }
            Ok(Received::Incomplete { kind: Kind::Reply | Kind::Event, .. }) => Err(Lost),
            Ok(Received::Closed) | Err(_) => Err(Lost),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_does_not_read_is_given_up() {
        let (ours, _theirs) = Socket::pair().unwrap();
        let mut session = Session::new(ours);
        let event = || Event::LogWriteFailed { container: "c".repeat(1000), path: "/l".into(), errno: 28 };
        let given_up = (0..10_000).find(|_| session.tell(event()) == Err(Lost));
        assert!(given_up.is_some());
        assert_eq!(session.unsent.len(), BACKLOG);
    }

    #[test]
    fn a_slow_daemon_gets_everything_in_order() {
        let (ours, theirs) = Socket::pair().unwrap();
        let mut session = Session::new(ours);
        let mut told = 0;
        while !session.is_behind() {
            told += 1;
            session.reply(told, Reply::Unknown { why: "x".repeat(10_000) }, Vec::new()).unwrap();
        }
        let mut seen = 0;
        while seen < told {
            session.flush().unwrap();
            if let Received::Message { sequence, .. } = theirs.receive().unwrap() {
                seen += 1;
                assert_eq!(sequence, seen);
            }
        }
        assert!(!session.is_behind());
    }
}
