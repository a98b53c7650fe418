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
            self.work_off().await;
            if self.ending.is_some() || !self.core.gate.is_clear() {
                return;
            }
            if let Some(Joining { plugin, told, .. }) = self.joining.pop_front() {
                let _has_gone = told.send(self.let_in(plugin).await);
            }
        }
    }

    /// Answers and tells what is there now, as long as the first one can wait.
    async fn work_off(&mut self) {
        for _ in 0..self.messages.len() {
            let Ok((came, message)) = self.messages.try_recv() else { return };
            self.cut_off_who_is_slow(came);
            self.take(message).await;
            if self.joining.front().is_some_and(|first| first.deadline <= Instant::now()) {
                return self.send_away();
            }
        }
    }

    /// The one that has waited longest has waited too long.
    pub(super) fn send_away(&mut self) {
        if let Some(joining) = self.joining.pop_front() {
            let _has_gone =
                joining.told.send(Err("what is being made, or told to others, takes too long".into()));
        }
    }

    /// Tells a plugin all that there is; from then on it hears of every event.
    async fn let_in(&mut self, plugin: Plugin) -> Result<(), String> {
        if let Some(why) = plugin.connection.ended() {
            return Err(why);
        }
        let patience = self.core.config.registration_timeout;
        let deadline = Instant::now() + patience;
        let Snapshot { pods, containers } = self.snapshot(patience).await?;
        let counts = (pods.len(), containers.len());
        let synchronized = plugin.synchronize((pods, containers), deadline).await;
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
