//! Network namespaces that are made before a pod asks for one: the kernel takes as long for one as for a pod's other
//! namespaces together.
//!
//! Nothing is made before the first pod has asked, so that a node without such pods pays nothing. Each costs the kernel some
//! 100 KiB; they end with the daemon.

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::chain;

/// A store of them, which fills itself.
pub(crate) struct PreparedNetworks {
    /// How many are kept.
    wanted: usize,
    stock: Mutex<Stock>,
}

#[derive(Default)]
struct Stock {
    ready: VecDeque<OwnedFd>,
    is_being_filled: bool,
}

impl PreparedNetworks {
    pub(crate) fn new(wanted: usize) -> Arc<Self> {
        Arc::new(Self { wanted, stock: Mutex::default() })
    }

    /// One that is ready, if there is; others are made behind.
    pub(crate) fn take(self: &Arc<Self>) -> Option<OwnedFd> {
        let mut stock = self.stock();
        let taken = stock.ready.pop_front();
        if !stock.is_being_filled && stock.ready.len() < self.wanted {
            let store = Arc::downgrade(self);
            // Ends when the store is full, or gone.
            let filler = std::thread::Builder::new().name("pod-networks".to_owned());
            let filling = filler.spawn(move || while store.upgrade().is_some_and(|store| store.add_one()) {});
            stock.is_being_filled = filling.is_ok();
        }
        taken
    }

    /// How many are ready.
    pub(crate) fn ready(&self) -> usize {
        self.stock().ready.len()
    }

    /// Returns whether another is wanted.
    fn add_one(&self) -> bool {
        let made = runtime::namespaces::prepare_network();
        let mut stock = self.stock();
        match made {
            Ok(network) => {
                stock.ready.push_back(network);
                stock.is_being_filled = stock.ready.len() < self.wanted;
            }
            Err(error) => {
                // Pods make theirs themselves, and tell what is wrong if it still is.
                tracing::warn!(error = chain(&error), "no network namespace could be prepared");
                stock.is_being_filled = false;
            }
        }
        stock.is_being_filled
    }

    fn stock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for PreparedNetworks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedNetworks").field("wanted", &self.wanted).finish_non_exhaustive()
    }
}
