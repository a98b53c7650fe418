//! Detaching.
//!
//! | step of DEL | on failure |
//! |---|---|
//! | cut off, if all of the chain is served in-process; else run it backwards | go on to the end; the record stays |
//! | run it backwards (behind the answer) | the record stays |
//! | remove the record | |

use std::sync::Arc;

use tokio::sync::OwnedRwLockReadGuard;

use super::leaving::Departure;
use super::{Attachments, detach_failed, namespace};
use crate::attachment::{Attachment, AttachmentId};
use crate::cache::Record;
use crate::error::{Error, chain};
use crate::locks::Lock;
use crate::served::Served;

/// The second half of a DEL, with the right to it, which is given back in this order: who waits for it to be gone finds
/// nothing at work any more, and who waits for the lock doesn't find it leaving.
struct Remainder {
    served: Served,
    record: Record,
    _busy: OwnedRwLockReadGuard<()>,
    _departure: Departure,
    _lock: Lock,
}

impl Attachments {
    /// See [`crate::Networks::del`].
    pub(crate) async fn del(self: &Arc<Self>, attachment: &Attachment) -> Result<(), Error> {
        let id = attachment.id();
        if self.leaving.has(&id) {
            return Ok(());
        }
        let lock = self.locks.lock(id.clone()).await;
        let busy = Arc::clone(&self.quiet).read_owned().await;
        let Some(mut record) = self.journal.load(&id)? else { return Ok(()) };
        record.attachment.netns = namespace(attachment.netns.as_deref());
        let served = match self.served_as(&record) {
            Ok(served) => served,
            Err(error) => {
                // Of a newer version, for one. It mustn't keep a pod any more than a plugin that is missing.
                let (container, ifname) = (&id.container_id, &id.ifname);
                tracing::warn!(container, ifname, error = chain(&error), "detaching is put off");
                record.detached = true;
                return self.journal.store(&record);
            }
        };
        if !served.is_native_throughout() {
            return self.remove(&served, &record).await;
        }
        let cut = served.chain(&record.attachment).cut(record.result.as_ref()).await;
        if !cut.is_empty() {
            // What one of them refuses is no reason to leave the rest; what stays refused is said once more.
            return self.remove(&served, &record).await;
        }
        record.detached = true;
        if self.journal.store(&record).is_err() {
            // On a full disk, for one: what a crash would let nobody know isn't answered before it is done.
            return self.remove(&served, &record).await;
        }
        // Its owner may end the namespace now, and the path may lead to another's.
        record.attachment.netns = None;
        let departure = self.leaving.depart(id, record.network.clone());
        let remainder = Remainder { served, record, _busy: busy, _departure: departure, _lock: lock };
        let attachments = Arc::clone(self);
        // Ends by itself; `settle` waits for it.
        tokio::spawn(async move { attachments.finish(remainder).await });
        Ok(())
    }

    async fn finish(&self, remainder: Remainder) {
        if let Err(error) = self.remove(&remainder.served, &remainder.record).await {
            // The record is left, and the next collection tries again.
            let AttachmentId { container_id: container, ifname } = remainder.record.attachment.id();
            tracing::warn!(
                container,
                ifname,
                error = chain(&error),
                "a detached interface couldn't be removed"
            );
        }
    }

    /// Undoes what a record stands for, as far as possible; the record goes when nothing is left to undo.
    pub(super) async fn detach(&self, record: &Record) -> Result<(), Error> {
        let served = self.served_as(record);
        let served = served.map_err(|error| detach_failed(&record.attachment.id(), vec![error]))?;
        self.remove(&served, record).await
    }

    /// The whole DEL, to the end. What only a missing plugin could undo is put off to the next.
    async fn remove(&self, served: &Served, record: &Record) -> Result<(), Error> {
        let id = record.attachment.id();
        let failures = served.chain(&record.attachment).del(record.result.as_ref()).await;
        if served.is_native() {
            self.ground.leave();
        }
        for failure in &failures {
            let (container, ifname) = (&id.container_id, &id.ifname);
            tracing::warn!(container, ifname, error = chain(failure), "a step of detaching failed");
        }
        if failures.is_empty() {
            return self.journal.remove(&id);
        }
        if failures.iter().all(|failure| matches!(failure, Error::PluginMissing { .. })) {
            let mut left = record.clone();
            left.detached = true;
            return self.journal.store(&left);
        }
        Err(detach_failed(&id, failures))
    }
}
