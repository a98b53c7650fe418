//! Frames over a socket, without waiting: the supervisor polls it, the daemon's executor does.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use super::frame::{FrameError, HEADER, Header, Kind, LONGEST, Place};
use super::{Message, VERSION};

/// Descriptors that one packet can carry (SCM_MAX_FD, include/net/scm.h), less one for a body in a memfd.
pub const MAX_DESCRIPTORS: usize = 252;

/// Bodies that are longer go into a memfd: a socket's buffer takes some 200 KiB by default.
const INLINE: usize = 64 << 10;

/// Connections that may wait to be accepted; there is one daemon.
const BACKLOG: i32 = 4;

/// What goes wrong on a socket.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The other side is not reading; try again when the socket is writable.
    #[error("the socket is full")]
    Full,
    /// The other side is gone.
    #[error("the connection has ended")]
    Closed,
    /// More descriptors than a packet can carry.
    #[error("{0} descriptors are more than one message can carry")]
    TooManyDescriptors(usize),
    /// The other side sent what is no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The system refused.
    #[error("cannot {0} the supervisor's socket")]
    System(&'static str, #[source] std::io::Error),
}

/// What a look at the socket gave.
#[derive(Debug)]
pub enum Received {
    /// Nothing yet.
    Pending,
    /// The other side is gone.
    Closed,
    /// A message with its descriptors.
    Message {
        /// Which request it belongs to; 0 for events.
        sequence: u64,
        /// The sender's version.
        version: u16,
        /// The message.
        message: Box<Message>,
        /// What came with it.
        descriptors: Vec<OwnedFd>,
    },
    /// A frame whose body this version does not know. A request like this is to be answered.
    Unreadable {
        /// Which request it is.
        sequence: u64,
        /// What it was.
        kind: Kind,
        /// What was not understood.
        why: String,
    },
    /// A frame of whose descriptors some didn't fit into this process, which has too many open; those that came are closed. A
    /// request like this is to be answered, and whoever waits for a reply to be told. The connection is as good as before.
    Incomplete {
        /// Which request it is.
        sequence: u64,
        /// What it was.
        kind: Kind,
    },
}

/// One end of a connection. Never blocks.
#[derive(Debug)]
pub struct Socket {
    socket: OwnedFd,
}

/// Where a supervisor is called.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Listener {
    /// Binds `directory/name` and listens. The descriptor is meant to become a supervisor's standard input.
    /// Only root of this machine can connect: the mode is 0600 below a directory that nobody else can enter.
    ///
    /// # Errors
    /// [`WireError::System`].
    pub fn bind(directory: &Path, name: &str) -> Result<Self, WireError> {
        let failed = |errno: Errno| WireError::System("listen on", errno.into());
        let socket = seqpacket().map_err(failed)?;
        let (_open, address) = address(directory, name).map_err(failed)?;
        rustix::net::bind(&socket, &address).map_err(failed)?;
        let path = directory.join(name);
        rustix::fs::chmod(&path, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        rustix::net::listen(&socket, BACKLOG).map_err(failed)?;
        Ok(Self { socket })
    }

    /// A socket that listens already: a supervisor's standard input.
    pub fn from_descriptor(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// The descriptor, to be given to a supervisor.
    pub fn into_descriptor(self) -> OwnedFd {
        self.socket
    }

    /// Takes a waiting connection, if there is one, from the user this process runs as; others are sent away.
    ///
    /// # Errors
    /// [`WireError::System`].
    pub fn accept(&self) -> Result<Option<Socket>, WireError> {
        let accepted = rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
        let socket = match accepted {
            Ok(socket) => socket,
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Ok(None),
            Err(errno) => return Err(WireError::System("accept on", errno.into())),
        };
        let peer = rustix::net::sockopt::socket_peercred(&socket);
        let peer = peer.map_err(|errno| WireError::System("ask who is on", errno.into()))?;
        let known = peer.uid.is_root() || peer.uid == rustix::process::geteuid();
        Ok(known.then_some(Socket { socket }))
    }
}

impl Socket {
    /// Connects to a supervisor at `directory/name`.
    ///
    /// # Errors
    /// [`WireError::System`]; [`WireError::Closed`] when nobody listens there.
    pub fn connect(directory: &Path, name: &str) -> Result<Self, WireError> {
        let failed = |errno: Errno| match errno {
            Errno::CONNREFUSED | Errno::NOENT => WireError::Closed,
            errno => WireError::System("connect to", errno.into()),
        };
        let socket = seqpacket().map_err(failed)?;
        let (_open, address) = address(directory, name).map_err(failed)?;
        rustix::net::connect(&socket, &address).map_err(failed)?;
        Ok(Self { socket })
    }

    /// Two ends, for tests.
    ///
    /// # Errors
    /// [`WireError::System`].
    pub fn pair() -> Result<(Self, Self), WireError> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (one, two) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(|errno| WireError::System("make", errno.into()))?;
        Ok((Self { socket: one }, Self { socket: two }))
    }

    /// The process on the other side.
    ///
    /// # Errors
    /// [`WireError::System`].
    pub fn peer(&self) -> Result<i32, WireError> {
        let peer = rustix::net::sockopt::socket_peercred(&self.socket);
        let peer = peer.map_err(|errno| WireError::System("ask who is on", errno.into()))?;
        Ok(peer.pid.as_raw_nonzero().get())
    }

    /// Sends a message. Nothing has been sent when this fails.
    ///
    /// # Errors
    /// [`WireError::Full`] to try again, [`WireError::Closed`], [`WireError::TooManyDescriptors`],
    /// [`WireError::Frame`] for a message that can't be written or is too long.
    pub fn send(
        &self,
        sequence: u64,
        message: &Message,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), WireError> {
        if descriptors.len() > MAX_DESCRIPTORS {
            return Err(WireError::TooManyDescriptors(descriptors.len()));
        }
        let body = message.encode()?;
        if body.len() > LONGEST {
            return Err(FrameError::Field("length", body.len() as u64).into());
        }
        let place = if body.len() > INLINE { Place::Memfd } else { Place::Inline };
        let header =
            Header { version: VERSION, kind: message.kind(), place, sequence, length: body.len() }.encode();
        match place {
            Place::Inline => self.send_packet(&[IoSlice::new(&header), IoSlice::new(&body)], descriptors),
            Place::Memfd => {
                let memfd = seal(&body).map_err(|errno| WireError::System("write for", errno.into()))?;
                let all: Vec<BorrowedFd<'_>> =
                    std::iter::once(memfd.as_fd()).chain(descriptors.iter().copied()).collect();
                self.send_packet(&[IoSlice::new(&header)], &all)
            }
        }
    }

    fn send_packet(&self, slices: &[IoSlice<'_>], descriptors: &[BorrowedFd<'_>]) -> Result<(), WireError> {
        let size = SendAncillaryMessage::ScmRights(descriptors).size();
        let mut space = vec![MaybeUninit::uninit(); if descriptors.is_empty() { 0 } else { size }];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(WireError::TooManyDescriptors(descriptors.len()));
        }
        match rustix::net::sendmsg(
            &self.socket,
            slices,
            &mut control,
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        ) {
            Ok(_) => Ok(()),
            // Descriptors in flight are counted (ETOOMANYREFS): they are taken when the other side reads.
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::TOOMANYREFS) => Err(WireError::Full),
            Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => Err(WireError::Closed),
            Err(errno) => Err(WireError::System("write to", errno.into())),
        }
    }

    /// Takes the next message, if there is one.
    ///
    /// # Errors
    /// [`WireError::Frame`]: the connection is of no use any more.
    pub fn receive(&self) -> Result<Received, WireError> {
        let Some(length) = self.next_length()? else { return Ok(Received::Pending) };
        if length == 0 {
            return Ok(Received::Closed);
        }
        // Exactly as much as there is: a buffer for the longest packet would cost every pod its pages.
        let mut bytes = vec![0; length];
        let Some(packet) = self.receive_packet(&mut bytes)? else { return Ok(Received::Pending) };
        let header = Header::decode(&bytes)?;
        let Packet::Whole(mut descriptors) = packet else {
            return Ok(Received::Incomplete { sequence: header.sequence, kind: header.kind });
        };
        let body = match header.place {
            Place::Inline => bytes.split_off(HEADER),
            Place::Memfd if descriptors.is_empty() => Vec::new(),
            Place::Memfd => open_sealed(&descriptors.remove(0), header.length)?,
        };
        if body.len() != header.length {
            return Err(FrameError::Length { announced: header.length, found: body.len() }.into());
        }
        let Header { sequence, version, kind, .. } = header;
        Ok(match Message::decode(kind, &body) {
            Ok(message) => Received::Message { sequence, version, message: Box::new(message), descriptors },
            Err(error) => Received::Unreadable { sequence, kind, why: error.to_string() },
        })
    }

    /// Length of the packet that is next; none when nothing is there, 0 at the end.
    fn next_length(&self) -> Result<Option<usize>, WireError> {
        let flags = RecvFlags::PEEK | RecvFlags::TRUNC | RecvFlags::DONTWAIT;
        match rustix::net::recv(&self.socket, &mut [0u8; 0], flags) {
            Ok((_, length)) => Ok(Some(length)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(Errno::CONNRESET) => Ok(Some(0)),
            Err(errno) => Err(WireError::System("read from", errno.into())),
        }
    }

    fn receive_packet(&self, bytes: &mut [u8]) -> Result<Option<Packet>, WireError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS + 1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received =
            match rustix::net::recvmsg(&self.socket, &mut [IoSliceMut::new(bytes)], &mut control, flags) {
                Ok(received) => received,
                Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
                Err(errno) => return Err(WireError::System("read from", errno.into())),
            };
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        // The bytes are all there in any case (unix(7), SCM_RIGHTS).
        let is_cut = received.flags.contains(ReturnFlags::CTRUNC);
        Ok(Some(if is_cut { Packet::Cut } else { Packet::Whole(descriptors) }))
    }
}

/// What came with the bytes of a packet.
enum Packet {
    /// All of its descriptors.
    Whole(Vec<OwnedFd>),
    /// Not all.
    Cut,
}

fn seqpacket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// The address of `directory/name`, through a descriptor of the directory: a socket's path may be 107 bytes
/// long, a state directory's longer. The descriptor has to live until the address has been used.
fn address(directory: &Path, name: &str) -> Result<(OwnedFd, SocketAddrUnix), Errno> {
    use std::os::fd::AsRawFd;
    let open = rustix::fs::openat(
        CWD,
        directory,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", open.as_raw_fd()))?;
    Ok((open, address))
}

const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

fn seal(body: &[u8]) -> Result<OwnedFd, Errno> {
    let memfd = rustix::fs::memfd_create("knarr-message", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut rest = body;
    while !rest.is_empty() {
        let written = rustix::io::write(&memfd, rest)?;
        rest = &rest[written..];
    }
    rustix::fs::fcntl_add_seals(&memfd, SEALS)?;
    Ok(memfd)
}

/// Reads a body that its sender can't change any more.
fn open_sealed(memfd: &OwnedFd, length: usize) -> Result<Vec<u8>, WireError> {
    let failed = |errno: Errno| WireError::System("read for", errno.into());
    let seals = rustix::fs::fcntl_get_seals(memfd).map_err(failed)?;
    let found = rustix::fs::fstat(memfd).map_err(failed)?.st_size;
    if !seals.contains(SEALS) || usize::try_from(found) != Ok(length) {
        return Err(FrameError::Field("memfd", u64::try_from(found).unwrap_or(0)).into());
    }
    let mut body = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match rustix::io::pread(memfd, &mut body[filled..], filled as u64).map_err(failed)? {
            0 => return Err(FrameError::Length { announced: length, found: filled }.into()),
            read => filled += read,
        }
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Event, Reply, Request};

    fn expect(socket: &Socket) -> (u64, Message, Vec<OwnedFd>) {
        match socket.receive().unwrap() {
            Received::Message { sequence, message, descriptors, .. } => (sequence, *message, descriptors),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn messages_of_every_size_arrive_with_their_descriptors() {
        let (one, two) = Socket::pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        for length in [0, 100, INLINE - 30, INLINE, 1 << 20] {
            let message = Message::Reply(Reply::Unknown { why: "x".repeat(length) });
            one.send(5, &message, &[file.as_fd(), file.as_fd()]).unwrap();
            let (sequence, received, descriptors) = expect(&two);
            assert_eq!((sequence, descriptors.len()), (5, 2));
            assert_eq!(received, message);
        }
        assert!(matches!(two.receive().unwrap(), Received::Pending));
        drop(one);
        assert!(matches!(two.receive().unwrap(), Received::Closed));
    }

    #[test]
    fn as_many_descriptors_as_a_packet_takes_and_no_more() {
        let (one, two) = Socket::pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let many = vec![file.as_fd(); MAX_DESCRIPTORS];
        one.send(1, &Message::Request(Request::Snapshot), &many).unwrap();
        assert_eq!(expect(&two).2.len(), MAX_DESCRIPTORS);
        let more = vec![file.as_fd(); MAX_DESCRIPTORS + 1];
        let refused = one.send(1, &Message::Request(Request::Snapshot), &more);
        assert!(matches!(refused, Err(WireError::TooManyDescriptors(253))));
    }

    #[test]
    fn an_unknown_request_keeps_its_number() {
        let (one, two) = Socket::pair().unwrap();
        let body = b"{\"dance\":{}}";
        let header = Header {
            version: 9,
            kind: Kind::Request,
            place: Place::Inline,
            sequence: 77,
            length: body.len(),
        };
        one.send_packet(&[IoSlice::new(&header.encode()), IoSlice::new(body)], &[]).unwrap();
        match two.receive().unwrap() {
            Received::Unreadable { sequence: 77, kind: Kind::Request, why } => {
                assert!(why.contains("dance"), "{why}")
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_body_that_could_still_change_is_refused() {
        let (one, two) = Socket::pair().unwrap();
        let memfd = rustix::fs::memfd_create("open", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::io::write(&memfd, b"\"snapshot\"").unwrap();
        let header = Header { version: 1, kind: Kind::Request, place: Place::Memfd, sequence: 1, length: 10 };
        one.send_packet(&[IoSlice::new(&header.encode())], &[memfd.as_fd()]).unwrap();
        assert!(matches!(two.receive(), Err(WireError::Frame(FrameError::Field("memfd", 10)))));
    }

    #[test]
    fn a_full_socket_says_so() {
        let (one, _two) = Socket::pair().unwrap();
        let event =
            Message::Event(Event::LogWriteFailed { container: "c".into(), path: "/l".into(), errno: 28 });
        let full = (0..100_000).map(|_| one.send(0, &event, &[])).find(Result::is_err);
        assert!(matches!(full, Some(Err(WireError::Full))));
    }

    #[test]
    fn a_supervisor_in_a_deep_directory_is_reached() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let listener = Listener::bind(&deep, "supervisor.sock").unwrap();
        assert!(listener.accept().unwrap().is_none());
        let client = Socket::connect(&deep, "supervisor.sock").unwrap();
        let server = listener.accept().unwrap().expect("a connection");
        assert_eq!(client.peer().unwrap(), std::process::id().cast_signed());
        client.send(3, &Message::Request(Request::Shutdown), &[]).unwrap();
        assert_eq!(expect(&server).1, Message::Request(Request::Shutdown));
        assert!(matches!(Socket::connect(root.path(), "none"), Err(WireError::Closed)));
    }
}
