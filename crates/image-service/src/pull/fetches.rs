//! The layers being fetched by whatever pull, so that each is fetched once.
//!
//! Whoever waits for a layer and then finds it in the store takes it as he would any day later: its diff id, which only a
//! configuration tells, is the proof that he may have it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::digest::Digest;

/// A lock for each layer that somebody wants.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    locks: Mutex<HashMap<Digest, Weak<AsyncMutex<()>>>>,
}

impl Fetches {
    /// Waits until nobody else fetches this layer. Safe to cancel.
    pub(super) async fn only_one(&self, diff_id: &Digest) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| lock.strong_count() > 0);
            match locks.get(diff_id).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    let lock = Arc::new(AsyncMutex::new(()));
                    locks.insert(diff_id.clone(), Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }
}
