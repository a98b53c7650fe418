//! Decompressors of a layer, chosen by its first bytes.
//!
//! Gzip (of several members too), zstd (of several frames too) and plain archives are told apart as the other runtimes do:
//! media types in the wild are wrong often enough, and the digest of the uncompressed bytes decides in the end anyway.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use flate2::bufread::MultiGzDecoder;

use super::window::Windows;
use super::zstd::{self, Frames};

/// A decompressor with its source.
pub(super) enum Decoder {
    Plain(Prefixed),
    Gzip(Box<MultiGzDecoder<Prefixed>>),
    Zstd(Box<Frames<Prefixed>>),
}

impl Decoder {
    /// Looks at the first bytes and chooses.
    pub(super) fn open(
        source: Box<dyn BufRead>,
        windows: &Arc<Windows>,
        given_up: &Arc<AtomicBool>,
    ) -> io::Result<Decoder> {
        let source = Prefixed::new(source)?;
        Ok(match source.first() {
            [0x1f, 0x8b, ..] => Decoder::Gzip(Box::new(MultiGzDecoder::new(source))),
            first if zstd::is_zstd(first) => {
                Decoder::Zstd(Box::new(Frames::new(source, Arc::clone(windows), Arc::clone(given_up))))
            }
            _ => Decoder::Plain(source),
        })
    }

    /// Reads until `into` is full or the stream has ended. Decompressors return little at a time; digesting and
    /// writing want much.
    pub(super) fn fill(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < into.len() {
            let free = &mut into[filled..];
            let count = match self {
                Decoder::Plain(source) => source.read(free),
                Decoder::Gzip(decoder) => decoder.read(free),
                Decoder::Zstd(decoder) => decoder.read(free),
            }?;
            if count == 0 {
                break;
            }
            filled += count;
        }
        Ok(filled)
    }
}

/// A source whose first four bytes have been looked at.
pub(super) struct Prefixed {
    first: [u8; 4],
    read: usize,
    length: usize,
    rest: Box<dyn BufRead>,
}

impl Prefixed {
    fn new(mut rest: Box<dyn BufRead>) -> io::Result<Prefixed> {
        let mut first = [0; 4];
        let mut length = 0;
        while length < first.len() {
            match rest.read(&mut first[length..])? {
                0 => break,
                count => length += count,
            }
        }
        Ok(Prefixed { first, read: 0, length, rest })
    }

    fn first(&self) -> &[u8] {
        &self.first[..self.length]
    }
}

impl BufRead for Prefixed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.read < self.length {
            return Ok(&self.first[self.read..self.length]);
        }
        self.rest.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        if self.read < self.length {
            self.read += amount;
        } else {
            self.rest.consume(amount);
        }
    }
}

impl Read for Prefixed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let ready = self.fill_buf()?;
        let count = ready.len().min(into.len());
        into[..count].copy_from_slice(&ready[..count]);
        self.consume(count);
        Ok(count)
    }
}
