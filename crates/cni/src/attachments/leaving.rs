//! Those whose DEL has been answered and is being finished. What isn't here: finishing it, which is `del`'s affair.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::watch;

use crate::attachment::AttachmentId;

/// All of them, each with its network.
#[derive(Debug, Default)]
pub(super) struct Leaving(watch::Sender<HashMap<AttachmentId, String>>);

/// One of them: it is until this is dropped, however its task ends.
#[derive(Debug)]
pub(super) struct Departure {
    leaving: Arc<Leaving>,
    id: AttachmentId,
}

impl Leaving {
    /// One more.
    pub(super) fn depart(self: &Arc<Self>, id: AttachmentId, network: String) -> Departure {
        self.0.send_modify(|those| drop(those.insert(id.clone(), network)));
        Departure { leaving: Arc::clone(self), id }
    }

    /// Whether it is one of them.
    pub(super) fn has(&self, id: &AttachmentId) -> bool {
        self.0.borrow().contains_key(id)
    }

    /// Those that leave a network now.
    pub(super) fn from(&self, network: &str) -> HashSet<AttachmentId> {
        let those = self.0.borrow();
        those.iter().filter(|(_, from)| *from == network).map(|(id, _)| id.clone()).collect()
    }

    /// Waits until none of these is left.
    ///
    /// Cancel safe.
    pub(super) async fn end_of(&self, these: &HashSet<AttachmentId>) {
        self.wait_for(|those| !these.iter().any(|id| those.contains_key(id))).await;
    }

    /// Waits until nobody is left.
    ///
    /// Cancel safe.
    pub(super) async fn end_of_all(&self) {
        self.wait_for(HashMap::is_empty).await;
    }

    async fn wait_for(&self, done: impl FnMut(&HashMap<AttachmentId, String>) -> bool) {
        // The sender is ours, so that the wait can't fail.
        let _ = self.0.subscribe().wait_for(done).await;
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        self.leaving.0.send_modify(|those| drop(those.remove(&self.id)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn id(name: &str) -> AttachmentId {
        AttachmentId { container_id: name.into(), ifname: "eth0".into() }
    }

    fn is_pending(work: impl Future<Output = ()>) -> bool {
        pin!(work).poll(&mut Context::from_waker(Waker::noop())) == Poll::Pending
    }

    #[tokio::test]
    async fn who_is_waited_for_is_who_was_leaving_then() {
        let leaving = Arc::new(Leaving::default());
        let [a, b] = ["a", "b"].map(|name| leaving.depart(id(name), "net".into()));
        let other = leaving.depart(id("c"), "other".into());
        let those = leaving.from("net");
        assert_eq!(those, HashSet::from([id("a"), id("b")]));
        assert!(is_pending(leaving.end_of(&those)));
        let later = leaving.depart(id("d"), "net".into());
        drop((a, b));
        leaving.end_of(&those).await;
        assert!(leaving.has(&id("d")) && !leaving.has(&id("a")) && is_pending(leaving.end_of_all()));
        drop((later, other));
        leaving.end_of_all().await;
    }

    #[tokio::test]
    async fn a_task_that_panics_or_is_given_up_keeps_nobody_waiting() {
        let leaving = Arc::new(Leaving::default());
        let (one, other) = (leaving.depart(id("a"), "net".into()), leaving.depart(id("b"), "net".into()));
        let panicking = tokio::spawn(async move {
            let _one = one;
            panic!("as it would be by a mistake of ours");
        });
        let stuck = tokio::spawn(async move {
            let _other = other;
            std::future::pending::<()>().await;
        });
        assert!(panicking.await.unwrap_err().is_panic());
        assert!(leaving.has(&id("b")));
        stuck.abort();
        leaving.end_of_all().await;
    }
}
