//! Letting plugins in.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Hub, Snapshot};
use crate::plugin::Plugin;

/// A plugin that waits to be let in.
pub(super) struct Joining {
    pub(super) plugin: Plugin,
    pub(super) told: oneshot::Sender<Result<(), String>>,
    /// When it has waited long enough: somebody holds a window open, and everybody else waits with it.
    pub(super) deadline: Instant,
}

impl Hub {
    /// Lets everybody in who waits, as long as no window is open.
    pub(super) async fn let_all_in(&mut self) {
        while !self.joining.is_empty() && self.core.gate.is_clear() {
            // What has happened so far is in what a plugin is told now, so that it must not hear of it again.
            while let Ok((_, message)) = self.messages.try_recv() {
                self.take(message).await;
            }
            if self.ending.is_some() || !self.core.gate.is_clear() {
                return;
            }
            if let Some(Joining { plugin, told, .. }) = self.joining.pop_front() {
                let _has_gone = told.send(self.let_in(plugin).await);
            }
        }
    }

    /// The one that has waited longest has waited too long.
    pub(super) fn send_away(&mut self) {
        if let Some(joining) = self.joining.pop_front() {
            let _has_gone =
                joining.told.send(Err("something is being made all the while that takes too long".into()));
        }
    }

    /// Tells a plugin all that there is; from then on it hears of every event.
    async fn let_in(&mut self, plugin: Plugin) -> Result<(), String> {
        if let Some(why) = plugin.connection.ended() {
            return Err(why);
        }
        let patience = self.core.config.registration_timeout;
        let Snapshot { pods, containers } = self.snapshot(patience).await?;
        let counts = (pods.len(), containers.len());
        let synchronized = plugin.synchronize((pods, containers), patience).await;
        let updates = synchronized.map_err(|error| format!("Synchronize: {error}"))?;
        tracing::info!(plugin = %plugin.name, pods = counts.0, containers = counts.1, "a plugin is in");
        // Nobody waits for them.
        drop(self.core.want(updates, Vec::new()));
        let at = self.plugins.partition_point(|known| known.name.index <= plugin.name.index);
        self.plugins.insert(at, plugin);
        self.show();
        Ok(())
    }

    async fn snapshot(&self, patience: Duration) -> Result<Snapshot, String> {
        let runtime = self.core.runtime.get().ok_or("the runtime is not there yet")?.clone();
        let snapshot = tokio::time::timeout(patience, runtime.snapshot()).await;
        snapshot.map_err(|_| format!("what there is can't be read within {patience:?}"))
    }
}
