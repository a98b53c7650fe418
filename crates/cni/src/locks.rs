//! One operation at a time for each attachment, as the specification asks of a runtime; others go on meanwhile. And how every
//! mutex of this crate is taken.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;

use crate::attachment::AttachmentId;

/// Takes a mutex, whatever has become of who had it before: what they guard here is whole after each line.
pub(crate) fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The locks of all attachments that something is being done to.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    held: Mutex<HashMap<AttachmentId, Arc<tokio::sync::Mutex<()>>>>,
}

/// The right to work on one attachment.
#[derive(Debug)]
pub(crate) struct Lock {
    locks: Arc<Locks>,
    id: AttachmentId,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Locks {
    /// Waits for the attachment to be free.
    ///
    /// Cancel safe.
    pub(crate) async fn lock(self: &Arc<Self>, id: AttachmentId) -> Lock {
        let mutex = self.mutex(&id);
        // Made first, so that its drop forgets the entry when the wait is given up.
        let mut lock = Lock { locks: Arc::clone(self), id, guard: None };
        lock.guard = Some(mutex.lock_owned().await);
        lock
    }

    /// The right to work on the attachment if nobody does.
    pub(crate) fn try_lock(self: &Arc<Self>, id: AttachmentId) -> Option<Lock> {
        let mutex = self.mutex(&id);
        // As in `lock`: who has it may give it back at this moment, and leave the entry to us.
        let mut lock = Lock { locks: Arc::clone(self), id, guard: None };
        lock.guard = Some(mutex.try_lock_owned().ok()?);
        Some(lock)
    }

    fn mutex(&self, id: &AttachmentId) -> Arc<tokio::sync::Mutex<()>> {
        let mut held = locked(&self.held);
        Arc::clone(held.entry(id.clone()).or_default())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.guard = None;
        let mut held = locked(&self.locks.held);
        // Whoever else wants it has a reference, taken under this map's lock.
        if held.get(&self.id).is_some_and(|mutex| Arc::strong_count(mutex) == 1) {
            held.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> AttachmentId {
        AttachmentId { container_id: name.into(), ifname: "eth0".into() }
    }

    #[tokio::test]
    async fn one_holds_it_and_nothing_is_left_behind() {
        let locks = Arc::new(Locks::default());
        let first = locks.lock(id("a")).await;
        assert!(locks.try_lock(id("a")).is_none());
        let other = locks.try_lock(id("b")).unwrap();
        let waiting = tokio::spawn({
            let locks = Arc::clone(&locks);
            async move { drop(locks.lock(id("a")).await) }
        });
        drop((first, other));
        waiting.await.unwrap();
        assert!(locks.held.lock().unwrap().is_empty());
    }
}
