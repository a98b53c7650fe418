//! What all pulls together may use at a time: connections, and compressed bytes in memory.
//!
//! A free connection goes to the pull that has the fewest, so that an image of a hundred layers doesn't keep one of a
//! single layer waiting. The memory that zstd wants has a budget of its own (`unpack::Windows`): a layer that waits for it holds
//! chunks, and could keep those out whose end it waits for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::chunk::Chunks;
use crate::config::Limits;
use crate::unpack::Windows;

/// A pull, as long as it lasts.
pub(super) type PullNumber = u64;

/// The budget of the service.
#[derive(Debug)]
pub(super) struct Budget {
    connections: Arc<Connections>,
    pub(super) chunks: Chunks,
    pub(super) windows: Arc<Windows>,
}

impl Budget {
    pub(super) fn new(limits: &Limits) -> Budget {
        let lines = Lines { free: limits.connections.max(1), ..Lines::default() };
        Budget {
            connections: Arc::new(Connections { lines: Mutex::new(lines) }),
            chunks: Chunks::new(limits.in_flight),
            windows: Arc::new(Windows::new(limits.zstd_windows, limits.zstd_window)),
        }
    }

    /// Waits for a connection. Safe to cancel.
    pub(super) async fn connection(&self, pull: PullNumber) -> Option<Connection> {
        self.connections.wait(pull).await.ok()
    }
}

#[derive(Debug)]
struct Connections {
    lines: Mutex<Lines>,
}

#[derive(Debug, Default)]
struct Lines {
    free: usize,
    /// Connections of each pull that has any.
    held: HashMap<PullNumber, usize>,
    /// Those who wait, the longest first.
    waiting: Vec<(PullNumber, oneshot::Sender<Connection>)>,
}

/// The right to one connection.
#[derive(Debug)]
pub(super) struct Connection {
    of: Option<Arc<Connections>>,
    pull: PullNumber,
}

impl Connections {
    fn wait(self: &Arc<Self>, pull: PullNumber) -> oneshot::Receiver<Connection> {
        let (tell, told) = oneshot::channel();
        let mut lines = self.lines();
        lines.waiting.push((pull, tell));
        self.serve(&mut lines);
        told
    }

    /// Gives what is free to those who wait.
    fn serve(self: &Arc<Self>, lines: &mut Lines) {
        while lines.free > 0 {
            let held = |pull: &PullNumber| lines.held.get(pull).copied().unwrap_or(0);
            let fewest = (0..lines.waiting.len()).min_by_key(|at| held(&lines.waiting[*at].0));
            let Some(at) = fewest else { return };
            let (pull, tell) = lines.waiting.remove(at);
            let given = tell.send(Connection { of: Some(Arc::clone(self)), pull });
            match given {
                Ok(()) => {
                    lines.free -= 1;
                    *lines.held.entry(pull).or_default() += 1;
                }
                // Who waited has gone. It isn't counted yet, so its end must not be counted either.
                Err(mut unused) => unused.of = None,
            }
        }
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let Some(connections) = self.of.take() else { return };
        let mut lines = connections.lines();
        lines.free += 1;
        if let Some(held) = lines.held.get_mut(&self.pull) {
            *held -= 1;
            if *held == 0 {
                lines.held.remove(&self.pull);
            }
        }
        connections.serve(&mut lines);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(connections: usize) -> Budget {
        Budget::new(&Limits { connections, ..Limits::default() })
    }

    #[tokio::test]
    async fn a_pull_of_many_layers_does_not_keep_another_waiting() {
        let budget = budget(2);
        let first = (budget.connection(1).await.unwrap(), budget.connection(1).await.unwrap());
        let mut more: Vec<_> = (0..3).map(|_| budget.connections.wait(1)).collect();
        let mut other = budget.connections.wait(2);
        let gone = budget.connections.wait(3);
        drop(gone);
        drop(first);
        let other = other.try_recv().unwrap();
        let second = more[0].try_recv().unwrap();
        assert!(more[1].try_recv().is_err());
        drop(other);
        let third = more[1].try_recv().unwrap();
        assert!(more[2].try_recv().is_err());
        drop((second, third));
        assert!(more[2].try_recv().is_ok());
        drop(more);
        assert_eq!(budget.connections.lines().free, 2);
        assert!(budget.connections.lines().held.is_empty());
    }
}
