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

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn read(stream: Vec<u8>) -> io::Result<Vec<u8>> {
        let windows = Arc::new(Windows::new(1 << 20, 1 << 20));
        let source = Box::new(io::BufReader::with_capacity(7, io::Cursor::new(stream)));
        let mut decoder = Decoder::open(source, &windows, &Arc::default())?;
        let mut all = vec![0; 1 << 20];
        let count = decoder.fill(&mut all)?;
        all.truncate(count);
        Ok(all)
    }

    #[test]
    fn the_first_bytes_choose() {
        let content = vec![7; 100_000];
        let members = [gzip(&content), gzip(b""), gzip(b"more")].concat();
        assert!(read(members).unwrap() == [&content[..], b"more"].concat());
        assert!(read(zstd_of(&content)).unwrap() == content);
        for plain in [&b""[..], b"a", b"\x1f", b"plain", &content] {
            assert!(read(plain.to_vec()).unwrap() == plain);
        }
    }

    fn zstd_of(content: &[u8]) -> Vec<u8> {
        ::zstd::bulk::compress(content, 3).unwrap()
    }

    #[test]
    fn gzip_that_is_cut_off_damaged_or_followed_by_something_else_is_refused() {
        let stream = gzip(b"some content that is long enough");
        for length in 2..stream.len() {
            assert!(read(stream[..length].to_vec()).is_err(), "{length}");
        }
        for garbage in [&b"garbage that follows"[..], &[0; 512], &[0], &[0x1f, 0x8b, 8]] {
            assert!(read([&stream[..], garbage].concat()).is_err(), "{garbage:?}");
        }
        let length = stream.len();
        // Its checksum, and its length.
        for at in [length - 8, length - 1] {
            let mut damaged = stream.clone();
            damaged[at] ^= 1;
            assert!(read(damaged).is_err(), "{at}");
        }
    }
}
