//! ttrpc as far as NRI needs it: one request, one answer (github.com/containerd/ttrpc, PROTOCOL.md). Pure.
//!
//! A frame is a header of 10 bytes (length of the body, number of the stream, kind, flags; big-endian) and a body, which is a [`Request`] or a
//! [`Response`]. The caller numbers its streams by odd numbers upwards.
//!
//! Not here: who waits for which answer (see `connection`).

use prost::Message;

#[allow(missing_docs, unreachable_pub, rust_2018_idioms, clippy::all, reason = "generated code")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/ttrpc.rs"));
}

pub(crate) use generated::{Request, Response, Status};

pub(crate) const HEADER: usize = 10;

/// The longest body, in bytes (PROTOCOL.md: 4 MB).
pub(crate) const LONGEST: usize = 4 << 20;

/// The longest body that is taken here, in bytes: what plugins say is short, what they are told need not be. An answer of 1,000 updates
/// has some 200 KB.
pub(crate) const LONGEST_TAKEN: usize = 1 << 20;

/// What a frame is.
const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;

/// Codes of a status that matter here (google.rpc.Code).
pub(crate) mod code {
    pub(crate) const INVALID_ARGUMENT: i32 = 3;
    pub(crate) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(crate) const FAILED_PRECONDITION: i32 = 9;
    pub(crate) const UNIMPLEMENTED: i32 = 12;
}

/// A frame of the kinds that are spoken here.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Frame {
    Request(u32, Request),
    Response(u32, Response),
}

/// Why a frame can't be read; nothing that follows can be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("a message of {0} bytes")]
    TooLong(u32),
    #[error("a message of kind {0}, with the flags {1:#x}")]
    Kind(u8, u8),
    #[error("a message that is none: {0}")]
    Body(String),
}

impl Frame {
    /// Its bytes; `None` when it is longer than the other side takes.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        let (stream, kind, length) = match self {
            Self::Request(stream, request) => (stream, REQUEST, request.encoded_len()),
            Self::Response(stream, response) => (stream, RESPONSE, response.encoded_len()),
        };
        let length = u32::try_from(length).ok().filter(|_| length <= LONGEST)?;
        let mut bytes = Vec::with_capacity(HEADER + LONGEST.min(length as usize));
        bytes.extend(length.to_be_bytes());
        bytes.extend(stream.to_be_bytes());
        bytes.extend([kind, 0]);
        // A vector has room.
        let _written = match self {
            Self::Request(_, request) => request.encode(&mut bytes),
            Self::Response(_, response) => response.encode(&mut bytes),
        };
        Some(bytes)
    }

    fn decode(stream: u32, (kind, flags): (u8, u8), body: &[u8]) -> Result<Self, Unreadable> {
        let unreadable = |error: prost::DecodeError| Unreadable::Body(error.to_string());
        match (kind, flags) {
            // Streams of more than one message have flags, and no method of NRI.
            (REQUEST, 0) => Ok(Self::Request(stream, Request::decode(body).map_err(unreadable)?)),
            (RESPONSE, _) => Ok(Self::Response(stream, Response::decode(body).map_err(unreadable)?)),
            _ => Err(Unreadable::Kind(kind, flags)),
        }
    }
}

/// Puts frames together as their bytes come in. Holds one frame at most, and of that what has come.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    bytes: Vec<u8>,
}

impl Assembler {
    /// The next frame in `bytes`, which is shortened by what was taken; `None` when it is used up.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub(crate) fn next(&mut self, bytes: &mut &[u8]) -> Result<Option<Frame>, Unreadable> {
        if !self.fill(HEADER, bytes) {
            return Ok(None);
        }
        let number = |at: usize| {
            let part: [u8; 4] = std::array::from_fn(|place| self.bytes[at + place]);
            u32::from_be_bytes(part)
        };
        let (length, stream, kind) = (number(0), number(4), (self.bytes[8], self.bytes[9]));
        let body = usize::try_from(length).ok().filter(|length| *length <= LONGEST_TAKEN);
        let body = body.ok_or(Unreadable::TooLong(length))?;
        if !self.fill(HEADER + body, bytes) {
            return Ok(None);
        }
        let frame = Frame::decode(stream, kind, &self.bytes[HEADER..])?;
        // Freed, not kept: a plugin that once had much to say would cost that for as long as it is there.
        self.bytes = Vec::new();
        Ok(Some(frame))
    }

    fn fill(&mut self, length: usize, bytes: &mut &[u8]) -> bool {
        let wanted = length.saturating_sub(self.bytes.len()).min(bytes.len());
        let (taken, rest) = bytes.split_at(wanted);
        self.bytes.extend(taken);
        *bytes = rest;
        self.bytes.len() >= length
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_all(chunks: &[&[u8]]) -> Result<Vec<Frame>, Unreadable> {
        let (mut assembler, mut found) = (Assembler::default(), Vec::new());
        for mut chunk in chunks.iter().copied() {
            while let Some(frame) = assembler.next(&mut chunk)? {
                found.push(frame);
            }
        }
        Ok(found)
    }

    #[test]
    fn frames_have_these_bytes() {
        let request =
            Request { service: "S".into(), method: "M".into(), timeout_nano: 2, ..Request::default() };
        let bytes = Frame::Request(3, request).encode().unwrap();
        assert_eq!(bytes[..10], [0, 0, 0, 8, 0, 0, 0, 3, 1, 0]);
        assert_eq!(bytes[10..], [0x0a, 1, b'S', 0x12, 1, b'M', 0x20, 2]);
        let status = Status { code: 12, message: String::new() };
        let bytes = Frame::Response(3, Response { status: Some(status), payload: vec![] }).encode().unwrap();
        assert_eq!(bytes, [0, 0, 0, 4, 0, 0, 0, 3, 2, 0, 0x0a, 2, 8, 12]);
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        let header = |length: u32, kind: u8, flags: u8| {
            [&length.to_be_bytes()[..], &[0, 0, 0, 1], &[kind, flags]].concat()
        };
        let longest = u32::try_from(LONGEST_TAKEN).unwrap();
        assert_eq!(read_all(&[&header(longest, 1, 0)]), Ok(vec![]), "its body is still to come");
        assert_eq!(read_all(&[&header(longest + 1, 1, 0)]), Err(Unreadable::TooLong(longest + 1)));
        assert_eq!(read_all(&[&header(0, 3, 0)]), Err(Unreadable::Kind(3, 0)), "stream data");
        assert_eq!(read_all(&[&header(0, 1, 2)]), Err(Unreadable::Kind(1, 2)), "a stream that stays open");
        let broken = [header(2, 2, 0), vec![0xff, 0xff]].concat();
        assert!(matches!(read_all(&[&broken]), Err(Unreadable::Body(_))));
    }

    #[test]
    fn what_is_too_long_is_not_encoded() {
        let with = |payload: usize| {
            let payload = vec![0; payload];
            Frame::Response(1, Response { status: None, payload }).encode()
        };
        // One byte says what it is, four how long.
        assert!(with(LONGEST - 5).is_some());
        assert!(with(LONGEST - 4).is_none());
    }

    proptest! {
        #[test]
        fn frames_arrive_however_they_are_cut(
            payloads in prop::collection::vec((any::<u32>(), any::<bool>(), prop::collection::vec(any::<u8>(), 0..300)), 0..6),
            cut in 1_usize..200,
        ) {
            let frames: Vec<Frame> = payloads.into_iter().map(|(stream, is_request, payload)| match is_request {
                true => Frame::Request(stream, Request { payload, ..Request::default() }),
                false => Frame::Response(stream, Response { payload, ..Response::default() }),
            }).collect();
            let wire: Vec<u8> = frames.iter().flat_map(|frame| frame.encode().unwrap()).collect();
            let chunks: Vec<&[u8]> = wire.chunks(cut).collect();
            prop_assert_eq!(read_all(&chunks), Ok(frames));
        }
    }
}
