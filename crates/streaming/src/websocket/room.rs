//! Memory for long messages. A session has room for short ones by itself; for longer ones it takes from what all sessions share, and
//! keeps that for as long as it lasts: so long its buffers stay as large.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What every session may send, in bytes. kubectl sends at most 32 KiB at once.
pub(crate) const SHORT: usize = 256 << 10;

/// The longest message of channels, in bytes: the peers' limit (`golang.org/x/net/websocket`). Clients in other languages send a file
/// in one.
pub(crate) const LONG: usize = 32 << 20;

/// How much long messages of all sessions may take together, in bytes.
const TOGETHER: usize = 256 << 20;

/// How much one permit stands for, in bytes.
const UNIT: usize = 1 << 10;

/// How many messages a session holds whose command takes none: one on its way to it, and one behind that.
const HELD: usize = 2;

/// No room for a long message, since others have it.
#[derive(Debug, thiserror::Error)]
#[error("too much is held for long messages on this node")]
pub(crate) struct NoRoom;

/// What all sessions share.
#[derive(Debug, Clone)]
pub(crate) struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(TOGETHER / UNIT)))
    }
}

/// What one session has of it.
#[derive(Debug)]
pub(crate) struct Share {
    room: Room,
    taken: Option<OwnedSemaphorePermit>,
}

impl Share {
    /// Nothing yet.
    pub(crate) fn new(room: Room) -> Self {
        Self { room, taken: None }
    }

    /// Makes sure of the room for a message of which so many bytes have come. One that is too long is refused where it is read, not
    /// here.
    ///
    /// # Errors
    /// [`NoRoom`]
    pub(crate) fn fit(&mut self, bytes: u64) -> Result<(), NoRoom> {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        if bytes <= SHORT || bytes > LONG {
            return Ok(());
        }
        let has = self.taken.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = (HELD * bytes).div_ceil(UNIT).saturating_sub(has);
        let more = u32::try_from(more).map_err(|_| NoRoom)?;
        let more = Arc::clone(&self.room.0).try_acquire_many_owned(more).map_err(|_| NoRoom)?;
        match &mut self.taken {
            Some(taken) => taken.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_keeps_what_its_longest_message_took_and_gives_it_back_at_its_end() {
        let room = Room::default();
        let left = |room: &Room| room.0.available_permits() * UNIT;
        let mut first = Share::new(room.clone());
        for (bytes, taken) in
            [(SHORT, 0), (1 << 20, 2 << 20), (LONG, 2 * LONG), (1 << 20, 2 * LONG), (LONG + 1, 2 * LONG)]
        {
            first.fit(bytes as u64).unwrap();
            assert_eq!(left(&room), TOGETHER - taken, "{bytes}");
        }
        let mut others: Vec<Share> = (0..4).map(|_| Share::new(room.clone())).collect();
        let fit = others.iter_mut().map(|other| other.fit(LONG as u64).is_ok()).collect::<Vec<_>>();
        assert_eq!(fit, [true, true, true, false]);
        drop(first);
        others.last_mut().unwrap().fit(LONG as u64).unwrap();
        drop(others);
        assert_eq!(left(&room), TOGETHER);
    }
}
