//! Who waits for whom beyond a single attachment.
//!
//! | | the node | its network |
//! |---|---|---|
//! | ADD, DEL, CHECK | with others | with others |
//! | collecting a network (GC) | with others | alone (SPEC.md section 3, "Garbage-collecting") |
//! | taking away what all stand on | alone | |
//!
//! Who wants the node alone may wait for it, and all who come later wait behind: so nobody who has the node asks for it again.
//! Who wants a network alone never waits for it. One operation at a time for each attachment is `locks`' affair.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// The locks of the node and of all networks that anything has been done in.
#[derive(Debug, Default)]
pub(crate) struct Quiet {
    node: Arc<RwLock<()>>,
    networks: Mutex<HashMap<String, Arc<RwLock<()>>>>,
}

/// Somebody comes, goes or is looked at.
#[derive(Debug)]
pub(crate) struct Busy {
    _network: OwnedRwLockReadGuard<()>,
    _node: OwnedRwLockReadGuard<()>,
}

/// Nobody comes or goes in a network.
#[derive(Debug)]
pub(crate) struct Still {
    _network: OwnedRwLockWriteGuard<()>,
    _node: OwnedRwLockReadGuard<()>,
}

impl Quiet {
    /// The node's own, for who has to have it alone.
    pub(crate) fn node(&self) -> &Arc<RwLock<()>> {
        &self.node
    }

    /// The right to do something in a network, among others.
    ///
    /// Cancel safe.
    pub(crate) async fn busy(&self, network: &str) -> Busy {
        let node = Arc::clone(&self.node).read_owned().await;
        Busy { _network: self.network(network).read_owned().await, _node: node }
    }

    /// The right to collect a network, if nothing is being done in it.
    ///
    /// Cancel safe.
    pub(crate) async fn still(&self, network: &str) -> Option<Still> {
        let node = Arc::clone(&self.node).read_owned().await;
        Some(Still { _network: self.network(network).try_write_owned().ok()?, _node: node })
    }

    fn network(&self, name: &str) -> Arc<RwLock<()>> {
        let mut networks = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(networks.entry(name.to_owned()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn is_pending<T>(work: impl Future<Output = T>) -> bool {
        pin!(work).poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    #[tokio::test]
    async fn a_network_is_collected_alone_and_keeps_no_other() {
        let quiet = Quiet::default();
        let one = quiet.busy("a").await;
        assert!(quiet.still("a").await.is_none());
        drop((one, quiet.busy("a").await));
        let still = quiet.still("a").await.unwrap();
        assert!(quiet.still("a").await.is_none());
        assert!(is_pending(quiet.busy("a")));
        drop(quiet.busy("b").await);
        let mut waiting = pin!(quiet.busy("a"));
        assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(still);
        waiting.await;
    }

    #[tokio::test]
    async fn the_ground_is_nobodys_while_anything_is_done() {
        let quiet = Quiet::default();
        let (busy, still) = (quiet.busy("a").await, quiet.still("b").await.unwrap());
        assert!(quiet.node().try_write().is_err());
        let mut alone = pin!(quiet.node().write());
        assert!(alone.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        // Who comes after waits behind; who is there ends all the same.
        assert!(is_pending(quiet.busy("c")));
        drop((busy, still));
        assert!(matches!(alone.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(_)));
    }
}
