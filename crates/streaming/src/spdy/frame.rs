//! Frames: from bytes and to bytes (draft 3.1, sections 2.2 and 2.6). Pure; nothing here waits or keeps more than its limit.
//!
//! Not here: what is in header blocks ([`super::headers`]), what frames mean (`state`).

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::Error;

/// Bytes before the payload of any frame.
pub const HEAD: usize = 8;

/// The version in control frames: SPDY/3.1 says 3.
const VERSION: u16 = 3;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

const FLAG_FIN: u8 = 1;
const FLAG_UNIDIRECTIONAL: u8 = 2;

/// Stream numbers have 31 bits.
const STREAM_MASK: u32 = 0x7fff_ffff;
/// Lengths have 24.
const LENGTH_MASK: u32 = 0x00ff_ffff;

/// What bytes turn out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A whole control frame.
    Control(Control),
    /// A part of a data frame.
    Data {
        /// Whose.
        stream: u32,
        /// The part; empty only when the frame is.
        bytes: BytesMut,
        /// Whether the sender has ended its direction with this part.
        fin: bool,
    },
}

/// A control frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// Opens a stream.
    SynStream {
        /// Its number.
        stream: u32,
        /// Whether the sender sends nothing on it.
        fin: bool,
        /// Whether the receiver is to send nothing on it.
        unidirectional: bool,
        /// The header block.
        block: Bytes,
    },
    /// Accepts one.
    SynReply {
        /// Which.
        stream: u32,
        /// Whether the sender sends nothing on it.
        fin: bool,
        /// The header block.
        block: Bytes,
    },
    /// Ends one at once.
    RstStream {
        /// Which.
        stream: u32,
        /// Why, see [`Reset`].
        status: u32,
    },
    /// Tells of the sender; pairs of number and value.
    Settings(Vec<(u32, u32)>),
    /// Is sent back by the other side.
    Ping(u32),
    /// The sender takes no more streams.
    GoAway {
        /// The last that it took.
        last: u32,
        /// Why, see [`GoAwayStatus`].
        status: u32,
    },
    /// More headers of a stream.
    Headers {
        /// Whose.
        stream: u32,
        /// Whether the sender has ended its direction with this.
        fin: bool,
        /// The header block.
        block: Bytes,
    },
    /// Room for so many bytes more.
    WindowUpdate {
        /// In which stream; 0 for the connection.
        stream: u32,
        /// How many.
        delta: u32,
    },
    /// A type that is to be ignored.
    Unknown(u16),
}

/// Why a stream is reset (draft 3.1, section 2.6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Reset {
    /// There is no such stream.
    InvalidStream = 2,
    /// It isn't taken, and nothing was done with it.
    RefusedStream = 3,
    /// It isn't wanted any longer.
    Cancel = 5,
    /// Its window is broken.
    FlowControlError = 7,
}

/// Why a connection ends (draft 3.1, section 2.6.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum GoAwayStatus {
    /// It is done.
    Ok = 0,
    /// The peer broke the rules.
    ProtocolError = 1,
}

/// The number of a setting that says what a stream's window begins with (draft 3.1, section 2.6.4).
pub const SETTING_INITIAL_WINDOW: u32 = 7;

/// Finds frames in bytes.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    /// The data frame that is under way, and how many of its bytes are to come.
    data: Option<(DataHead, usize)>,
}

#[derive(Debug, Clone, Copy)]
struct DataHead {
    stream: u32,
    fin: bool,
}

impl Decoder {
    /// With so many bytes allowed to the payload of a control frame.
    pub fn new(limit: usize) -> Self {
        Self { limit, data: None }
    }

    /// Takes the next frame, or part of a data frame, off the buffer; nothing when it takes more bytes. The buffer never needs
    /// to hold more than the limit and [`HEAD`].
    ///
    /// # Errors
    /// [`Error`] when this isn't SPDY or a frame is too long; the latter as soon as it is announced.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Event>, Error> {
        if let Some((head, left)) = self.data.take() {
            return Ok(self.data_part(head, left, buffer));
        }
        let Some((head, _)) = buffer.split_first_chunk::<HEAD>() else { return Ok(None) };
        let [a, b, c, d, flags, lengths @ ..] = *head;
        let first = u32::from_be_bytes([a, b, c, d]);
        let length = u32::from_be_bytes([0, lengths[0], lengths[1], lengths[2]]) as usize;
        if first & !STREAM_MASK == 0 {
            buffer.advance(HEAD);
            let head = DataHead { stream: first, fin: flags & FLAG_FIN != 0 };
            return Ok(self.data_part(head, length, buffer));
        }
        let kind = u16::from_be_bytes([c, d]);
        let version = u16::from_be_bytes([a & 0x7f, b]);
        if version != VERSION {
            return Err(Error::Version(version));
        }
        if length > self.limit {
            return Err(Error::TooLong { kind, length, limit: self.limit });
        }
        if buffer.len() < HEAD + length {
            return Ok(None);
        }
        buffer.advance(HEAD);
        // A copy: it must not keep the whole read buffer alive.
        let payload = Bytes::copy_from_slice(&buffer.split_to(length));
        control(kind, flags, payload).map(|frame| Some(Event::Control(frame)))
    }

    fn data_part(&mut self, head: DataHead, left: usize, buffer: &mut BytesMut) -> Option<Event> {
        let bytes = buffer.split_to(left.min(buffer.len()));
        let left = left - bytes.len();
        if left > 0 {
            self.data = Some((head, left));
            if bytes.is_empty() {
                return None;
            }
        }
        Some(Event::Data { stream: head.stream, bytes, fin: head.fin && left == 0 })
    }
}

/// Reads a control frame's payload.
fn control(kind: u16, flags: u8, mut payload: Bytes) -> Result<Control, Error> {
    let fin = flags & FLAG_FIN != 0;
    let malformed = |why| Error::Malformed { kind, why };
    let mut number = || payload.try_get_u32().map_err(|_| malformed("too short"));
    let frame = match kind {
        SYN_STREAM => {
            let stream = number()? & STREAM_MASK;
            number()?; // the stream that it belongs to: nobody sets it
            payload.try_get_u16().map_err(|_| malformed("too short"))?; // priority and slot: likewise
            let unidirectional = flags & FLAG_UNIDIRECTIONAL != 0;
            return Ok(Control::SynStream { stream, fin, unidirectional, block: payload });
        }
        SYN_REPLY => return Ok(Control::SynReply { stream: number()? & STREAM_MASK, fin, block: payload }),
        HEADERS => return Ok(Control::Headers { stream: number()? & STREAM_MASK, fin, block: payload }),
        RST_STREAM => Control::RstStream { stream: number()? & STREAM_MASK, status: number()? },
        SETTINGS => {
            let count = number()? as usize;
            if payload.len() != count.saturating_mul(8) {
                return Err(malformed("not as long as it says"));
            }
            let pair = |pair: &[u8]| {
                let mut pair = pair;
                (pair.get_u32() & LENGTH_MASK, pair.get_u32())
            };
            return Ok(Control::Settings(payload.chunks_exact(8).map(pair).collect()));
        }
        PING => Control::Ping(number()?),
        GOAWAY => Control::GoAway { last: number()? & STREAM_MASK, status: number()? },
        WINDOW_UPDATE => {
            Control::WindowUpdate { stream: number()? & STREAM_MASK, delta: number()? & STREAM_MASK }
        }
        other => return Ok(Control::Unknown(other)),
    };
    if payload.is_empty() { Ok(frame) } else { Err(malformed("too long")) }
}

impl Control {
    /// Appends the frame.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::SynStream { stream, fin, unidirectional, block } => {
                let flags = flag(*fin, FLAG_FIN) | flag(*unidirectional, FLAG_UNIDIRECTIONAL);
                head(SYN_STREAM, flags, 10 + block.len(), out);
                out.put_u32(*stream);
                out.put_u32(0);
                out.put_u16(0);
                out.put_slice(block);
            }
            Self::SynReply { stream, fin, block } => with_block((SYN_REPLY, *stream, *fin), block, out),
            Self::Headers { stream, fin, block } => with_block((HEADERS, *stream, *fin), block, out),
            Self::RstStream { stream, status } => numbers(RST_STREAM, &[*stream, *status], out),
            Self::Settings(pairs) => {
                head(SETTINGS, 0, 4 + pairs.len() * 8, out);
                out.put_u32(pairs.len() as u32);
                for (name, value) in pairs {
                    out.put_u32(name & LENGTH_MASK);
                    out.put_u32(*value);
                }
            }
            Self::Ping(id) => numbers(PING, &[*id], out),
            Self::GoAway { last, status } => numbers(GOAWAY, &[*last, *status], out),
            Self::WindowUpdate { stream, delta } => numbers(WINDOW_UPDATE, &[*stream, *delta], out),
            Self::Unknown(kind) => numbers(*kind, &[], out),
        }
    }
}

/// Appends the beginning of a data frame, whose bytes are to follow.
pub fn encode_data_head(stream: u32, length: usize, fin: bool, out: &mut BytesMut) {
    out.put_u32(stream & STREAM_MASK);
    flags_and_length(flag(fin, FLAG_FIN), length, out);
}

fn flag(set: bool, bit: u8) -> u8 {
    if set { bit } else { 0 }
}

fn head(kind: u16, flags: u8, length: usize, out: &mut BytesMut) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    flags_and_length(flags, length, out);
}

fn flags_and_length(flags: u8, length: usize, out: &mut BytesMut) {
    out.put_u32((u32::from(flags) << 24) | (u32::try_from(length).unwrap_or(u32::MAX) & LENGTH_MASK));
}

fn numbers(kind: u16, numbers: &[u32], out: &mut BytesMut) {
    head(kind, 0, numbers.len() * 4, out);
    for number in numbers {
        out.put_u32(*number);
    }
}

fn with_block((kind, stream, fin): (u16, u32, bool), block: &[u8], out: &mut BytesMut) {
    head(kind, flag(fin, FLAG_FIN), 4 + block.len(), out);
    out.put_u32(stream);
    out.put_slice(block);
}

#[cfg(test)]
mod tests;
