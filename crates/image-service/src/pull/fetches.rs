//! The layers being fetched by whatever pull, so that each is fetched once.
//!
//! Whoever waits for a layer and then finds it in the store takes it as he would any day later: its diff id, which only a
//! configuration tells, is the proof that he may have it.

use tokio::sync::OwnedMutexGuard;

use crate::digest::Digest;
use crate::turns::Turns;

/// Whose turn it is to fetch each layer that somebody wants.
#[derive(Debug, Default)]
pub(super) struct Fetches(Turns<Digest>);

impl Fetches {
    /// Waits until nobody else fetches this layer. Safe to cancel.
    pub(super) async fn only_one(&self, diff_id: &Digest) -> OwnedMutexGuard<()> {
        self.0.wait(diff_id).await
    }
}
