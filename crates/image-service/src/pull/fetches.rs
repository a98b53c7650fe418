//! The layers being fetched by whatever pull, so that each is fetched once.
//!
//! Those that come from different registries don't wait for each other: one of them may be somebody's who means it to take hours.
//! Whoever has the layer first gives it to all; the other finds it there at its end.
//!
//! Whoever waits for a layer and then finds it in the store takes it as he would any day later: its diff id, which only a
//! configuration tells, is the proof that he may have it.

use tokio::sync::OwnedMutexGuard;

use crate::digest::Digest;
use crate::turns::Turns;

/// Whose turn it is to fetch each layer that somebody wants.
#[derive(Debug, Default)]
pub(super) struct Fetches(Turns<(String, Digest)>);

impl Fetches {
    /// Waits until nobody else fetches this layer of images of `registry`. Safe to cancel.
    pub(super) async fn only_one(&self, registry: &str, diff_id: &Digest) -> OwnedMutexGuard<()> {
        self.0.wait(&(registry.to_owned(), diff_id.clone())).await
    }
}
