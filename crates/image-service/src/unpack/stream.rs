//! The uncompressed bytes of a layer, digested as they pass.
//!
//! Chunks come from another thread over a bounded channel. Gzip (of several members too), zstd (of several frames too)
//! and plain archives are told apart by their first bytes, as the other runtimes do: media types in the wild are
//! wrong often enough, and the digest of the uncompressed bytes decides in the end anyway.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::{Buf as _, Bytes};
use flate2::bufread::MultiGzDecoder;

use super::Fault;
use super::digesting::DigestThread;
use crate::digest::{Algorithm, Digest};

/// Uncompressed bytes of one buffer, of which a layer has up to five. Large enough that a file's content reaches the
/// disk in few writes, small enough for a second-level cache.
const BUFFER: usize = 128 * 1024;

/// Chunks that may wait for the unpacking thread. A chunk from the network holds a read buffer of up to 400 KiB.
const CHUNKS: usize = 4;

/// What goes over the channel: the end is said, so that a caller who gave up isn't taken for one who is done.
pub(crate) enum Chunk {
    Bytes(Bytes),
    End,
}

/// The channel from the writer to the unpacking thread.
pub(crate) fn channel() -> (SyncSender<Chunk>, Chunks) {
    let (sender, receiver) = sync_channel(CHUNKS);
    (sender, Chunks { receiver, current: Bytes::new(), ended: false })
}

/// The compressed bytes, as they arrive.
pub(crate) struct Chunks {
    receiver: Receiver<Chunk>,
    current: Bytes,
    ended: bool,
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() && !self.ended {
            match self.receiver.recv() {
                Ok(Chunk::Bytes(bytes)) => self.current = bytes,
                Ok(Chunk::End) => self.ended = true,
                Err(_) => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, Abandoned)),
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, amount: usize) {
        self.current.advance(amount);
    }
}

/// The writer was dropped before its end. Never shown to anybody: who would see it is gone.
#[derive(Debug, thiserror::Error)]
#[error("the download was given up")]
struct Abandoned;

impl Read for Chunks {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let ready = self.fill_buf()?;
        let count = ready.len().min(into.len());
        into[..count].copy_from_slice(&ready[..count]);
        self.consume(count);
        Ok(count)
    }
}

/// The uncompressed bytes, digested.
pub(crate) struct Stream {
    decoder: Decoder,
    digest: DigestThread,
    buffer: Arc<Vec<u8>>,
    /// Earlier buffers, which the digesting thread may still be reading.
    used: VecDeque<Arc<Vec<u8>>>,
    start: usize,
    end: usize,
    progress: Box<dyn FnMut(u64)>,
}

enum Decoder {
    Plain(Prefixed),
    Gzip(Box<MultiGzDecoder<Prefixed>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Prefixed>>),
}

impl Stream {
    /// Looks at the first bytes and chooses the decompressor. `progress` is told of every further uncompressed byte.
    pub(crate) fn open(
        chunks: impl BufRead + 'static,
        algorithm: Algorithm,
        progress: Box<dyn FnMut(u64)>,
    ) -> Result<Stream, Fault> {
        let source = Prefixed::new(Box::new(chunks)).map_err(Fault::Stream)?;
        let decoder = match source.first() {
            [0x1f, 0x8b, ..] => Decoder::Gzip(Box::new(MultiGzDecoder::new(source))),
            // A zstd frame, or a skippable one before it (RFC 8878, sections 3.1.1 and 3.1.2).
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
                let decoder = zstd::stream::read::Decoder::with_buffer(source).map_err(Fault::Stream)?;
                Decoder::Zstd(Box::new(decoder))
            }
            _ => Decoder::Plain(source),
        };
        let digest = DigestThread::start(algorithm).map_err(Fault::Stream)?;
        Ok(Stream {
            decoder,
            digest,
            buffer: Arc::default(),
            used: VecDeque::new(),
            start: 0,
            end: 0,
            progress,
        })
    }

    /// The next bytes, at most `limit`, used at once; none if the stream has ended.
    pub(crate) fn take(&mut self, limit: u64) -> Result<&[u8], Fault> {
        if self.start == self.end {
            self.refill().map_err(Fault::Stream)?;
        }
        let ready = self.end - self.start;
        let count = usize::try_from(limit).map_or(ready, |limit| limit.min(ready));
        let start = self.start;
        self.start += count;
        Ok(&self.buffer[start..start + count])
    }

    /// Reads exactly `into`. False if the stream ends before its first byte.
    pub(crate) fn read_block(&mut self, into: &mut [u8]) -> Result<bool, Fault> {
        let mut filled = 0;
        while filled < into.len() {
            let bytes = self.take((into.len() - filled) as u64)?;
            if bytes.is_empty() {
                return if filled == 0 { Ok(false) } else { Err(Fault::Archive("it ends within an entry")) };
            }
            into[filled..filled + bytes.len()].copy_from_slice(bytes);
            filled += bytes.len();
        }
        Ok(true)
    }

    /// Reads what follows the archive's end (the digest covers it) and returns the digest of all bytes.
    pub(crate) fn finish(mut self) -> Result<Digest, Fault> {
        while !self.take(u64::MAX)?.is_empty() {}
        self.digest.finish().map_err(Fault::Stream)
    }

    fn refill(&mut self) -> io::Result<()> {
        (self.start, self.end) = (0, 0);
        let mut next = self.free_buffer();
        if let Some(buffer) = Arc::get_mut(&mut next) {
            self.end = self.decoder.fill(buffer)?;
        }
        let used = std::mem::replace(&mut self.buffer, next);
        // The first one, from before anything was read, has no room.
        if !used.is_empty() {
            self.used.push_back(used);
        }
        self.digest.update((Arc::clone(&self.buffer), self.end));
        (self.progress)(self.end as u64);
        Ok(())
    }

    /// A buffer that nobody reads: the oldest, if it is done with, or another.
    fn free_buffer(&mut self) -> Arc<Vec<u8>> {
        let free = self.used.front_mut().is_some_and(|oldest| Arc::get_mut(oldest).is_some());
        let oldest = if free { self.used.pop_front() } else { None };
        oldest.unwrap_or_else(|| Arc::new(vec![0; BUFFER]))
    }
}

impl Decoder {
    /// Reads until `into` is full or the stream has ended. Decompressors return little at a time; digesting and
    /// writing want much.
    fn fill(&mut self, into: &mut [u8]) -> io::Result<usize> {
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
struct Prefixed {
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
