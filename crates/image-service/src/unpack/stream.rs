//! The uncompressed bytes of a layer, digested as they pass.
//!
//! Not here: decompressing (`decoder`), digesting (`digesting`).

use std::collections::VecDeque;
use std::io::{self, BufRead};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::Fault;
use super::decoder::Decoder;
use super::digesting::{Digesting, Lane, Piece};
use super::meter::{Meter, Stage, thread_time};
use super::window::Windows;
use crate::digest::{Algorithm, Digest};

/// Uncompressed bytes of one buffer, of which a layer has up to six. Large enough that a file's content reaches the
/// disk in few writes, small enough for a second-level cache.
const BUFFER: usize = 128 * 1024;

/// What a layer is unpacked with, besides its bytes.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    pub(crate) digesting: Digesting,
    pub(crate) meter: Arc<Meter>,
    pub(crate) windows: Arc<Windows>,
    /// Uncompressed bytes after which the layer is refused.
    pub(crate) most: u64,
    /// Nobody wants the layer any more.
    pub(crate) given_up: Arc<AtomicBool>,
}

impl Tools {
    /// Tools that are shared with no other layer, for zstd frames whose windows have up to `window` bytes.
    pub(crate) fn alone(window: u64) -> io::Result<Tools> {
        let windows = Arc::new(Windows::new(window, window));
        let meter = Arc::<Meter>::default();
        let digesting = Digesting::start(Arc::clone(&meter))?;
        Ok(Tools { digesting, meter, windows, most: u64::MAX, given_up: Arc::default() })
    }
}

/// The uncompressed bytes, digested.
pub(crate) struct Stream {
    decoder: Decoder,
    digest: Lane,
    buffer: Arc<Vec<u8>>,
    /// Earlier buffers, which the digesting thread may still be reading.
    used: VecDeque<Arc<Vec<u8>>>,
    start: usize,
    end: usize,
    /// Bytes so far.
    total: u64,
    progress: Box<dyn FnMut(u64)>,
    tools: Tools,
    /// Processor time of this thread that was no other stage's, when the stream began.
    begun: Duration,
}

impl Stream {
    /// Looks at the first bytes and chooses the decompressor. `progress` is told of every further uncompressed byte.
    pub(crate) fn open(
        source: impl BufRead + 'static,
        algorithm: Algorithm,
        progress: Box<dyn FnMut(u64)>,
        tools: Tools,
    ) -> Result<Stream, Fault> {
        let begun = of_writing(&tools.meter);
        let decoder =
            Decoder::open(Box::new(source), &tools.windows, &tools.given_up).map_err(Fault::Stream)?;
        Ok(Stream {
            decoder,
            digest: tools.digesting.lane(algorithm),
            buffer: Arc::default(),
            used: VecDeque::new(),
            start: 0,
            end: 0,
            total: 0,
            progress,
            tools,
            begun,
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

    /// Goes over `amount` bytes.
    pub(crate) fn skip(&mut self, mut amount: u64) -> Result<(), Fault> {
        while amount > 0 {
            let count = self.take(amount)?.len();
            if count == 0 {
                return Err(Fault::Archive("it ends within an entry"));
            }
            amount -= count as u64;
        }
        Ok(())
    }

    /// Reads what follows the archive's end (the digest covers it) and returns the digest of all bytes.
    pub(crate) fn finish(mut self) -> Result<Digest, Fault> {
        while !self.take(u64::MAX)?.is_empty() {}
        let meter = &self.tools.meter;
        meter.spent(Stage::Writing, of_writing(meter).saturating_sub(self.begun));
        self.digest.finish().map_err(Fault::Stream)
    }

    fn refill(&mut self) -> io::Result<()> {
        (self.start, self.end) = (0, 0);
        let mut next = self.free_buffer();
        if let Some(buffer) = Arc::get_mut(&mut next) {
            self.end = metered(&self.tools.meter, || self.decoder.fill(buffer))?;
        }
        let used = std::mem::replace(&mut self.buffer, next);
        // The first one, from before anything was read, has no room.
        if !used.is_empty() {
            self.used.push_back(used);
        }
        let count = self.end as u64;
        self.total += count;
        if self.total > self.tools.most {
            let text = format!("it unpacks to more than {} bytes", self.tools.most);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        self.digest.update(Piece::Buffer(Arc::clone(&self.buffer), self.end));
        self.tools.meter.add_unpacked(count);
        (self.progress)(count);
        Ok(())
    }

    /// A buffer that nobody reads: the oldest, if it is done with, or another.
    fn free_buffer(&mut self) -> Arc<Vec<u8>> {
        let free = self.used.front_mut().is_some_and(|oldest| Arc::get_mut(oldest).is_some());
        let oldest = if free { self.used.pop_front() } else { None };
        oldest.unwrap_or_else(|| Arc::new(vec![0; BUFFER]))
    }
}

/// Counts what the decompressor takes, without what its source does meanwhile.
fn metered<T>(meter: &Meter, work: impl FnOnce() -> T) -> T {
    let (begun, aside) = (thread_time(), meter.time(Stage::Spooling));
    let outcome = work();
    let took = thread_time().saturating_sub(begun);
    meter.spent(Stage::Decompressing, took.saturating_sub(meter.time(Stage::Spooling).saturating_sub(aside)));
    outcome
}

/// Processor time of this thread that is no other stage's.
fn of_writing(meter: &Meter) -> Duration {
    thread_time().saturating_sub(meter.time(Stage::Decompressing) + meter.time(Stage::Spooling))
}
