//! The header before each body, and the body as bytes. Pure: no socket here.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | `KNRR` |
//! | 4 | 2 | version of the sender |
//! | 6 | 1 | 1 request, 2 reply, 3 event |
//! | 7 | 1 | 1: the body is in a sealed memfd, the first descriptor; 0: it follows |
//! | 8 | 8 | sequence number |
//! | 16 | 4 | length of the body |
//! | 20 | 4 | zero |
//!
//! Numbers are little-endian.

use serde::de::DeserializeOwned;

use super::message::{Event, Message, Reply, Request};

/// Length of the header in bytes.
pub const HEADER: usize = 24;
/// The longest body; a plan with a large environment is a hundredth of it.
pub const LONGEST: usize = 16 << 20;
const MAGIC: [u8; 4] = *b"KNRR";

/// Which of the three kinds a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// From the daemon.
    Request,
    /// The answer to a request.
    Reply,
    /// From the supervisor, unasked.
    Event,
}

/// Where a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Behind the header.
    Inline,
    /// In a memfd, the first descriptor of the packet.
    Memfd,
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The sender's version.
    pub version: u16,
    /// What the body is.
    pub kind: Kind,
    /// Where the body is.
    pub place: Place,
    /// Which request it belongs to; 0 for events.
    pub sequence: u64,
    /// The body's length in bytes, at most [`LONGEST`].
    pub length: usize,
}

/// Why bytes are no frame of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// There are fewer bytes than a header has.
    #[error("a frame of {0} bytes has no header")]
    Short(usize),
    /// It doesn't begin as a frame does.
    #[error("not a frame")]
    Magic,
    /// A field of the header has a value that doesn't exist.
    #[error("a frame's {0} has the value {1}")]
    Field(&'static str, u64),
    /// The body is not as long as the header says.
    #[error("a frame announces {announced} bytes of body and has {found}")]
    Length {
        /// What the header says.
        announced: usize,
        /// What is there.
        found: usize,
    },
    /// The body is no message that this version knows.
    #[error("a message that this version does not know: {0}")]
    Body(String),
}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&self.version.to_le_bytes());
        bytes[6] = match self.kind {
            Kind::Request => 1,
            Kind::Reply => 2,
            Kind::Event => 3,
        };
        bytes[7] = match self.place {
            Place::Inline => 0,
            Place::Memfd => 1,
        };
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        // `LONGEST` fits.
        bytes[16..20].copy_from_slice(&u32::try_from(self.length).unwrap_or(u32::MAX).to_le_bytes());
        bytes
    }

    /// Reads the header at the beginning of `bytes`.
    ///
    /// # Errors
    /// [`FrameError`] for bytes that are no header of ours.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let header = bytes.first_chunk::<HEADER>().ok_or(FrameError::Short(bytes.len()))?;
        let [m0, m1, m2, m3, v0, v1, kind, place, s0, s1, s2, s3, s4, s5, s6, s7, l0, l1, l2, l3, ..] =
            *header;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(FrameError::Magic);
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let length = usize::try_from(length).ok().filter(|length| *length <= LONGEST);
        Ok(Self {
            version: u16::from_le_bytes([v0, v1]),
            kind: match kind {
                1 => Kind::Request,
                2 => Kind::Reply,
                3 => Kind::Event,
                other => return Err(FrameError::Field("kind", other.into())),
            },
            place: match place {
                0 => Place::Inline,
                1 => Place::Memfd,
                other => return Err(FrameError::Field("place", other.into())),
            },
            sequence: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
            length: length.ok_or(FrameError::Field("length", u32::from_le_bytes([l0, l1, l2, l3]).into()))?,
        })
    }
}

impl Message {
    /// What kind it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Request(_) => Kind::Request,
            Self::Reply(_) => Kind::Reply,
            Self::Event(_) => Kind::Event,
        }
    }

    /// The body's bytes.
    ///
    /// # Errors
    /// [`FrameError::Body`] for what JSON cannot hold: a path that is no text.
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        let bytes = match self {
            Self::Request(request) => serde_json::to_vec(request),
            Self::Reply(reply) => serde_json::to_vec(reply),
            Self::Event(event) => serde_json::to_vec(event),
        };
        bytes.map_err(|error| FrameError::Body(error.to_string()))
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`FrameError::Body`] for a message, or a field of it, that this version does not know.
    pub fn decode(kind: Kind, body: &[u8]) -> Result<Self, FrameError> {
        Ok(match kind {
            Kind::Request => Self::Request(read::<Request>(body)?),
            Kind::Reply => Self::Reply(read::<Reply>(body)?),
            Kind::Event => Self::Event(read::<Event>(body)?),
        })
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    serde_json::from_slice(body).map_err(|error| FrameError::Body(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_header_is_read_back() {
        let header = Header {
            version: 7,
            kind: Kind::Event,
            place: Place::Memfd,
            sequence: u64::MAX - 1,
            length: LONGEST,
        };
        assert_eq!(Header::decode(&header.encode()), Ok(header));
    }

    #[test]
    fn bodies_that_are_too_long_are_refused() {
        let mut bytes =
            Header { version: 1, kind: Kind::Reply, place: Place::Inline, sequence: 1, length: 0 }.encode();
        bytes[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Header::decode(&bytes), Err(FrameError::Field("length", u32::MAX.into())));
    }

    #[test]
    fn an_unknown_request_and_an_unknown_field_are_refused() {
        for body in
            [&b"{\"dance\":{}}"[..], b"{\"forget\":{\"container\":\"c\",\"softly\":true}}", b"", b"[]"]
        {
            assert!(matches!(Message::decode(Kind::Request, body), Err(FrameError::Body(_))));
        }
    }

    #[test]
    fn a_newer_event_is_read_without_what_is_new() {
        let body = b"{\"exec_exited\":{\"exec\":\"e\",\"exit_code\":1,\"signal\":null,\"core_dumped\":true}}";
        assert!(matches!(Message::decode(Kind::Event, body), Ok(Message::Event(Event::ExecExited(_)))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(header) = Header::decode(&bytes) {
                let _ = Message::decode(header.kind, &bytes[HEADER..]);
            }
        }
    }
}
