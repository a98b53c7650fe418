//! The stream that archives are read from, with the recipe that is made of it meanwhile.
//!
//! Whatever is read here is a part of the archive that only the recipe keeps, unless it is said to be content.

use super::stream::Stream;
use super::{Extent, Fault, Replaced, Stored};
use crate::digest::Digest;
use crate::recipe::Recorder;

/// A stream, and who writes the recipe.
pub(crate) struct Source {
    stream: Stream,
    recorder: Option<Recorder>,
}

impl Source {
    /// Without a recorder, nothing is kept.
    pub(crate) fn new(stream: Stream, recorder: Option<Recorder>) -> Source {
        Source { stream, recorder }
    }

    /// Reads exactly `into`. False if the stream ends before its first byte.
    pub(crate) fn read_block(&mut self, into: &mut [u8]) -> Result<bool, Fault> {
        if !self.stream.read_block(into)? {
            return Ok(false);
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.literal(into).map_err(failed)?;
        }
        Ok(true)
    }

    /// Goes over `amount` bytes.
    pub(crate) fn skip(&mut self, mut amount: u64) -> Result<(), Fault> {
        while amount > 0 {
            let bytes = self.stream.take(amount)?;
            if bytes.is_empty() {
                return Err(Fault::Archive("it ends within an entry"));
            }
            if let Some(recorder) = &mut self.recorder {
                recorder.literal(bytes).map_err(failed)?;
            }
            amount -= bytes.len() as u64;
        }
        Ok(())
    }

    /// The next bytes of an entry's content, at most `limit`; none if the stream has ended.
    pub(super) fn take_content(&mut self, limit: u64) -> Result<&[u8], Fault> {
        self.stream.take(limit)
    }

    /// Where the content went that was taken last, `read` bytes in these parts of its file, and what was replaced by it.
    pub(super) fn record(
        &mut self,
        (read, extents): (u64, &[Extent]),
        stored: &Stored,
        replaced: &[Replaced],
    ) -> Result<(), Fault> {
        let Some(recorder) = &mut self.recorder else { return Ok(()) };
        for replaced in replaced {
            recorder.replaced(replaced).map_err(failed)?;
        }
        recorder.content(read, stored, extents).map_err(failed)
    }

    /// Reads what follows the archive's end (the digest covers it) and returns the digest of all bytes.
    pub(crate) fn finish(mut self) -> Result<Digest, Fault> {
        loop {
            let bytes = self.stream.take(u64::MAX)?;
            if bytes.is_empty() {
                break;
            }
            if let Some(recorder) = &mut self.recorder {
                recorder.literal(bytes).map_err(failed)?;
            }
        }
        if let Some(recorder) = self.recorder.take() {
            recorder.finish().map_err(failed)?;
        }
        self.stream.finish()
    }
}

fn failed(cause: std::io::Error) -> Fault {
    Fault::create(b"(the recipe of its archive)", cause)
}
