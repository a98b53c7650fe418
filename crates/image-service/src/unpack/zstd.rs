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
