//! Netlink: a socket by which messages are sent and answered (RFC 3549; linux/netlink.h). `message` writes and reads them, `kept` keeps sockets.
//!
//! The kernel serves a request while it is sent, so that the answer is there when the send returns: everything here is
//! synchronous and waits for nothing. What is asked for is `link`'s affair (rtnetlink) and `nft`'s (nfnetlink).

mod kept;
mod message;

use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{set_socket_send_buffer_size_force, socket_send_buffer_size};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};

use self::kept::Line;
use self::message::split;
pub(super) use self::message::{
    APPEND, Attributes, CREATE, DUMP, EXCL, Message, attribute, attributes, u16_at, u32_at,
};

/// Message types of the protocol itself.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// Of an answer: what is listed has changed since the list was begun (linux/netlink.h, `NLM_F_DUMP_INTR`).
const DUMP_INTR: u16 = 0x10;
/// How often a list is asked for until it is of one moment. Lists are read in less time than a link takes to come or go.
const DUMPS: usize = 100;
/// The kernel never sends more at once.
const RECEIVE: usize = 64 << 10;
/// What a socket takes at once however the host is set up (net/core/sock.c, `SOCK_MIN_SNDBUF`).
const SEND: usize = 4 << 10;
/// What the kernel counts beside the bytes of a message (net/netlink/af_netlink.c, `netlink_sendmsg`).
const OVERHEAD: usize = 32;

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
    line: Arc<Line>,
    /// Whether among the last answers were some of a list that changed meanwhile.
    is_torn: bool,
}

impl Socket {
    /// For links, addresses and routes.
    pub(super) fn route() -> io::Result<Socket> {
        // NETLINK_ROUTE is number 0, the family's default.
        Socket::open(None)
    }

    /// For nftables and conntrack; the thread keeps it.
    pub(super) fn netfilter() -> io::Result<Socket> {
        let line = kept::line(|| bound(Some(netlink::NETFILTER)))?;
        Ok(Socket { line, is_torn: false })
    }

    /// The same for who keeps it, and has it closed in the end.
    pub(super) fn netfilter_to_keep() -> io::Result<Socket> {
        Socket::open(Some(netlink::NETFILTER))
    }

    /// For a protocol of netlink's; its number 0 is `None`.
    pub(super) fn open(protocol: Option<Protocol>) -> io::Result<Socket> {
        Ok(Socket { line: Line::new(bound(protocol)?), is_torn: false })
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
    /// changes meanwhile is told as it is found. A socket whose list isn't read to its end is of no use any more.
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
        let before = self.line.sequence.load(Ordering::Relaxed);
        let mut sequence = before;
        let mut bytes = Vec::with_capacity(512);
        for message in messages {
            sequence = sequence.wrapping_add(1);
            message.encode(sequence, &mut bytes);
        }
        self.line.sequence.store(sequence, Ordering::Relaxed);
        self.send(&bytes).map_err(|source| Refused { index: 0, source })?;
        let first = before.wrapping_add(1);
        let sequences = Sequences { first, last: sequence, answered: first.wrapping_add(size(last)) };
        self.answers(&sequences, each)
    }

    /// Sends all of it at once, however much that is.
    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        // A batch can't be sent in pieces. Beyond `net.core.wmem_max`, too: the kernel has read it when the call returns.
        let size = bytes.len() + OVERHEAD;
        if size > SEND && size > socket_send_buffer_size(&self.line.fd)? {
            set_socket_send_buffer_size_force(&self.line.fd, size)?;
        }
        sendto(&self.line.fd, bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        #[cfg(test)]
        spent::sent();
        Ok(())
    }

    fn answers(
        &mut self,
        sequences: &Sequences,
        each: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), Refused> {
        let mut refused: Option<Refused> = None;
        self.is_torn = false;
        let mut buffer = vec![0; RECEIVE];
        loop {
            let received = match recv(&self.line.fd, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((received, _)) => received,
                Err(rustix::io::Errno::INTR) => continue,
                // Nothing more, though the end hasn't been seen: a batch that broke off says so by its error alone.
                Err(error) => {
                    return Err(refused.unwrap_or_else(|| {
                        kept::give_up(&self.line);
                        Refused { index: 0, source: error.into() }
                    }));
                }
            };
            #[cfg(test)]
            spent::count(&spent::RECEIPTS);
            for answer in split(&buffer[..received]) {
                // What an earlier request left unread.
                let Some(index) = sequences.index_of(answer.sequence) else { continue };
                let last = answer.sequence == sequences.answered;
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
                            kept::give_up(&self.line);
                            return Ok(());
                        }
                    }
                }
            }
        }
    }
}

/// The numbers of requests that were sent at once.
struct Sequences {
    first: u32,
    last: u32,
    /// Of the last one that is answered.
    answered: u32,
}

impl Sequences {
    /// Which of them an answer is to; `None` for what an earlier request left unread.
    fn index_of(&self, sequence: u32) -> Option<usize> {
        let (index, count) = (sequence.wrapping_sub(self.first), self.last.wrapping_sub(self.first));
        (index <= count).then(|| usize::try_from(index).unwrap_or(0))
    }
}

fn size(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn bound(protocol: Option<Protocol>) -> io::Result<OwnedFd> {
    let (family, flags) = (AddressFamily::NETLINK, SocketFlags::CLOEXEC);
    let fd = socket_with(family, SocketType::RAW, flags, protocol)?;
    bind(&fd, &SocketAddrNetlink::new(0, 0))?;
    Ok(fd)
}

/// What a thread's sockets have cost so far.
#[cfg(test)]
pub(super) mod spent {
    use std::cell::{Cell, RefCell};
    use std::thread::LocalKey;

    thread_local! {
        pub(super) static REQUESTS: Cell<usize> = const { Cell::new(0) };
        pub(super) static RECEIPTS: Cell<usize> = const { Cell::new(0) };
    }

    thread_local! {
        static BETWEEN: RefCell<Option<Box<dyn FnMut()>>> = const { RefCell::new(None) };
    }

    pub(super) fn count(what: &'static LocalKey<Cell<usize>>) {
        what.set(what.get() + 1);
    }

    pub(super) fn sent() {
        count(&REQUESTS);
        BETWEEN.with_borrow_mut(|between| between.iter_mut().for_each(|between| between()));
    }

    /// Has something done after each request of that work; it may ask the kernel for nothing on the same thread.
    pub(in crate::builtin) fn with<T>(between: impl FnMut() + 'static, work: impl FnOnce() -> T) -> T {
        BETWEEN.set(Some(Box::new(between)));
        let done = work();
        BETWEEN.set(None);
        done
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
    use crate::builtin::tables::netns::{on_own_host, sh};

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
        let mut socket = Socket { line: Line::new(fd), is_torn: false };
        let list = || Message::new(1, DUMP, &[]);
        assert_eq!(socket.request(list()).unwrap(), [[8; 4]]);
        for sequence in 3..u32::try_from(3 + DUMPS).unwrap() {
            answer(sequence, DUMP_INTR, 9);
        }
        assert_eq!(socket.request(list()).unwrap_err().kind(), io::ErrorKind::Interrupted);
    }

    #[test]
    fn a_netfilter_socket_serves_its_thread_again_unless_a_list_is_left_in_it() {
        on_own_host(|| async {
            sh("nft add table ip one; nft add table ip two");
            // nftables: the list of tables.
            let list = || Message::new(10 << 8 | 1, DUMP, &[0; 4]);
            let stream = |outcome| {
                let (socket, mut listed) = (Socket::netfilter().unwrap(), 0);
                let line = Arc::downgrade(&socket.line);
                let each = |_: &[u8]| {
                    listed += 1;
                    outcome
                };
                socket.stream(list(), each).unwrap();
                (line, listed)
            };
            let (first, listed) = stream(ControlFlow::Continue(()));
            assert_eq!(listed, 2);
            let again = Socket::netfilter().unwrap();
            assert!(Arc::ptr_eq(&first.upgrade().unwrap(), &again.line));
            assert!(!Arc::ptr_eq(&again.line, &Socket::netfilter().unwrap().line), "it is in use");
            drop(again);
            let (broken_off, listed) = stream(ControlFlow::Break(()));
            assert_eq!((listed, broken_off.upgrade().is_some()), (1, false));
            assert_eq!(stream(ControlFlow::Continue(())).1, 2);
        });
    }

    #[test]
    fn an_answer_is_matched_to_its_request() {
        let index_of = |sequence, first, last| Sequences { first, last, answered: last }.index_of(sequence);
        assert_eq!(index_of(7, 5, 9), Some(2));
        assert_eq!(index_of(4, 5, 9), None);
        assert_eq!(index_of(10, 5, 9), None);
        assert_eq!(index_of(0, u32::MAX, 1), Some(1));
    }
}
