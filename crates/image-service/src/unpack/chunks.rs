//! Compressed bytes that another thread hands over, chunk by chunk, through a bounded channel.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::{Buf as _, Bytes};

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
        let count = self.fill_buf()?.read(into)?;
        self.consume(count);
        Ok(count)
    }
}
