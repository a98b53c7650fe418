//! The trunk: two connections on one socket (github.com/containerd/nri, pkg/net/multiplex). Pure.
//!
//! A frame is a header of 8 bytes, the connection's number and the length of what follows, both big-endian. Opening and closing a
//! connection is not said; both sides know [`PLUGIN`] and [`RUNTIME`].
//!
//! | connection | who calls on it |
//! |---|---|
//! | 1 | the runtime calls the plugin |
//! | 2 | the plugin calls the runtime |
//!
//! Not here: what is in the frames (see `ttrpc`).

use crate::ttrpc;

/// The connection on which the plugin is called.
pub(crate) const PLUGIN: u32 = 1;

/// The connection on which the runtime is called.
pub(crate) const RUNTIME: u32 = 2;

const HEADER: usize = 8;

/// The longest frame that is taken, in bytes: a message of ttrpc with its header, as with the other side.
const LONGEST: usize = ttrpc::LONGEST + ttrpc::HEADER;

/// The most that the first frame of a message may hold, in bytes. Plugins in Go read a message's header through a buffer of this size, and
/// fail at a frame that doesn't fit into it; all that follows they read into the message itself (bufio, `defaultBufSize`).
const FIRST: usize = 4096;

/// Appends a message in as few frames as the other side can read: it keeps 256 of them at most.
pub(crate) fn wrap(connection: u32, message: &[u8], into: &mut Vec<u8>) {
    let (first, rest) = message.split_at(message.len().min(FIRST));
    for part in [first, rest].into_iter().filter(|part| !part.is_empty()) {
        into.extend(connection.to_be_bytes());
        into.extend(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        into.extend(part);
    }
}

/// A frame that is longer than any may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {0} bytes")]
pub(crate) struct TooLong(pub(crate) u32);

/// Takes frames apart as their bytes come in. Holds no more than a header.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    header: [u8; HEADER],
    filled: usize,
    connection: u32,
    left: usize,
}

impl Reader {
    /// The next bytes of a connection in `bytes`, which is shortened by what was taken; `None` when it is used up.
    ///
    /// # Errors
    /// [`TooLong`]; what follows means nothing then.
    pub(crate) fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<(u32, &'a [u8])>, TooLong> {
        while self.left == 0 {
            let Some((first, rest)) = bytes.split_first() else { return Ok(None) };
            self.header[self.filled] = *first;
            self.filled += 1;
            *bytes = rest;
            if self.filled == HEADER {
                self.filled = 0;
                let [a, b, c, d, lengths @ ..] = self.header;
                let length = u32::from_be_bytes(lengths);
                self.connection = u32::from_be_bytes([a, b, c, d]);
                self.left =
                    usize::try_from(length).ok().filter(|it| *it <= LONGEST).ok_or(TooLong(length))?;
            }
        }
        let (taken, rest) = bytes.split_at(bytes.len().min(self.left));
        self.left -= taken.len();
        *bytes = rest;
        Ok((!taken.is_empty()).then_some((self.connection, taken)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_all(chunks: &[&[u8]]) -> Result<Vec<(u32, Vec<u8>)>, TooLong> {
        let (mut reader, mut found) = (Reader::default(), Vec::<(u32, Vec<u8>)>::new());
        for mut chunk in chunks.iter().copied() {
            while let Some((connection, bytes)) = reader.next(&mut chunk)? {
                match found.last_mut() {
                    Some((last, known)) if *last == connection => known.extend(bytes),
                    _ => found.push((connection, bytes.to_vec())),
                }
            }
        }
        Ok(found)
    }

    #[test]
    fn frames_have_these_bytes() {
        let mut bytes = Vec::new();
        wrap(RUNTIME, b"abc", &mut bytes);
        assert_eq!(bytes, [0, 0, 0, 2, 0, 0, 0, 3, b'a', b'b', b'c']);
        bytes.clear();
        wrap(PLUGIN, &[7; FIRST + 2], &mut bytes);
        assert_eq!(bytes[..8], [0, 0, 0, 1, 0, 0, 0x10, 0]);
        assert_eq!(bytes[8 + FIRST..][..8], [0, 0, 0, 1, 0, 0, 0, 2], "the rest is one frame");
        assert_eq!(bytes.len(), 8 + FIRST + 8 + 2);
    }

    #[test]
    fn what_is_too_long_is_refused_before_it_comes() {
        let longest = u32::try_from(LONGEST).unwrap();
        let header = |length: u32| [1_u32.to_be_bytes(), length.to_be_bytes()].concat();
        assert_eq!(read_all(&[&header(longest)]), Ok(vec![]));
        assert_eq!(read_all(&[&header(longest + 1)]), Err(TooLong(longest + 1)));
    }

    proptest! {
        #[test]
        fn bytes_arrive_however_they_are_cut(
            messages in prop::collection::vec((1_u32..4, prop::collection::vec(any::<u8>(), 0..9000)), 0..6),
            cut in 1_usize..5000,
        ) {
            let mut wire = Vec::new();
            let mut expected = Vec::<(u32, Vec<u8>)>::new();
            for (connection, message) in &messages {
                wrap(*connection, message, &mut wire);
                match expected.last_mut() {
                    _ if message.is_empty() => {}
                    Some((last, known)) if last == connection => known.extend(message),
                    _ => expected.push((*connection, message.clone())),
                }
            }
            let chunks: Vec<&[u8]> = wire.chunks(cut).collect();
            prop_assert_eq!(read_all(&chunks), Ok(expected));
        }
    }
}
