//! The pieces in which compressed bytes go from a connection to the thread that unpacks them.
//!
//! They are of one size and used again and again. What the network gives is copied into them at once, so that its own buffer
//! is free for what comes next: otherwise every read would be into fresh memory, which the kernel must clear first (measured:
//! a tenth of the processor time of pulling zstd layers), and whoever keeps the bytes would write them in small pieces.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf as _, Bytes};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of a chunk: whole pages in large units for a file, and no more than a processor's second-level cache holds.
pub(super) const CHUNK: usize = 256 << 10;

/// All chunks of the service, at most so many at a time, and one more for each layer that has none: a layer may hold some while
/// it waits for memory that another has, and that one must be able to go on.
#[derive(Debug)]
pub(super) struct Chunks {
    free: Arc<Semaphore>,
    count: usize,
    /// Buffers that wait to be used again, while any chunk is in use.
    idle: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Chunks {
    /// As many as `bytes` hold, and one at least.
    pub(super) fn new(bytes: u64) -> Chunks {
        let count = usize::try_from(bytes / CHUNK as u64).unwrap_or(Semaphore::MAX_PERMITS).max(1);
        Chunks { free: Arc::new(Semaphore::new(count)), count, idle: Arc::default() }
    }

    /// Waits for an empty one, for the bytes from `offset` up to the next multiple of [`CHUNK`]: whoever keeps them in a file
    /// writes whole large pages, also behind a chunk that was sent before it was full. Safe to cancel.
    pub(super) async fn take(&self, user: &User, offset: u64) -> Chunk {
        let permit = match Arc::clone(&self.free).try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) if user.has_none() => None,
            // Never closed; and if it were, without a bound is better than without a layer.
            Err(_) => Arc::clone(&self.free).acquire_owned().await.ok(),
        };
        let idle = lock(&self.idle).pop();
        Chunk {
            room: CHUNK - usize::try_from(offset % CHUNK as u64).unwrap_or(0),
            bytes: idle.unwrap_or_else(|| Vec::with_capacity(CHUNK)),
            idle: Arc::clone(&self.idle),
            free: Arc::clone(&self.free),
            count: self.count,
            permit,
            _user: user.clone(),
        }
    }
}

fn lock(idle: &Mutex<Vec<Vec<u8>>>) -> MutexGuard<'_, Vec<Vec<u8>>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A layer that chunks are for, known by who else has this.
#[derive(Debug, Clone, Default)]
pub(super) struct User(Arc<()>);

impl User {
    fn has_none(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

/// One that is being filled. It counts as in use until its bytes are dropped.
#[derive(Debug)]
pub(super) struct Chunk {
    /// Bytes that it is for.
    room: usize,
    bytes: Vec<u8>,
    idle: Arc<Mutex<Vec<Vec<u8>>>>,
    free: Arc<Semaphore>,
    count: usize,
    permit: Option<OwnedSemaphorePermit>,
    _user: User,
}

impl Chunk {
    /// Moves into it what there is room for: so many bytes.
    pub(super) fn fill(&mut self, from: &mut Bytes) -> u64 {
        let count = from.len().min(self.room - self.bytes.len());
        self.bytes.extend_from_slice(&from[..count]);
        from.advance(count);
        count as u64
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() == self.room
    }

    pub(super) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        let mut idle = lock(&self.idle);
        idle.push(bytes);
        drop(self.permit.take());
        if self.free.available_permits() == self.count {
            // Nobody pulls: then they aren't kept either.
            *idle = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn chunks_are_counted_until_their_last_part_has_gone_and_then_used_again() {
        let chunks = Chunks::new(2 * CHUNK as u64 + 1);
        let mut from = Bytes::from(vec![7; CHUNK + 10]);
        let user = User::default();
        let (mut one, mut two) =
            (chunks.take(&user, 0).await, chunks.take(&user, 3 * CHUNK as u64 - 11).await);
        assert_eq!((one.fill(&mut from), one.is_full(), from.len()), (CHUNK as u64, true, 10));
        assert_eq!((two.fill(&mut from), two.is_full()), (10, false));
        let mut more = Bytes::from_static(b"more");
        assert_eq!(
            (two.fill(&mut more), two.is_full(), more.len()),
            (1, true, 3),
            "up to where the next begins"
        );
        let whole = two.into_bytes();
        let part = whole.slice(2..9);
        drop(whole);
        assert_eq!((chunks.free.available_permits(), &part[..]), (0, &[7; 7][..]));
        drop(part);
        assert_eq!((chunks.free.available_permits(), lock(&chunks.idle).len()), (1, 1));
        assert!(chunks.take(&user, 0).await.as_ref().is_empty(), "nothing is left of what it had");
        drop(one);
        assert_eq!((chunks.free.available_permits(), lock(&chunks.idle).len()), (2, 0));
        assert_eq!(Chunks::new(0).count, 1);
    }

    #[tokio::test]
    async fn a_layer_without_a_chunk_gets_one_beyond_the_bound() {
        let (chunks, greedy, other) = (Chunks::new(0), User::default(), User::default());
        let _all = chunks.take(&greedy, 0).await;
        assert!(chunks.take(&greedy, 0).now_or_never().is_none());
        let first = chunks.take(&other, 0).now_or_never().unwrap();
        assert!(chunks.take(&other, 0).now_or_never().is_none());
        drop(first);
        assert!(chunks.take(&other, 0).now_or_never().is_some());
    }
}
