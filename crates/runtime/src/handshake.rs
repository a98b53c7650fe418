//! How a child tells its parent how far it got, over a SOCK_SEQPACKET pair that closes when the child
//! executes.
//!
//! | from the child | means |
//! |---|---|
//! | `Born(pid)` + 1 descriptor | the process that it was cloned for, and its pidfd (user namespaces; on a socket of its own) |
//! | `Terminal` + 1 descriptor | the master side of the terminal it will use; at most once, first |
//! | `Waiting(halt)` | it goes on when it is told to: `Go`, the one word from the parent |
//! | `Hook(name)` | it runs this hook now; without a name: none any more |
//! | `Executing` | everything is in place; execve(2) is next |
//! | `Failed(Failure)` | a step failed; the child ends |
//! | end of file after `Executing` | the command runs |
//! | end of file before | the child was killed on its way |
//!
//! Nothing goes from parent to child that has not asked for it: a child whose parent is gone finds out when it
//! sends or waits, and ends.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::{FailedStep, Failure, FailureKind};

/// The longest message; a failure's subject is cut so that it fits.
const LONGEST: usize = 8192;

/// The parent's end. Poll it for reading, then [`receive`](Handshake::receive) until it says `Pending`.
#[derive(Debug)]
pub struct Handshake {
    socket: OwnedFd,
    executing: bool,
    /// The hook that runs.
    hook: Option<String>,
}

/// What a child has reported.
#[derive(Debug)]
pub enum Progress {
    /// Nothing new.
    Pending,
    /// The master side of its terminal.
    Terminal(OwnedFd),
    /// It waits for [`Handshake::go`].
    Waiting(Halt),
    /// The command has been executed; there is nothing more to come.
    Ready,
    /// It was not executed; there is nothing more to come.
    Failed(Failure),
}

/// What a starter has reported.
#[derive(Debug)]
pub(crate) enum BirthReport {
    /// Nothing new.
    Pending,
    /// The process that it was cloned for, by its number and pidfd.
    Born(i32, OwnedFd),
    /// There will be none.
    Failed(Failure),
    /// There is nothing more to come.
    Ended,
}

/// Where a child waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Halt {
    /// The container is built beside the host's root; its hooks on the host are next.
    Built,
    /// All is in place but the command (and its startContainer hooks).
    Created,
}

#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Message {
    Born(i32),
    Terminal,
    Waiting(Halt),
    Go,
    Hook(Option<String>),
    Executing,
    Failed(Failure),
}

impl AsFd for Handshake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The child's end.
#[derive(Debug)]
pub(crate) struct Reporter {
    socket: OwnedFd,
}

/// Makes both ends.
pub(crate) fn pair() -> Result<(Handshake, Reporter), Failure> {
    let (parent, child) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
    )
    .map_err(|errno| Failure::system(FailedStep::Handshake, to_rustix(errno), ""))?;
    Ok((Handshake { socket: parent, executing: false, hook: None }, Reporter { socket: child }))
}

pub(crate) fn to_rustix(errno: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(errno as i32)
}

impl Handshake {
    /// Reads what the child has reported, without waiting.
    pub fn receive(&mut self) -> Progress {
        let mut buffer = [0; LONGEST];
        loop {
            let (length, descriptor) = match receive_one(&self.socket, &mut buffer) {
                Err(Errno::AGAIN | Errno::INTR) => return Progress::Pending,
                Err(errno) => return Progress::Failed(Failure::system(FailedStep::Handshake, errno, "")),
                Ok((0, _)) => return self.ended(),
                Ok(received) => received,
            };
            match serde_json::from_slice(&buffer[..length]) {
                Ok(Message::Executing) if !self.executing => self.executing = true,
                Ok(Message::Hook(name)) => self.hook = name,
                message => return progress(message, descriptor),
            }
        }
    }

    /// The hook that runs, as it is named where it fails.
    pub(crate) fn hook(&self) -> Option<&str> {
        self.hook.as_deref()
    }

    /// Lets a child go on that waits.
    ///
    /// # Errors
    /// It is gone.
    pub fn go(&self) -> Result<(), Failure> {
        let sent = serde_json::to_vec(&Message::Go)
            .map_err(|_| Errno::INVAL)
            .and_then(|body| rustix::net::send(&self.socket, &body, rustix::net::SendFlags::NOSIGNAL));
        sent.map(drop).map_err(|errno| Failure::system(FailedStep::Handshake, errno, "go"))
    }

    /// Gives the child up: it finds the end of the socket even while copies of this end are open in other children.
    pub(crate) fn close(self) {
        self.shut();
    }

    /// Has the child find the end of the socket, as [`close`](Self::close) does.
    pub(crate) fn shut(&self) {
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
    }

    /// Waits until the child says that everything is in place.
    pub(crate) fn wait_until_executing(&mut self, bound: &rustix::event::Timespec) -> Result<(), Failure> {
        use rustix::event::{PollFd, PollFlags, poll};
        loop {
            let progress = self.receive();
            if let Progress::Failed(failure) = progress {
                return Err(failure);
            }
            if self.executing {
                return Ok(());
            }
            match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(bound)) {
                Ok(0) => return Err(Failure::system(FailedStep::Handshake, Errno::TIMEDOUT, "")),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(Failure::system(FailedStep::Handshake, errno, "")),
            }
        }
    }

    /// Reads what a starter has reported, without waiting.
    pub(crate) fn receive_birth(&self) -> BirthReport {
        let failed = |errno| BirthReport::Failed(Failure::system(FailedStep::Handshake, errno, "clone"));
        let mut buffer = [0; LONGEST];
        let (length, descriptor) = match receive_one(&self.socket, &mut buffer) {
            Err(Errno::AGAIN | Errno::INTR) => return BirthReport::Pending,
            Err(errno) => return failed(errno),
            Ok((0, _)) => return BirthReport::Ended,
            Ok(received) => received,
        };
        match (serde_json::from_slice(&buffer[..length]), descriptor) {
            (Ok(Message::Born(pid)), Some(pidfd)) => BirthReport::Born(pid, pidfd),
            (Ok(Message::Failed(failure)), _) => BirthReport::Failed(failure),
            _ => failed(Errno::PROTO),
        }
    }

    fn ended(&self) -> Progress {
        if self.executing { Progress::Ready } else { Progress::Failed(died()) }
    }
}

/// The child ended without a word of why.
pub(crate) fn died() -> Failure {
    Failure { kind: FailureKind::Died, step: FailedStep::Prepare, errno: None, subject: String::new() }
}

/// What a message says that is more than a note.
fn progress(message: Result<Message, serde_json::Error>, descriptor: Option<OwnedFd>) -> Progress {
    match message {
        Ok(Message::Failed(failure)) => Progress::Failed(failure),
        Ok(Message::Terminal) => match descriptor {
            Some(master) => Progress::Terminal(master),
            None => broken("a terminal without its descriptor"),
        },
        Ok(Message::Waiting(halt)) => Progress::Waiting(halt),
        Ok(Message::Born(_)) => broken("a process where none is expected"),
        Ok(Message::Go) => broken("a word that is for the child"),
        Err(_) => broken("an unreadable message"),
        Ok(Message::Executing) => broken("a command that is executed twice"),
        Ok(Message::Hook(_)) => Progress::Pending,
    }
}

fn broken(what: &str) -> Progress {
    Progress::Failed(Failure {
        kind: FailureKind::System,
        step: FailedStep::Handshake,
        errno: None,
        subject: what.to_owned(),
    })
}

/// The descriptor of the next message on a socket.
pub(crate) fn receive_descriptor(socket: &OwnedFd) -> Result<Option<OwnedFd>, Errno> {
    let mut buffer = [0; LONGEST];
    receive_one(socket, &mut buffer).map(|(_, descriptor)| descriptor)
}

fn receive_one(socket: &OwnedFd, buffer: &mut [u8]) -> Result<(usize, Option<OwnedFd>), Errno> {
    let mut control = nix::cmsg_space!([RawFd; 1]);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut slices,
        Some(&mut control),
        MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT,
    )
    .map_err(to_rustix)?;
    let mut descriptor = None;
    for control in message.cmsgs().map_err(to_rustix)? {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            descriptor = descriptors.first().map(|raw| crate::sys::own(*raw));
        }
    }
    Ok((message.bytes, descriptor))
}

impl Reporter {
    pub(crate) fn send(&self, message: &Message) -> Result<(), Errno> {
        self.send_with(message, None)
    }

    pub(crate) fn send_with(
        &self,
        message: &Message,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<(), Errno> {
        let body = serde_json::to_vec(message).map_err(|_| Errno::INVAL)?;
        let raw = descriptor.map(|fd| [fd.as_raw_fd()]);
        let control: Vec<ControlMessage<'_>> = raw.iter().map(|fds| ControlMessage::ScmRights(fds)).collect();
        sendmsg::<()>(self.socket.as_raw_fd(), &[IoSlice::new(&body)], &control, MsgFlags::MSG_NOSIGNAL, None)
            .map(drop)
            .map_err(to_rustix)
    }

    /// Waits until the parent says that this process may go on.
    pub(crate) fn wait(&self, halt: Halt) -> Result<(), Failure> {
        use rustix::event::{PollFd, PollFlags, poll};
        let failed = |errno| Failure::system(FailedStep::Handshake, errno, "");
        self.send(&Message::Waiting(halt)).map_err(failed)?;
        let mut buffer = [0; 64];
        loop {
            match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(failed(errno)),
            }
            match receive_one(&self.socket, &mut buffer) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(failed(errno)),
                Ok((length, _)) => match serde_json::from_slice(&buffer[..length]) {
                    Ok(Message::Go) => return Ok(()),
                    // The parent is gone, or has given up.
                    _ => return Err(failed(Errno::PIPE)),
                },
            }
        }
    }

    /// Reports which hook runs. What is lost when it can't be sent is a name.
    pub(crate) fn hook(&self, name: Option<&str>) {
        let name = name.map(|name| {
            let mut name = name.to_owned();
            cut(&mut name);
            name
        });
        let _ = self.send(&Message::Hook(name));
    }

    /// Reports a failure; that the parent is gone is no news to a child that ends anyway.
    pub(crate) fn fail(&self, mut failure: Failure) {
        cut(&mut failure.subject);
        let _ = self.send(&Message::Failed(failure));
    }
}

/// Cuts a text so that it fits into a message.
fn cut(text: &mut String) {
    if text.len() > LONGEST / 8 {
        text.truncate((0..=LONGEST / 8).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0));
    }
}

impl AsFd for Reporter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_executes_is_ready() {
        let (mut parent, child) = pair().unwrap();
        assert!(matches!(parent.receive(), Progress::Pending));
        child.send(&Message::Executing).unwrap();
        assert!(matches!(parent.receive(), Progress::Pending), "it may still fail");
        drop(child);
        assert!(matches!(parent.receive(), Progress::Ready));
    }

    #[test]
    fn a_child_executes_once() {
        let (mut parent, child) = pair().unwrap();
        child.send(&Message::Executing).unwrap();
        child.send(&Message::Executing).unwrap();
        assert!(matches!(parent.receive(), Progress::Failed(Failure { step: FailedStep::Handshake, .. })));
    }

    #[test]
    fn a_child_that_ends_early_died() {
        let (mut parent, child) = pair().unwrap();
        drop(child);
        assert!(matches!(parent.receive(), Progress::Failed(Failure { kind: FailureKind::Died, .. })));
    }

    #[test]
    fn a_failure_after_executing_counts_and_long_subjects_fit() {
        let (mut parent, child) = pair().unwrap();
        child.send(&Message::Executing).unwrap();
        child.fail(Failure::system(FailedStep::Exec, Errno::NOENT, "\u{1f6a2}\n".repeat(5000)));
        match parent.receive() {
            Progress::Failed(failure) => {
                assert_eq!(failure.kind, FailureKind::NotFound);
                assert!(failure.subject.starts_with('\u{1f6a2}') && failure.subject.len() <= LONGEST / 8);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_child_that_waits_goes_on_when_told_to_and_ends_when_nobody_is_there() {
        let (mut parent, child) = pair().unwrap();
        let waiting = std::thread::spawn(move || (child.wait(Halt::Built), child.wait(Halt::Created)));
        let next = |parent: &mut Handshake| loop {
            match parent.receive() {
                Progress::Pending => std::thread::yield_now(),
                other => return other,
            }
        };
        assert!(matches!(next(&mut parent), Progress::Waiting(Halt::Built)));
        parent.go().unwrap();
        assert!(matches!(next(&mut parent), Progress::Waiting(Halt::Created)));
        drop(parent);
        let (first, second) = waiting.join().unwrap();
        assert_eq!(first, Ok(()));
        assert_eq!(second.unwrap_err().step, FailedStep::Handshake);
    }

    #[test]
    fn the_hook_that_runs_is_known_however_long_its_name_is() {
        let (mut parent, child) = pair().unwrap();
        for name in [Some("first"), None, Some("\u{1}".repeat(9000).as_str())] {
            child.hook(name);
            assert!(matches!(parent.receive(), Progress::Pending));
            assert_eq!(parent.hook().map(|name| &name[..1]), name.map(|name| &name[..1]));
        }
        (0..100).for_each(|_| child.hook(None));
        child.send(&Message::Waiting(Halt::Built)).unwrap();
        assert!(matches!(parent.receive(), Progress::Waiting(Halt::Built)));
        assert_eq!(parent.hook(), None);
    }

    #[test]
    fn a_terminal_comes_with_its_descriptor() {
        let (mut parent, child) = pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        child.send_with(&Message::Terminal, Some(file.as_fd())).unwrap();
        assert!(matches!(parent.receive(), Progress::Terminal(_)));
    }
}
