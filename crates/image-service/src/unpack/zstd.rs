//! The frames of a zstd stream: their headers are read here, what is in them by the library.
//!
//! Several frames make one stream, skippable ones are passed over; whatever else follows a frame is refused, as Go's reader
//! refuses it. A header tells how much memory its frame wants, before any is given to it.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use zstd::stream::raw::{DParameter, Decoder, Operation as _};

use super::window::{Window, Windows};

/// What a frame begins with (RFC 8878 section 3.1.1), and a skippable one (3.1.2), whose lowest four bits are anything.
const FRAME: u32 = 0xFD2F_B528;
const SKIPPABLE: u32 = 0x184D_2A50;

/// Whether a stream that begins so is zstd's.
pub(super) fn is_zstd(first: &[u8]) -> bool {
    let Ok(first) = <[u8; 4]>::try_from(first) else { return false };
    let magic = u32::from_le_bytes(first);
    magic == FRAME || is_skippable(magic)
}

fn is_skippable(magic: u32) -> bool {
    magic & !0xF == SKIPPABLE
}

/// The uncompressed bytes of a stream of frames.
pub(super) struct Frames<R> {
    source: R,
    windows: Arc<Windows>,
    given_up: Arc<AtomicBool>,
    /// The library's state and the memory that it may use.
    context: Option<(Decoder<'static>, Window)>,
    /// The beginning of the current frame that the library hasn't seen yet.
    header: Vec<u8>,
    within: bool,
    /// The library has more for us than we had room for.
    full: bool,
}

impl<R: BufRead> Frames<R> {
    pub(super) fn new(source: R, windows: Arc<Windows>, given_up: Arc<AtomicBool>) -> Frames<R> {
        Frames { source, windows, given_up, context: None, header: Vec::new(), within: false, full: false }
    }

    /// Reads the header of the next frame. False at the end of the stream.
    fn next_frame(&mut self) -> io::Result<bool> {
        loop {
            if self.source.fill_buf()?.is_empty() {
                return Ok(false);
            }
            self.header.clear();
            self.more_header(4)?;
            match le(&self.header) {
                magic if magic == u64::from(FRAME) => break,
                magic if u32::try_from(magic).is_ok_and(is_skippable) => self.skip()?,
                _ => return Err(invalid("something else than a zstd frame follows")),
            }
        }
        self.more_header(1)?;
        let descriptor = self.header[4];
        let window = if descriptor & 0x20 != 0 { self.content_size(descriptor)? } else { self.window()? };
        self.make_room(window)?;
        self.within = true;
        Ok(true)
    }

    /// The window of a frame that refers to no more than its own content, whose size it states.
    fn content_size(&mut self, descriptor: u8) -> io::Result<u64> {
        let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
        let size = [1, 2, 4, 8][usize::from(descriptor >> 6)];
        self.more_header(dictionary + size)?;
        let stated = le(&self.header[5 + dictionary..]);
        Ok(if size == 2 { stated + 256 } else { stated })
    }

    /// The window as a byte of exponent and mantissa states it.
    fn window(&mut self) -> io::Result<u64> {
        self.more_header(1)?;
        let (exponent, mantissa) = (self.header[5] >> 3, u64::from(self.header[5] & 7));
        let base = 1u64 << (10 + exponent);
        Ok(base + base / 8 * mantissa)
    }

    /// Has the library ready for a frame that wants so much memory.
    fn make_room(&mut self, window: u64) -> io::Result<()> {
        if self.context.as_ref().is_some_and(|(_, held)| window <= held.bytes()) {
            return Ok(());
        }
        // Given back first: who holds memory may not wait for more.
        self.context = None;
        let held = self.windows.take(window, &self.given_up)?;
        let mut decoder = Decoder::new()?;
        // The bound is ours; the library gets the power of two that doesn't stand in its way.
        let log = u64::BITS - self.windows.largest().saturating_sub(1).leading_zeros();
        decoder.set_parameter(DParameter::WindowLogMax(log.clamp(10, 31)))?;
        self.context = Some((decoder, held));
        Ok(())
    }

    fn skip(&mut self) -> io::Result<()> {
        self.more_header(4)?;
        let size = le(&self.header[4..]);
        let mut content = (&mut self.source).take(size);
        let skipped = io::copy(&mut content, &mut io::sink())?;
        if skipped < size { Err(cut_off()) } else { Ok(()) }
    }

    fn more_header(&mut self, count: usize) -> io::Result<()> {
        let begin = self.header.len();
        self.header.resize(begin + count, 0);
        self.source.read_exact(&mut self.header[begin..]).map_err(|cause| match cause.kind() {
            io::ErrorKind::UnexpectedEof => cut_off(),
            _ => cause,
        })
    }

    /// One step of the library: bytes of the frame in, or bytes of the content out, or both.
    fn step(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some((decoder, _)) = &mut self.context else { return Err(cut_off()) };
        let from_header = !self.header.is_empty();
        let input = match (self.full, from_header) {
            (true, _) => &[],
            (false, true) => &self.header[..],
            (false, false) => self.source.fill_buf()?,
        };
        if input.is_empty() && !self.full {
            return Err(cut_off());
        }
        let room = into.len();
        let status = decoder.run_on_buffers(input, into)?;
        match from_header && !self.full {
            true => drop(self.header.drain(..status.bytes_read)),
            false => self.source.consume(status.bytes_read),
        }
        self.full = status.bytes_written == room;
        if status.remaining == 0 {
            (self.within, self.full) = (false, false);
        }
        Ok(status.bytes_written)
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while !into.is_empty() {
            if !self.within && !self.next_frame()? {
                return Ok(0);
            }
            match self.step(into)? {
                0 => {}
                count => return Ok(count),
            }
        }
        Ok(0)
    }
}

/// A number of up to eight bytes, the lowest first.
fn le(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "a zstd frame is cut off")
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Skippable content (RFC 8878 section 3.1.2).
    fn skippable(content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap();
        [&0x184D_2A57u32.to_le_bytes()[..], &length.to_le_bytes(), content].concat()
    }

    /// A frame whose window has `2^log` bytes.
    fn frame(content: &[u8], log: u32) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(log).unwrap();
        encoder.include_checksum(true).unwrap();
        // Without it a small content would be its own window.
        encoder.include_contentsize(false).unwrap();
        io::Write::write_all(&mut encoder, content).unwrap();
        encoder.finish().unwrap()
    }

    /// Reads `stream` in chunks of `step` bytes into buffers of `room`.
    fn read(stream: &[u8], step: usize, room: usize) -> io::Result<Vec<u8>> {
        let windows = Arc::new(Windows::new(1 << 20, 1 << 20));
        let source = io::BufReader::with_capacity(step, stream);
        let mut frames = Frames::new(source, windows, Arc::default());
        let mut all = Vec::new();
        let mut buffer = vec![0; room];
        loop {
            match frames.read(&mut buffer)? {
                0 => return Ok(all),
                count => all.extend_from_slice(&buffer[..count]),
            }
        }
    }

    fn content(size: usize) -> Vec<u8> {
        (0..size).map(|at| (at * at / 7 % 251) as u8).collect()
    }

    #[test]
    fn frames_follow_each_other_however_they_are_cut() {
        let (one, two) = (content(300_000), content(1));
        let stream = [
            skippable(b"before"),
            frame(&one, 10),
            skippable(b""),
            frame(b"", 10),
            zstd::bulk::compress(&two, 1).unwrap(),
            frame(&one, 18),
            zstd::bulk::compress(&one, 1).unwrap(),
            skippable(b"behind"),
        ]
        .concat();
        let expected = [&one[..], &two, &one, &one].concat();
        for (step, room) in [(1, 1 << 17), (5, 1000), (1 << 20, 1 << 17), (1 << 20, 1), (1 << 20, 300_000)] {
            assert!(read(&stream, step, room).unwrap() == expected, "{step}, {room}");
        }
        assert!(read(b"", 1, 1).unwrap().is_empty());
    }

    #[test]
    fn what_is_cut_off_or_followed_by_something_else_is_refused() {
        let stream = [skippable(b"before"), frame(&content(5000), 10)].concat();
        let begin = skippable(b"before").len();
        for length in (1..stream.len()).filter(|length| *length != begin) {
            let error = read(&stream[..length], 64, 1000).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{length}: {error}");
        }
        for garbage in [&b"garbage"[..], &[0; 4], &[0x1f, 0x8b, 8, 0], &0xFD2F_B527u32.to_le_bytes()] {
            let error = read(&[&stream[..], garbage].concat(), 64, 1000).unwrap_err();
            assert!(error.to_string().contains("something else than a zstd frame"), "{error}");
        }
        let mut flipped = stream.clone();
        *flipped.last_mut().unwrap() ^= 1;
        assert!(read(&flipped, 64, 1000).is_err(), "its checksum is wrong");
    }

    #[test]
    fn windows_have_a_bound() {
        let all = content(3 << 20);
        assert!(read(&frame(&all, 20), 4096, 1 << 17).unwrap() == all);
        let error = read(&frame(&all, 21), 4096, 1 << 17).unwrap_err();
        assert!(error.to_string().contains("a window of 2097152 bytes, and 1048576 are the most"), "{error}");
        // One that refers to all of its content, which it says is larger.
        let mut frame = zstd::bulk::compress(&all[..200_000], 3).unwrap();
        assert_eq!((frame[4], read(&frame, 4096, 1 << 18).unwrap().len()), (0xA0, 200_000));
        frame[8] = 0x7f;
        let error = read(&frame, 4096, 1 << 17).unwrap_err();
        assert!(error.to_string().contains("a window of 2130906432 bytes"), "{error}");
    }
}
