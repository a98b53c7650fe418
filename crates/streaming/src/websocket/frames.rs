//! What a message on a channel means, and how one is written. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tokio_tungstenite::tungstenite::Message;

use super::Coding;

/// Where in version 5 a message begins that ends a channel; the channel's number follows.
const CLOSE_SIGNAL: u8 = 255;

/// Whether a channel can be ended by its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HalfClose {
    /// Version 5.
    Known,
    /// Before it.
    Unknown,
}

/// A message from the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Bytes for a channel.
    Data {
        /// The channel.
        channel: u8,
        /// The bytes.
        bytes: Bytes,
    },
    /// No more bytes will come for it.
    End {
        /// The channel.
        channel: u8,
    },
    /// Nothing.
    Empty,
}

/// Reads a message's payload.
///
/// # Errors
/// What is wrong with it, for the client: a connection that sends such a thing is ended, since leaving it out would lose bytes.
pub(crate) fn decode(payload: Bytes, coding: Coding, half_close: HalfClose) -> Result<Frame, &'static str> {
    let Some(first) = payload.first().copied() else { return Ok(Frame::Empty) };
    let bytes = payload.slice(1..);
    if half_close == HalfClose::Known && first == CLOSE_SIGNAL {
        return match bytes[..] {
            [channel] => Ok(Frame::End { channel }),
            _ => Err("the signal to close names one channel"),
        };
    }
    match coding {
        Coding::Binary => Ok(Frame::Data { channel: first, bytes }),
        Coding::Base64 => {
            let channel = first.checked_sub(b'0').ok_or("the channel is no digit")?;
            let bytes = STANDARD.decode(bytes).map_err(|_| "the bytes are not base64")?;
            Ok(Frame::Data { channel, bytes: bytes.into() })
        }
    }
}

/// Writes bytes of a channel.
pub(crate) fn encode(channel: u8, bytes: &[u8], coding: Coding) -> Message {
    match coding {
        Coding::Binary => {
            let mut payload = Vec::with_capacity(bytes.len() + 1);
            payload.push(channel);
            payload.extend_from_slice(bytes);
            Message::Binary(payload.into())
        }
        Coding::Base64 => {
            let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4 + 1);
            text.push(char::from(b'0'.saturating_add(channel)));
            STANDARD.encode_string(bytes, &mut text);
            Message::Text(text.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn binary(payload: &'static [u8], half_close: HalfClose) -> Result<Frame, &'static str> {
        decode(Bytes::from_static(payload), Coding::Binary, half_close)
    }

    #[test]
    fn the_examples_of_the_protocol() {
        let frame = Frame::Data { channel: 0, bytes: Bytes::from_static(b"foo\n") };
        assert_eq!(binary(b"\0foo\n", HalfClose::Unknown).unwrap(), frame);
        assert_eq!(
            decode(Bytes::from_static(b"0Zm9vCg=="), Coding::Base64, HalfClose::Unknown).unwrap(),
            frame
        );
        assert_eq!(encode(1, b"\n", Coding::Base64), Message::Text("1Cg==".into()));
        assert_eq!(encode(1, b"\n", Coding::Binary), Message::Binary(Bytes::from_static(b"\x01\n")));
    }

    #[test]
    fn the_signal_to_close_is_of_version_5() {
        assert_eq!(binary(b"\xff\0", HalfClose::Known).unwrap(), Frame::End { channel: 0 });
        let data = Frame::Data { channel: 255, bytes: Bytes::from_static(b"\0") };
        assert_eq!(binary(b"\xff\0", HalfClose::Unknown).unwrap(), data);
        binary(b"\xff", HalfClose::Known).unwrap_err();
        binary(b"\xff\0\0", HalfClose::Known).unwrap_err();
        assert_eq!(binary(b"", HalfClose::Known).unwrap(), Frame::Empty);
    }

    #[test]
    fn what_is_not_base64_is_refused() {
        for payload in ["0***", "0Zg", "!Zg=="] {
            decode(Bytes::from(payload), Coding::Base64, HalfClose::Unknown).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(channel in 0u8..8, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for coding in [Coding::Binary, Coding::Base64] {
                let payload = encode(channel, &bytes, coding).into_data();
                let frame = decode(payload, coding, HalfClose::Known).unwrap();
                prop_assert_eq!(frame, Frame::Data { channel, bytes: bytes.clone().into() });
            }
        }

        #[test]
        fn nothing_makes_it_fall(payload in prop::collection::vec(any::<u8>(), 0..64)) {
            for coding in [Coding::Binary, Coding::Base64] {
                let _ = decode(payload.clone().into(), coding, HalfClose::Known);
                let _ = decode(payload.clone().into(), coding, HalfClose::Unknown);
            }
        }
    }
}
