//! The compressed bytes of a layer, on the thread that unpacks it: first those that an earlier attempt kept, then those that
//! arrive. Each is digested, and kept for a later attempt, as it passes.
//!
//! The end of the bytes is only told when their digest is right, so that nothing wrong is ever committed.
//! Not here: where they come from (`layer`).

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::sync::{mpsc, oneshot};

use super::progress::LayerMeter;
use super::spool::Spool;
use crate::digest::Digest;
use crate::error::Error;
use crate::unpack::{Lane, Piece, Stage, thread_time};

/// Bytes of a spool that are read at once.
const READ: usize = 256 << 10;

/// What is handed to the thread.
pub(super) enum Arrival {
    Bytes(Bytes),
    /// All bytes have come, lastly from this address.
    End {
        url: String,
    },
}

/// The bytes on their way.
pub(super) struct Inlet {
    arrivals: mpsc::Receiver<Arrival>,
    spool: Option<Spool>,
    /// Bytes of the spool that have passed, and who wants to know when all have.
    replayed: u64,
    tell: Option<oneshot::Sender<u64>>,
    current: Bytes,
    ended: bool,
    lane: Lane,
    expected: Digest,
    meter: Arc<LayerMeter>,
    /// Why the bytes are wrong, if they are.
    pub(super) wrong: Option<Error>,
    /// Nobody wants the layer any more.
    pub(super) given_up: bool,
}

pub(super) struct InletPlan {
    pub(super) arrivals: mpsc::Receiver<Arrival>,
    pub(super) spool: Option<Spool>,
    /// Told how many bytes were here already, once they have passed.
    pub(super) tell: oneshot::Sender<u64>,
    pub(super) lane: Lane,
    pub(super) expected: Digest,
    pub(super) meter: Arc<LayerMeter>,
}

impl Inlet {
    pub(super) fn new(plan: InletPlan) -> Inlet {
        let InletPlan { arrivals, spool, tell, lane, expected, meter } = plan;
        Inlet {
            arrivals,
            spool,
            replayed: 0,
            tell: Some(tell),
            current: Bytes::new(),
            ended: false,
            lane,
            expected,
            meter,
            wrong: None,
            given_up: false,
        }
    }

    /// Keeps nothing of this layer for a later attempt.
    pub(super) fn forget(&mut self) {
        if let Some(spool) = &mut self.spool {
            spool.remove();
        }
    }

    /// Whether some of the bytes came from an earlier attempt.
    pub(super) fn has_resumed(&self) -> bool {
        self.replayed > 0
    }

    /// Reads what is still to come, of which nothing can be made any more: only its digest matters.
    pub(super) fn drain(&mut self) -> io::Result<()> {
        while !self.fill_buf()?.is_empty() {
            self.current = Bytes::new();
        }
        Ok(())
    }

    fn next(&mut self) -> io::Result<()> {
        if let Some(tell) = self.tell.take() {
            let kept = self.spool.as_ref().map_or(0, Spool::length);
            if self.replayed < kept {
                self.tell = Some(tell);
                return self.replay();
            }
            // Who waits for it may have gone; then the arrivals have ended too.
            let _ = tell.send(self.replayed);
        }
        match self.arrival() {
            Some(Arrival::Bytes(bytes)) => {
                self.keep(&bytes);
                self.pass(bytes);
                Ok(())
            }
            Some(Arrival::End { url }) => self.end(url),
            None => {
                self.given_up = true;
                Err(io::Error::from(io::ErrorKind::ConnectionAborted))
            }
        }
    }

    fn arrival(&mut self) -> Option<Arrival> {
        if let Ok(arrival) = self.arrivals.try_recv() {
            return Some(arrival);
        }
        let begun = Instant::now();
        let arrival = self.arrivals.blocking_recv();
        self.meter.layer.spent(Stage::Waiting, begun.elapsed());
        arrival
    }

    fn replay(&mut self) -> io::Result<()> {
        // Not beyond what the spool counts, behind which the next bytes will be written: a daemon that is just ending may
        // still be adding to the file.
        let rest = self.spool.as_ref().map_or(0, Spool::length).saturating_sub(self.replayed);
        let mut bytes = BytesMut::zeroed(READ.min(usize::try_from(rest).unwrap_or(READ)));
        let count = self.spool.as_ref().map_or(Ok(0), |spool| spool.read(&mut bytes, self.replayed))?;
        if count == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        bytes.truncate(count);
        self.replayed += count as u64;
        self.meter.resumed(count as u64);
        self.pass(bytes.freeze());
        Ok(())
    }

    fn pass(&mut self, bytes: Bytes) {
        self.lane.update(Piece::Chunk(bytes.clone()));
        self.current = bytes;
    }

    fn keep(&mut self, bytes: &[u8]) {
        if let Some(spool) = &mut self.spool {
            let begun = thread_time();
            spool.append(bytes);
            self.meter.layer.spent(Stage::Spooling, thread_time().saturating_sub(begun));
        }
    }

    fn end(&mut self, url: String) -> io::Result<()> {
        let actual = self.lane.finish()?;
        if actual == self.expected {
            self.ended = true;
            return Ok(());
        }
        self.forget();
        self.wrong = Some(Error::DigestMismatch { url, expected: self.expected.clone(), actual });
        Err(wrong_digest())
    }
}

fn wrong_digest() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "its digest is wrong")
}

impl BufRead for Inlet {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() && !self.ended {
            if self.wrong.is_some() {
                return Err(wrong_digest());
            }
            self.next()?;
        }
        Ok(&self.current)
    }

    fn consume(&mut self, amount: usize) {
        self.current.advance(amount);
    }
}

impl Read for Inlet {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let ready = self.fill_buf()?;
        let count = ready.len().min(into.len());
        into[..count].copy_from_slice(&ready[..count]);
        self.consume(count);
        Ok(count)
    }
}
