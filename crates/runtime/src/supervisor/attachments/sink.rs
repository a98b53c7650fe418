//! One stream's copy: a pipe that is never waited for, and what it had no room for.
//!
//! Not here: how much may be kept (the parent module).

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags, fcntl_getfl, fcntl_setfl, fstat};
use rustix::io::Errno;

use super::refused;
use crate::supervisor::lines::Source;
use crate::{FailedStep, Failure};

/// What is allocated at once for what is kept, in bytes. Below what the allocator maps apart, and given back with what was read.
const CHUNK: usize = 64 << 10;

/// One stream's copy.
#[derive(Debug)]
pub(super) struct Sink {
    pub(super) source: Source,
    pipe: OwnedFd,
    kept: Kept,
}

/// Bytes in the order in which they came.
#[derive(Debug, Default)]
struct Kept {
    chunks: VecDeque<Vec<u8>>,
    /// How much of the first chunk has gone.
    gone: usize,
    length: usize,
}

/// Nobody reads the pipe any more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Closed;

impl AsFd for Sink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

impl Sink {
    /// How much waits for room, in bytes.
    pub(super) fn kept(&self) -> usize {
        self.kept.length
    }

    /// Of a pipe's writing end, which doesn't block from now on.
    pub(super) fn new(source: Source, pipe: OwnedFd) -> Result<Self, Failure> {
        let failed = |errno| Failure::system(FailedStep::Stdio, errno, "attachment");
        // Of anything else a write could wait although it is told not to.
        if FileType::from_raw_mode(fstat(&pipe).map_err(failed)?.st_mode) != FileType::Fifo {
            return Err(refused("an attachment's descriptor is no pipe"));
        }
        let flags = fcntl_getfl(&pipe).map_err(failed)?;
        fcntl_setfl(&pipe, flags | OFlags::NONBLOCK).map_err(failed)?;
        Ok(Self { source, pipe, kept: Kept::default() })
    }

    /// Writes, and keeps what has no room.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), Closed> {
        let written = if self.kept.is_empty() { self.write(bytes)? } else { 0 };
        self.kept.push(&bytes[written..]);
        Ok(())
    }

    /// Writes what is kept, as far as there is room.
    pub(super) fn flush(&mut self) -> Result<(), Closed> {
        while let Some(first) = self.kept.first() {
            let (length, written) = (first.len(), self.write(first)?);
            self.kept.take(written);
            if written < length {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> Result<usize, Closed> {
        let mut written = 0;
        while written < bytes.len() {
            match rustix::io::write(&self.pipe, &bytes[written..]) {
                Ok(some) => written += some,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => return Err(Closed),
            }
        }
        Ok(written)
    }

    /// Whether anybody could read.
    pub(super) fn has_reader(&self) -> bool {
        let mut polled = [PollFd::new(&self.pipe, PollFlags::empty())];
        let now = Timespec::default();
        !matches!(poll(&mut polled, Some(&now)), Ok(1..)) || !polled[0].revents().contains(PollFlags::ERR)
    }
}

impl Kept {
    fn is_empty(&self) -> bool {
        self.length == 0
    }

    fn push(&mut self, mut bytes: &[u8]) {
        self.length += bytes.len();
        while !bytes.is_empty() {
            let room = self.chunks.back().map_or(0, |last| CHUNK - last.len());
            if room == 0 {
                self.chunks.push_back(Vec::with_capacity(CHUNK));
                continue;
            }
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            if let Some(last) = self.chunks.back_mut() {
                last.extend_from_slice(now);
            }
            bytes = later;
        }
    }

    fn first(&self) -> Option<&[u8]> {
        self.chunks.front().map(|first| &first[self.gone..])
    }

    /// Forgets that many bytes of the first chunk.
    fn take(&mut self, count: usize) {
        self.gone += count;
        self.length -= count;
        if self.chunks.front().is_some_and(|first| first.len() <= self.gone) {
            self.chunks.pop_front();
            self.gone = 0;
        }
        if self.chunks.is_empty() {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_kept_comes_out_as_it_went_in(
            lengths in proptest::collection::vec(0usize..150_000, 0..8),
            step in 1usize..100_000,
        ) {
            let mut kept = Kept::default();
            let count = |(from, length): (usize, &usize)| (from..from + length).map(|at| at.to_le_bytes()[0]).collect();
            let pushed: Vec<Vec<u8>> = lengths.iter().enumerate().map(count).collect();
            pushed.iter().for_each(|bytes| kept.push(bytes));
            let mut all = Vec::new();
            while let Some(first) = kept.first() {
                let count = first.len().min(step);
                all.extend_from_slice(&first[..count]);
                kept.take(count);
            }
            prop_assert!(kept.is_empty() && kept.chunks.is_empty());
            prop_assert_eq!(all, pushed.concat());
        }
    }
}
