//! A stand-in for the system bus with logind on it, as far as kubelet asks: it takes a lock against the machine's end, and
//! is told when that comes (org.freedesktop.login1(5), D-Bus Specification).

use std::io::{BufRead, BufReader, IoSlice, PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, sendmsg};

/// One that listens; it ends when dropped.
#[derive(Debug)]
pub struct Logind {
    listener: UnixListener,
    seen: Arc<Mutex<Seen>>,
}

/// Who has come, and the other ends of the locks that were given out.
#[derive(Debug, Default)]
struct Seen {
    connections: Vec<UnixStream>,
    locks: Vec<PipeReader>,
}

/// Types of messages, and fields of their headers ("Message Format").
const RETURN: u8 = 2;
const SIGNAL: u8 = 4;
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const REPLY_SERIAL: u8 = 5;
const SENDER: u8 = 7;
const SIGNATURE: u8 = 8;
const DESCRIPTORS: u8 = 9;

/// `InhibitDelayMaxUSec`: more than any kubelet of the rig asks for.
const LONGEST_DELAY: u64 = 60_000_000;

impl Logind {
    /// One that listens at a path.
    ///
    /// # Panics
    /// When it can't.
    pub(super) fn at(path: &Path) -> Self {
        let listener = UnixListener::bind(path).expect("a socket to listen at");
        let (accepting, seen) = (listener.try_clone().expect("a socket"), Arc::<Mutex<Seen>>::default());
        let all = Arc::clone(&seen);
        std::thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                let seen = Arc::clone(&all);
                // Ends with its caller.
                std::thread::spawn(move || serve(stream, &seen));
            }
        });
        Self { listener, seen }
    }

    /// Tells everybody that the machine goes down, or, after all, doesn't.
    ///
    /// # Panics
    /// When nobody listens.
    pub fn goes_down(&self, truly: bool) {
        let mut fields = Values::default();
        fields.field(PATH, "o").text("/org/freedesktop/login1");
        fields.field(INTERFACE, "s").text("org.freedesktop.login1.Manager");
        fields.field(MEMBER, "s").text("PrepareForShutdown");
        let mut body = Values::default();
        body.number(truly.into());
        let signal = message(SIGNAL, fields, ("b", body));
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let told = seen.connections.iter_mut().filter_map(|stream| stream.write_all(&signal).ok()).count();
        assert!(told > 0, "nobody listens to logind");
    }

    /// Whether everybody has given his lock back: the machine may go down.
    ///
    /// # Panics
    /// When the kernel doesn't tell.
    pub fn is_released(&self) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let is_held = |lock: &PipeReader| {
            let mut one = [PollFd::new(lock.as_fd(), PollFlags::POLLIN)];
            poll(&mut one, PollTimeout::ZERO).expect("a pipe's state") == 0
        };
        !seen.locks.is_empty() && !seen.locks.iter().any(is_held)
    }
}

impl Drop for Logind {
    fn drop(&mut self) {
        // Whoever waits in accept(2) is woken by this.
        let _ = rustix::net::shutdown(&self.listener, Shutdown::Both);
    }
}

/// Answers a caller until he hangs up.
fn serve(stream: UnixStream, seen: &Mutex<Seen>) {
    let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
    if greet(&mut reader, &stream).is_err() {
        return;
    }
    let kept = stream.try_clone().expect("a socket");
    seen.lock().unwrap_or_else(PoisonError::into_inner).connections.push(kept);
    while let Ok((serial, member)) = next_call(&mut reader) {
        if answer(&stream, seen, (serial, &member)).is_err() {
            return;
        }
    }
}

/// The talk before the first message: who it is doesn't matter, descriptors can be passed.
fn greet(reader: &mut impl BufRead, mut stream: &UnixStream) -> std::io::Result<()> {
    reader.read_exact(&mut [0])?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let answer: &[u8] = match line.trim_end() {
            "AUTH" => b"REJECTED EXTERNAL\r\n",
            "NEGOTIATE_UNIX_FD" => b"AGREE_UNIX_FD\r\n",
            "BEGIN" => return Ok(()),
            line if line.starts_with("AUTH EXTERNAL") => b"OK 00000000000000000000000000000001\r\n",
            _ => return Err(std::io::ErrorKind::InvalidData.into()),
        };
        stream.write_all(answer)?;
    }
}

/// Reads a call: its number and its method.
fn next_call(reader: &mut impl Read) -> std::io::Result<(u32, String)> {
    let mut preamble = [0; 16];
    reader.read_exact(&mut preamble)?;
    let number = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| preamble[at + byte]));
    let (body, serial, fields) = (number(4) as usize, number(8), number(12) as usize);
    let mut rest = vec![0; fields.next_multiple_of(8) + body];
    reader.read_exact(&mut rest)?;
    Ok((serial, member(&rest[..fields])))
}

/// The method among the fields of a header, all of which are texts but for the types of the values.
fn member(fields: &[u8]) -> String {
    let mut at = 0;
    while at + 8 <= fields.len() {
        let (field, is_types) = (fields[at], fields[at + 2] == b'g');
        let (from, length) =
            if is_types { (at + 5, fields[at + 4].into()) } else { (at + 8, usize::from(fields[at + 4])) };
        if field == MEMBER {
            return String::from_utf8_lossy(&fields[from..from + length]).into_owned();
        }
        at = (from + length + 1).next_multiple_of(8);
    }
    String::new()
}

fn answer(stream: &UnixStream, seen: &Mutex<Seen>, (serial, member): (u32, &str)) -> std::io::Result<()> {
    let mut fields = Values::default();
    fields.field(REPLY_SERIAL, "u").number(serial);
    fields.field(SENDER, "s").text("org.freedesktop.login1");
    let mut body = Values::default();
    let mut lock = None;
    let types = match member {
        "Hello" => {
            body.text(":1.7");
            "s"
        }
        // The property is the only one that is asked for.
        "Get" => {
            body.types("t");
            body.long(LONGEST_DELAY);
            "v"
        }
        "Inhibit" => {
            fields.field(DESCRIPTORS, "u").number(1);
            body.number(0);
            let (ours, theirs) = std::io::pipe()?;
            seen.lock().unwrap_or_else(PoisonError::into_inner).locks.push(ours);
            lock = Some(theirs);
            "h"
        }
        _ => "",
    };
    let descriptors: Vec<_> = lock.iter().map(AsFd::as_fd).collect();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        beside.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    let bytes = message(RETURN, fields, (types, body));
    sendmsg(stream, &[IoSlice::new(&bytes)], &mut beside, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// A whole message.
fn message(kind: u8, mut fields: Values, (types, body): (&str, Values)) -> Vec<u8> {
    if !types.is_empty() {
        fields.field(SIGNATURE, "g").types(types);
    }
    let mut bytes = vec![b'l', kind, 0, 1];
    // Nobody answers to what is sent: the numbers may be the same.
    for number in [body.0.len(), 1, fields.0.len()] {
        bytes.extend(u32::try_from(number).expect("a short message").to_le_bytes());
    }
    bytes.extend(fields.0);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes.extend(body.0);
    bytes
}

/// Values one after the other, each at its alignment ("Marshaling").
#[derive(Default)]
struct Values(Vec<u8>);

impl Values {
    /// Begins a field of a header: its value follows.
    fn field(&mut self, field: u8, kind: &str) -> &mut Self {
        self.align(8);
        self.0.push(field);
        self.types(kind);
        self
    }

    fn types(&mut self, types: &str) {
        self.0.push(u8::try_from(types.len()).expect("few types"));
        self.0.extend(types.bytes());
        self.0.push(0);
    }

    fn number(&mut self, number: u32) {
        self.align(4);
        self.0.extend(number.to_le_bytes());
    }

    fn long(&mut self, number: u64) {
        self.align(8);
        self.0.extend(number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(u32::try_from(text.len()).expect("a short text"));
        self.0.extend(text.bytes());
        self.0.push(0);
    }

    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }
}
