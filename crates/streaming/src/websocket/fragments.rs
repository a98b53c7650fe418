//! Frames as they come, below the protocol, which shows whole messages only: a message may be cut into any number of frames, and those
//! that carry nothing and aren't the last one move nothing on. They are counted (RFC 6455, sections 5.2 and 5.4), and a
//! long message has to fit into what there is for all.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::flood::{Flood, TooMany};
use super::room::{NoRoom, Room, Share};
use crate::backend::Duplex;

/// A connection whose frames are looked at.
pub(crate) struct Fragments<S> {
    io: S,
    frames: Frames,
    empty: Flood,
    share: Share,
}

impl<S: Duplex> Fragments<S> {
    /// From the first frame on.
    pub(crate) fn new(io: S, room: Room) -> Self {
        Self { io, frames: Frames::default(), empty: Flood::default(), share: Share::new(room) }
    }
}

/// Whether reading failed for too many of them.
pub(crate) fn are_too_many(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|cause| cause.is::<TooMany>())
}

/// Whether reading failed for a long message that there was no room for.
pub(crate) fn have_no_room(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|cause| cause.is::<NoRoom>())
}

impl<S: Duplex> AsyncRead for Fragments<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { io, frames, empty, share } = &mut *self;
        let before = into.filled().len();
        ready!(Pin::new(io).poll_read(cx, into))?;
        let seen = frames.take(into.filled().get(before..).unwrap_or_default());
        for _ in 0..seen.empty {
            empty.count().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
        share.fit(seen.longest).map_err(|error| io::Error::new(io::ErrorKind::OutOfMemory, error))?;
        Poll::Ready(Ok(()))
    }
}

impl<S: Duplex> AsyncWrite for Fragments<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Where in its frames a connection is.
#[derive(Debug, Default)]
struct Frames {
    /// What has come of a header, its key apart.
    header: Vec<u8>,
    /// How much is still to come of a frame: its key and what it carries.
    left: u64,
    /// The first byte of its header.
    first: u8,
    /// How much of the message has come, with the keys of its frames. What is only announced costs nothing.
    message: u64,
}

/// What was in bytes that came.
#[derive(Debug, Default)]
struct Seen {
    /// Frames that began, carry nothing and aren't the last of their message.
    empty: usize,
    /// How much there is of the longest message.
    longest: u64,
}

const LAST: u8 = 0x80;
const CONTROL: u8 = 0x08;
const MASKED: u8 = 0x80;
const KEY: u64 = 4;

impl Frames {
    /// Takes the next bytes.
    fn take(&mut self, mut bytes: &[u8]) -> Seen {
        let mut seen = Seen::default();
        while let Some((next, rest)) = bytes.split_first() {
            if self.left > 0 {
                let skipped = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= skipped as u64;
                if self.first & CONTROL == 0 {
                    self.message = self.message.saturating_add(skipped as u64);
                    seen.longest = seen.longest.max(self.message);
                }
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            bytes = rest;
            if self.header.is_empty() && self.first & (LAST | CONTROL) == LAST {
                self.message = 0;
            }
            self.header.push(*next);
            if let Some((first, second, length)) = header(&self.header) {
                seen.empty += usize::from(length == 0 && first & (LAST | CONTROL) == 0);
                self.first = first;
                self.left = if second & MASKED == 0 { length } else { length.saturating_add(KEY) };
                self.header.clear();
            }
        }
        seen
    }
}

/// The first bytes of a header and the length in it, when that is whole.
fn header(bytes: &[u8]) -> Option<(u8, u8, u64)> {
    let (first, rest) = bytes.split_first()?;
    let (second, rest) = rest.split_first()?;
    let length = match second & !MASKED {
        126 => u64::from(u16::from_be_bytes(rest.try_into().ok()?)),
        127 => u64::from_be_bytes(rest.try_into().ok()?),
        short => u64::from(short),
    };
    Some((*first, *second, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_however_the_bytes_are_cut() {
        let long = [&b"\x02\xfe\x01\x00keyk"[..], &[0; 256]].concat();
        let longer = [&b"\x80\xff\x00\x00\x00\x00\x00\x01\x00\x00keyk"[..], &[0; 65_536]].concat();
        let frames: [(&[u8], usize); 8] = [
            (b"\x02\x80keyk", 1),
            (b"\x00\x80keyk", 1),
            (b"\x00\x81keyk\x00", 0),
            // The last of a message, a ping, a whole message, an unmasked frame.
            (b"\x80\x80keyk", 0),
            (b"\x89\x80keyk", 0),
            (b"\x82\x82keyk\x00\x80", 0),
            (b"\x01\x00", 1),
            (&long, 0),
        ];
        let bytes: Vec<u8> = frames.iter().flat_map(|(bytes, _)| *bytes).chain(&longer).copied().collect();
        let bytes = [bytes, b"\x00\x80keyk".to_vec()].concat();
        let expected = frames.iter().map(|(_, empty)| empty).sum::<usize>() + 1;
        for cut in [1, 2, 3, 7, 300, bytes.len()] {
            let mut state = Frames::default();
            let seen: Vec<Seen> = bytes.chunks(cut).map(|chunk| state.take(chunk)).collect();
            assert_eq!(seen.iter().map(|seen| seen.empty).sum::<usize>(), expected, "{cut}");
            // What is long, and the end of a message that began before it: with their keys.
            assert_eq!(seen.iter().map(|seen| seen.longest).max(), Some(4 + 256 + 4 + 65_536), "{cut}");
        }
    }

    #[test]
    fn the_longest_frame_runs_over_nothing() {
        let mut state = Frames::default();
        assert_eq!(state.take(&[&[0, 0xff][..], &[0xff; 8], &[0; 100]].concat()).longest, 100);
        assert_eq!(state.left, u64::MAX - 100);
    }
}
