//! What writable layers hold: walks over directories, of which some never end.
//!
//! A walk over a disk that hangs doesn't come back. It is waited for once, for [`PATIENCE`] from its beginning; whoever asks later is
//! told at once what the last one found, until it ends after all. There is never more than one for a container, and few at a time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::Kept;
use crate::id::ContainerId;
use crate::rootfs::LayerUsage;
use crate::shared::Shared;

/// How long a walk may take before answers go without it.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is known of a container's layer.
#[derive(Debug, Default)]
pub(super) struct Layer(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// What the last walk found that has ended; nothing when the layer couldn't be read.
    last: Option<LayerUsage>,
    under_way: Option<Walk>,
}

/// A walk that is under way.
#[derive(Debug, Clone)]
pub(super) struct Walk {
    since: Instant,
    /// Closed at its end.
    end: watch::Receiver<()>,
}

impl Layer {
    /// Begins a walk, or joins the one that is under way. `kept` is what the layer is part of.
    pub(super) fn walk(&self, shared: &Arc<Shared>, id: &ContainerId, kept: &Arc<Kept>) -> Walk {
        let mut known = self.lock();
        if let Some(walk) = known.under_way.as_ref().filter(|walk| walk.end.has_changed().is_ok()) {
            return walk.clone();
        }
        let (sender, end) = watch::channel(());
        let walk = Walk { since: Instant::now(), end };
        known.under_way = Some(walk.clone());
        let (shared, id, kept) = (shared.clone(), id.clone(), kept.clone());
        // Nobody's when all who waited have given up; it ends when its walk does.
        tokio::spawn(async move {
            // Never closed. Those that hang keep their seats, and what others found last is told meanwhile.
            let _seat = shared.looks.walkers.acquire().await;
            let found = shared.rootfs.usage(&id).await.ok();
            let mut known = kept.layer.lock();
            (known.last, known.under_way) = (found, None);
            drop(sender);
        });
        walk
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Walk {
    /// What it finds, or in its place, when it is not back in time, what the one before found.
    pub(super) async fn outcome(mut self, kept: &Kept) -> Option<LayerUsage> {
        let _ended_or_late = timeout_at(self.since + PATIENCE, self.end.changed()).await;
        kept.layer.lock().last
    }
}
