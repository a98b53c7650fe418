//! Netlink: messages with their nested attributes, and a socket to send them by (RFC 3549; linux/netlink.h).
//!
//! The kernel serves a request while it is sent, so that the answer is there when the send returns: everything here is
//! synchronous and waits for nothing. What is asked for is `link`'s affair (rtnetlink) and `nft`'s (nfnetlink).

use std::io;
use std::ops::{ControlFlow, RangeInclusive};
use std::os::fd::OwnedFd;

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{set_socket_send_buffer_size_force, socket_send_buffer_size};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};

/// Message types of the protocol itself.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// Flags of a request.
pub(super) const REQUEST: u16 = 0x1;
pub(super) const ACK: u16 = 0x4;
pub(super) const DUMP: u16 = 0x300;
/// Of an answer: what is listed has changed since the list was begun (linux/netlink.h, `NLM_F_DUMP_INTR`).
const DUMP_INTR: u16 = 0x10;
/// How often a list is asked for until it is of one moment. Lists are read in less time than a link takes to come or go.
const DUMPS: usize = 100;
pub(super) const EXCL: u16 = 0x200;
pub(super) const CREATE: u16 = 0x400;
pub(super) const APPEND: u16 = 0x800;

/// Marks an attribute that holds attributes.
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;
/// The length of a message's header and of an attribute's.
const HEADER: usize = 16;
const ATTRIBUTE: usize = 4;
/// The kernel never sends more at once.
const RECEIVE: usize = 64 << 10;
/// What a socket takes at once however the host is set up (net/core/sock.c, `SOCK_MIN_SNDBUF`).
const SEND: usize = 4 << 10;
/// What the kernel counts beside the bytes of a message (net/netlink/af_netlink.c, `netlink_sendmsg`).
const OVERHEAD: usize = 32;

/// Attributes being written, each aligned to four bytes.
#[derive(Debug, Default, Clone)]
pub(super) struct Attributes {
    bytes: Vec<u8>,
}

impl Attributes {
    /// How many bytes there are so far.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Adds an attribute of raw bytes.
    pub(super) fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.bytes.extend(length(ATTRIBUTE + value.len()).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// Adds a number in the machine's byte order, as rtnetlink has them.
    pub(super) fn put_u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// Adds a number in network byte order, as nfnetlink has them.
    pub(super) fn put_be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// Adds a string with its NUL.
    pub(super) fn put_str(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes)
    }

    /// Adds an attribute that holds others, after some raw bytes.
    pub(super) fn nest_after(
        &mut self,
        kind: u16,
        head: &[u8],
        fill: impl FnOnce(&mut Attributes),
    ) -> &mut Self {
        let mut inner = Attributes { bytes: head.to_vec() };
        fill(&mut inner);
        self.put(kind | NESTED, &inner.bytes)
    }

    /// Adds an attribute that holds others.
    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes)) -> &mut Self {
        self.nest_after(kind, &[], fill)
    }

    /// Adds attributes that are encoded already, below one.
    pub(super) fn put_nested(&mut self, kind: u16, inner: &Attributes) -> &mut Self {
        self.put(kind | NESTED, &inner.bytes)
    }
}

/// A request.
#[derive(Debug, Clone)]
pub(super) struct Message {
    kind: u16,
    flags: u16,
    /// The family's own header.
    head: Vec<u8>,
    /// What follows it.
    pub(super) attributes: Attributes,
}

impl Message {
    /// A request of that type with the family's header; `REQUEST` is added to the flags.
    pub(super) fn new(kind: u16, flags: u16, head: &[u8]) -> Message {
        Message { kind, flags: flags | REQUEST, head: head.to_vec(), attributes: Attributes::default() }
    }

    /// The same with an answer asked for.
    pub(super) fn acknowledged(mut self) -> Message {
        self.flags |= ACK;
        self
    }

    fn encode(&self, sequence: u32, into: &mut Vec<u8>) {
        let size = HEADER + self.head.len() + self.attributes.bytes.len();
        into.extend(u32::try_from(size).unwrap_or(u32::MAX).to_ne_bytes());
        into.extend(self.kind.to_ne_bytes());
        into.extend(self.flags.to_ne_bytes());
        into.extend(sequence.to_ne_bytes());
        into.extend(0u32.to_ne_bytes());
        into.extend(&self.head);
        into.extend(&self.attributes.bytes);
    }
}

/// Attributes that are longer than their length field don't come from here: names and addresses are bounded.
fn length(size: usize) -> u16 {
    u16::try_from(size).unwrap_or(u16::MAX)
}

/// A failed request: which of those sent, and why.
#[derive(Debug)]
pub(super) struct Refused {
    /// The index of the message among those sent together.
    pub(super) index: usize,
    /// The kernel's errno, or what befell the socket.
    pub(super) source: io::Error,
}

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> io::Error {
        refused.source
    }
}

/// A netlink socket in the network namespace that its thread was in when it was opened.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    /// Whether among the last answers were some of a list that changed meanwhile.
    is_torn: bool,
}

impl Socket {
    /// For links, addresses and routes.
    pub(super) fn route() -> io::Result<Socket> {
        // NETLINK_ROUTE is number 0, the family's default.
        Socket::open(None)
    }

    /// For nftables.
    pub(super) fn netfilter() -> io::Result<Socket> {
        Socket::open(Some(netlink::NETFILTER))
    }

    /// For a protocol of netlink's; its number 0 is `None`.
    pub(super) fn open(protocol: Option<Protocol>) -> io::Result<Socket> {
        let (family, flags) = (AddressFamily::NETLINK, SocketFlags::CLOEXEC);
        let fd = socket_with(family, SocketType::RAW, flags, protocol)?;
        bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        Ok(Socket { fd, sequence: 0, is_torn: false })
    }

    /// Sends one request and returns the answers to it, without their headers. A list is asked for again until it is of one
    /// moment; [`io::ErrorKind::Interrupted`] if it never is.
    pub(super) fn request(&mut self, message: Message) -> io::Result<Vec<Vec<u8>>> {
        let message = if message.flags & DUMP == DUMP { message } else { message.acknowledged() };
        let message = [message];
        for _ in 0..DUMPS {
            let answers = self.exchange(&message).map_err(io::Error::from)?;
            if !self.is_torn {
                return Ok(answers);
            }
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    /// Sends the request for a list and hands on its entries as they come, until that is enough: for lists that may be long. One that
    /// changes meanwhile is told as it is found. The socket is of no use afterwards, as a list not read to its end is in the way.
    pub(super) fn stream(
        mut self,
        list: Message,
        mut each: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> io::Result<()> {
        Ok(self.exchange_until(&[list], 0, &mut each)?)
    }

    /// Sends requests at once. Each is carried out whether an earlier one fails or not; the first failure is returned.
    pub(super) fn request_all(&mut self, messages: Vec<Message>) -> Result<(), Refused> {
        let messages: Vec<Message> = messages.into_iter().map(Message::acknowledged).collect();
        self.exchange(&messages).map(drop)
    }

    /// Sends messages at once, of which the last asks for an acknowledgement (or is a dump).
    fn exchange(&mut self, messages: &[Message]) -> Result<Vec<Vec<u8>>, Refused> {
        let mut answers = Vec::new();
        self.exchange_until(messages, messages.len().saturating_sub(1), &mut |answer| {
            answers.push(answer.to_vec());
            ControlFlow::Continue(())
        })?;
        Ok(answers)
    }

    /// Sends messages at once, of which the one of that index is the last to be answered, and hands on the answers, until that
    /// is enough.
    pub(super) fn exchange_until(
        &mut self,
        messages: &[Message],
        last: usize,
        each: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), Refused> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(512);
        for message in messages {
            self.sequence = self.sequence.wrapping_add(1);
            message.encode(self.sequence, &mut bytes);
        }
        self.send(&bytes).map_err(|source| Refused { index: 0, source })?;
        let last = first.wrapping_add(u32::try_from(last).unwrap_or(u32::MAX));
        self.answers(first..=last, each)
    }

    /// Sends all of it at once, however much that is.
    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        // A batch can't be sent in pieces. Beyond `net.core.wmem_max`, too: the kernel has read it when the call returns.
        let size = bytes.len() + OVERHEAD;
        if size > SEND && size > socket_send_buffer_size(&self.fd)? {
            set_socket_send_buffer_size_force(&self.fd, size)?;
        }
        sendto(&self.fd, bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        #[cfg(test)]
        spent::count(&spent::REQUESTS);
        Ok(())
    }

    fn answers(
        &mut self,
        sequences: RangeInclusive<u32>,
        each: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), Refused> {
        let (first, last) = sequences.into_inner();
        let mut refused: Option<Refused> = None;
        self.is_torn = false;
        let mut buffer = vec![0; RECEIVE];
        loop {
            let received = match recv(&self.fd, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((received, _)) => received,
                Err(rustix::io::Errno::INTR) => continue,
                // Nothing more, though the end hasn't been seen: a batch that broke off says so by its error alone.
                Err(error) => return Err(refused.unwrap_or(Refused { index: 0, source: error.into() })),
            };
            #[cfg(test)]
            spent::count(&spent::RECEIPTS);
            for answer in split(&buffer[..received]) {
                // What an earlier request left unread.
                let Some(index) = index_of(answer.sequence, first, self.sequence) else { continue };
                let last = answer.sequence == last;
                self.is_torn |= answer.flags & DUMP_INTR != 0;
                match answer.kind {
                    NLMSG_ERROR => {
                        if let Some(source) = answer.errno() {
                            refused.get_or_insert(Refused { index, source });
                        }
                        if last {
                            return refused.map_or(Ok(()), Err);
                        }
                    }
                    NLMSG_DONE if last => return refused.map_or(Ok(()), Err),
                    NLMSG_DONE => {}
                    _ => {
                        if each(answer.payload).is_break() {
                            return Ok(());
                        }
                    }
                }
            }
        }
    }
}

fn index_of(sequence: u32, first: u32, last: u32) -> Option<usize> {
    let (index, count) = (sequence.wrapping_sub(first), last.wrapping_sub(first));
    (index <= count).then(|| usize::try_from(index).unwrap_or(0))
}

struct Answer<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

impl Answer<'_> {
    /// The error of an acknowledgement; `None` for success.
    fn errno(&self) -> Option<io::Error> {
        let number = i32::from_ne_bytes(*self.payload.first_chunk()?);
        (number != 0).then(|| io::Error::from_raw_os_error(-number))
    }
}

fn split(mut bytes: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let size = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let payload = bytes.get(HEADER..size)?;
        let (kind, flags) = (u16_at(bytes, 4)?, u16_at(bytes, 6)?);
        let answer = Answer { kind, flags, sequence: u32_at(bytes, 8)?, payload };
        bytes = bytes.get(size.next_multiple_of(4)..).unwrap_or_default();
        Some(answer)
    })
}

/// The attributes in an answer, after the family's header of that size.
pub(super) fn attributes(bytes: &[u8], after: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut bytes = bytes.get(after..).unwrap_or_default();
    std::iter::from_fn(move || {
        let size = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & TYPE_MASK;
        let value = bytes.get(ATTRIBUTE..size)?;
        bytes = bytes.get(size.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// One attribute of an answer.
pub(super) fn attribute(bytes: &[u8], after: usize, kind: u16) -> Option<&[u8]> {
    attributes(bytes, after).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// What a thread's sockets have cost so far.
#[cfg(test)]
pub(super) mod spent {
    use std::cell::Cell;
    use std::thread::LocalKey;

    thread_local! {
        pub(super) static REQUESTS: Cell<usize> = const { Cell::new(0) };
        pub(super) static RECEIPTS: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn count(what: &'static LocalKey<Cell<usize>>) {
        what.set(what.get() + 1);
    }

    /// How often something was sent to the kernel, and received from it, for that work.
    pub(in crate::builtin) fn by<T>(work: impl FnOnce() -> T) -> (usize, usize) {
        let before = (REQUESTS.get(), RECEIPTS.get());
        work();
        (REQUESTS.get() - before.0, RECEIPTS.get() - before.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_aligned_and_nested() {
        let mut outer = Attributes::default();
        outer.put_str(3, "ab").nest(18, |inner| {
            inner.put_u32(1, 7);
        });
        let mut found = attributes(&outer.bytes, 0);
        assert_eq!(found.next(), Some((3, &b"ab\0"[..])));
        let (kind, inner) = found.next().unwrap();
        assert_eq!(kind, 18);
        assert_eq!(attribute(inner, 0, 1), Some(&7u32.to_ne_bytes()[..]));
        assert_eq!(found.next(), None);
        assert_eq!(outer.bytes.len(), 8 + 4 + 8);
    }

    #[test]
    fn broken_answers_end_the_reading() {
        assert_eq!(split(&[1, 2, 3]).count(), 0);
        let mut short = Vec::new();
        Message::new(1, 0, &[]).encode(5, &mut short);
        short[0] = 200;
        assert_eq!(split(&short).count(), 0);
        short[0] = 3;
        assert_eq!(split(&short).count(), 0);
        assert_eq!(attributes(&[0, 0, 1, 0], 0).count(), 0);
    }

    /// The other end of a pair of sockets plays the kernel, which has answered before it is asked.
    #[test]
    fn a_list_that_changed_meanwhile_is_asked_for_again() {
        let (fd, kernel) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .unwrap();
        let answer = |sequence, flags, entry: u8| {
            let mut bytes = Vec::new();
            Message::new(1, 2 | flags, &[entry; 4]).encode(sequence, &mut bytes);
            Message::new(NLMSG_DONE, 2, &[0; 4]).encode(sequence, &mut bytes);
            rustix::net::send(&kernel, &bytes, SendFlags::empty()).unwrap();
        };
        answer(1, DUMP_INTR, 7);
        answer(2, 0, 8);
        let mut socket = Socket { fd, sequence: 0, is_torn: false };
        let list = || Message::new(1, DUMP, &[]);
        assert_eq!(socket.request(list()).unwrap(), [[8; 4]]);
        for sequence in 3..u32::try_from(3 + DUMPS).unwrap() {
            answer(sequence, DUMP_INTR, 9);
        }
        assert_eq!(socket.request(list()).unwrap_err().kind(), io::ErrorKind::Interrupted);
    }

    #[test]
    fn an_answer_is_matched_to_its_request() {
        assert_eq!(index_of(7, 5, 9), Some(2));
        assert_eq!(index_of(4, 5, 9), None);
        assert_eq!(index_of(10, 5, 9), None);
        assert_eq!(index_of(0, u32::MAX, 1), Some(1));
    }
}
