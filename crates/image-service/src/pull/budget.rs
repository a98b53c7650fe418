//! What all pulls together may use at a time: connections, and compressed bytes in memory.
//!
//! A free connection goes to the pull that has the fewest, so that an image of a hundred layers doesn't keep one of a
//! single layer waiting; and a pull that has none needn't wait for a free one, so that a registry that only trickles, whose
//! layers may take hours, keeps nobody else waiting. The memory that zstd wants has a budget of its own (`unpack::Windows`): a
//! layer that waits for it holds chunks, and could keep those out whose end it waits for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::chunk::Chunks;
use crate::config::Limits;
use crate::unpack::Windows;

/// Connections beyond the bound, for pulls that have none: each costs some 2.5 MiB with its threads and buffers, and the daemon
/// promises 64 MiB.
const FIRSTS: usize = 4;

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
        let lines = Lines { most: limits.connections.max(1), ..Lines::default() };
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
    /// Connections that there may be, and those that there are.
    most: usize,
    open: usize,
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

    /// Gives what there is to those who wait.
    fn serve(self: &Arc<Self>, lines: &mut Lines) {
        while let Some(at) = lines.next() {
            let (pull, tell) = lines.waiting.remove(at);
            let given = tell.send(Connection { of: Some(Arc::clone(self)), pull });
            match given {
                Ok(()) => {
                    lines.open += 1;
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

impl Lines {
    /// Who is next of those who wait, if there is a connection for him.
    fn next(&self) -> Option<usize> {
        let held = |at: &usize| self.held.get(&self.waiting[*at].0).copied().unwrap_or(0);
        let fewest = (0..self.waiting.len()).min_by_key(held)?;
        let most = if held(&fewest) == 0 { self.most + FIRSTS } else { self.most };
        (self.open < most).then_some(fewest)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let Some(connections) = self.of.take() else { return };
        let mut lines = connections.lines();
        lines.open -= 1;
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
        let mut other: Vec<_> = (0..2).map(|_| budget.connections.wait(2)).collect();
        // Its first isn't waited for.
        let others = other[0].try_recv().unwrap();
        assert!(other[1].try_recv().is_err() && more[0].try_recv().is_err());
        let gone = budget.connections.wait(3);
        drop(gone);
        drop(first);
        // The bound holds again: of three there is one less, and of those who wait the first pull has none now.
        let second = more[0].try_recv().unwrap();
        assert!(more[1].try_recv().is_err() && other[1].try_recv().is_err());
        drop(others);
        let others = other[1].try_recv().unwrap();
        drop((second, others));
        let third = (more[1].try_recv().unwrap(), more[2].try_recv().unwrap());
        drop((third, more, other));
        assert_eq!(budget.connections.lines().open, 0);
        assert!(budget.connections.lines().held.is_empty());
    }

    #[tokio::test]
    async fn firsts_are_bounded() {
        let budget = budget(2);
        let _first = (budget.connection(0).await.unwrap(), budget.connection(0).await.unwrap());
        let mut waiting: Vec<_> = (1..=FIRSTS as u64 + 1).map(|pull| budget.connections.wait(pull)).collect();
        let mut last = waiting.pop().unwrap();
        let given: Vec<_> = waiting.iter_mut().map(|waiting| waiting.try_recv().unwrap()).collect();
        assert!(last.try_recv().is_err());
        drop(given);
        assert!(last.try_recv().is_ok());
    }
}
