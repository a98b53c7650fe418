//! SPDY/3.1, the client's side: opens streams, sends, and hears what comes on each. It never speaks of windows, as Kubernetes'
//! clients don't.
//!
//! Of the header blocks that come only the length is looked at: a server has nothing to say in one.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What is read at once.
const READ: usize = 64 << 10;

/// The first two bytes of a control frame (draft 3.1, section 2.2.1).
const CONTROL: u16 = 0x8003;

/// Types of control frames (draft 3.1, section 2.6).
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const GOAWAY: u16 = 7;

/// How a compressed stream begins that has the specification's dictionary (RFC 1950, section 2.2; the draft's section 2.6.10.1).
const COMPRESSED: [u8; 6] = [0x78, 0x20, 0xe3, 0xc6, 0xa7, 0xc2];

/// Whether a direction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fin {
    /// More may come.
    No,
    /// Nothing more comes.
    Yes,
}

/// Something that came on a stream.
#[derive(Debug)]
pub struct Event {
    /// The stream.
    pub stream: u32,
    /// Its bytes, as many as were there.
    pub bytes: Bytes,
    /// Whether these are the last: the server has ended its direction, or the stream.
    pub ended: bool,
    /// Whether the server gave the stream up.
    pub reset: bool,
}

/// A connection.
pub struct Connection {
    socket: TcpStream,
    read: BytesMut,
    next_stream: u32,
    has_begun: bool,
    /// The data frame whose rest is still to come: its stream, how much, and whether it is the last.
    within: Option<(u32, usize, bool)>,
    /// What came while a reply was waited for.
    kept: std::collections::VecDeque<Event>,
}

/// What a frame means here.
enum Frame {
    Event(Event),
    Reply(u32),
    Goodbye,
    Other,
}

impl Connection {
    /// Goes to an address with the version of what is spoken over SPDY.
    ///
    /// # Errors
    /// When there is no connection, or the server refuses.
    pub async fn open(url: &str, version: &str) -> io::Result<Self> {
        let headers = [("Upgrade", "SPDY/3.1"), ("X-Stream-Protocol-Version", version)];
        let socket = super::upgrade(super::connect(url).await?, (url, "POST"), &headers).await?;
        let (read, kept) = (BytesMut::new(), std::collections::VecDeque::new());
        Ok(Self { socket, read, next_stream: 1, has_begun: false, within: None, kept })
    }

    /// Opens a stream and waits for the server's reply; gives its number.
    ///
    /// # Errors
    /// The connection's; `ConnectionRefused` when the server refuses the stream.
    pub async fn stream(&mut self, headers: &[(&str, &str)]) -> io::Result<u32> {
        let stream = self.next_stream;
        self.next_stream += 2;
        let block = self.block(headers);
        let mut frame = BytesMut::new();
        frame.put_u16(CONTROL);
        frame.put_u16(SYN_STREAM);
        frame.put_u32(u32::try_from(block.len() + 10).map_err(|_| io::ErrorKind::InvalidInput)?);
        frame.put_u32(stream);
        // No associated stream; priority and slot 0.
        frame.put_bytes(0, 6);
        frame.put(block);
        self.socket.write_all(&frame).await?;
        loop {
            match self.frame().await? {
                Some(Frame::Reply(replied)) if replied == stream => return Ok(stream),
                Some(Frame::Event(event)) if event.stream == stream && event.reset => {
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                Some(Frame::Event(event)) => self.kept.push_back(event),
                Some(Frame::Reply(_) | Frame::Other) => {}
                Some(Frame::Goodbye) | None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    /// Sends bytes on a stream, as one frame.
    ///
    /// # Errors
    /// The connection's.
    pub async fn send(&mut self, stream: u32, bytes: &[u8], fin: Fin) -> io::Result<()> {
        let mut frame = BytesMut::with_capacity(8 + bytes.len());
        frame.put_u32(stream);
        let length = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        frame.put_u32(length | if fin == Fin::Yes { 1 << 24 } else { 0 });
        frame.put_slice(bytes);
        self.socket.write_all(&frame).await
    }

    /// The next that comes on any stream; none at the connection's end. Safe to cancel.
    ///
    /// # Errors
    /// The connection's.
    pub async fn next(&mut self) -> io::Result<Option<Event>> {
        if let Some(event) = self.kept.pop_front() {
            return Ok(Some(event));
        }
        loop {
            match self.frame().await? {
                Some(Frame::Event(event)) => return Ok(Some(event)),
                Some(Frame::Reply(_) | Frame::Other) => {}
                Some(Frame::Goodbye) | None => return Ok(None),
            }
        }
    }

    async fn frame(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.parse() {
                return Ok(Some(frame));
            }
            self.read.reserve(READ);
            if self.socket.read_buf(&mut self.read).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// The next frame, or what is there of a data frame.
    fn parse(&mut self) -> Option<Frame> {
        if let Some((stream, left, fin)) = self.within.take() {
            return self.part(stream, left, fin);
        }
        let mut head: &[u8] = self.read.get(..8)?;
        let (first, second) = (head.get_u32(), head.get_u32());
        let length = (second & 0x00ff_ffff) as usize;
        if first >> 31 == 0 {
            self.read.advance(8);
            return self.part(first, length, second >> 24 & 1 == 1);
        }
        if self.read.len() < 8 + length {
            return None;
        }
        let mut frame = self.read.split_to(8 + length).freeze();
        frame.advance(8);
        let kind = first as u16;
        Some(match kind {
            SYN_REPLY if length >= 4 => Frame::Reply(frame.get_u32()),
            RST_STREAM if length >= 4 => {
                Frame::Event(Event { stream: frame.get_u32(), bytes: Bytes::new(), ended: true, reset: true })
            }
            GOAWAY => Frame::Goodbye,
            _ => Frame::Other,
        })
    }

    /// As much of a data frame as is there; none when there is nothing yet.
    fn part(&mut self, stream: u32, left: usize, fin: bool) -> Option<Frame> {
        let bytes = self.read.split_to(left.min(self.read.len())).freeze();
        let left = left - bytes.len();
        if left > 0 {
            self.within = Some((stream, left, fin));
            if bytes.is_empty() {
                return None;
            }
        }
        Some(Frame::Event(Event { stream, bytes, ended: fin && left == 0, reset: false }))
    }

    /// A header block: names and values, in a deflate block that is stored, in one stream for the whole connection.
    fn block(&mut self, headers: &[(&str, &str)]) -> BytesMut {
        let mut plain = BytesMut::new();
        plain.put_u32(headers.len() as u32);
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.put_u32(text.len() as u32);
            plain.put_slice(text.as_bytes());
        }
        let mut block = BytesMut::new();
        if !std::mem::replace(&mut self.has_begun, true) {
            block.put_slice(&COMPRESSED);
        }
        // Blocks that are stored (RFC 1951, section 3.2.4): that of the headers, and the empty one of a flush.
        for part in [plain, BytesMut::new()] {
            block.put_u8(0);
            block.put_u16_le(part.len() as u16);
            block.put_u16_le(!(part.len() as u16));
            block.put(part);
        }
        block
    }
}
