//! Detaching.
//!
//! | step of DEL | on failure |
//! |---|---|
//! | cut off, if all of the chain is served in-process; else run it backwards | go on to the end; the record stays |
//! | run it backwards (behind the answer) | the record stays |
//! | remove the record | |
//!
//! What can't be undone now but keeps no pod is put off: its record stays, as of one who has been detached. Of a damaged record
//! only the name is known, by which every network is asked that is configured now: DEL succeeds where there is nothing.

use std::path::PathBuf;
use std::sync::Arc;

use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::leaving::Departure;
use super::{Attachments, detach_failed, namespace};
use crate::attachment::{Attachment, AttachmentId};
use crate::cache::{Found, Record};
use crate::error::{Error, chain};
use crate::locks::Lock;
use crate::quiet::Busy;
use crate::served::Served;

/// The second half of a DEL, with the right to it, which is given back in this order: who waits for it to be gone finds
/// nothing at work any more, and who waits for the lock doesn't find it leaving.
struct Remainder {
    served: Served,
    record: Record,
    _busy: Busy,
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
        self.way.is_free(&id).await;
        let netns = namespace(attachment.netns.as_deref());
        let mut record = match self.journal.look(&id)? {
            Found::Nothing => return Ok(()),
            Found::Record(record) => *record,
            Found::Damaged(damage) => {
                if let Err(error) = self.detach_damaged(&id, netns, &damage).await {
                    // It may be about networks in which it has never been.
                    put_off(&id, &error);
                }
                return Ok(());
            }
        };
        let busy = self.quiet.busy(&record.network).await;
        record.attachment.netns = netns;
        let served = match self.served_as(&record) {
            Ok(served) => served,
            Err(error) => {
                // Of a newer version, for one. It mustn't keep a pod any more than a plugin that is missing.
                put_off(&id, &error);
                record.detached = true;
                return self.store(&record).await;
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
        if self.store(&record).await.is_err() {
            // On a full disk, for one: what a crash would let nobody know isn't answered before it is done.
            return self.remove(&served, &record).await;
        }
        // Its owner may end the namespace now, and the path may lead to another's.
        record.attachment.netns = None;
        let departure = self.leaving.depart(id, record.network.clone());
        let remainder = Remainder { served, record, _busy: busy, _departure: departure, _lock: lock };
        let attachments = Arc::clone(self);
        // Ends by itself; `settle` waits for it.
        // A stage of its own: nobody waits for it. Of the highest level, so that it is there whatever is logged.
        let span = tracing::error_span!("stage", stage = "detach_rest", failed = Empty);
        let work = async move { attachments.finish(remainder).await };
        tokio::spawn(work.instrument(span));
        Ok(())
    }

    async fn finish(&self, remainder: Remainder) {
        let Remainder { served, record, .. } = &remainder;
        let failures = served.chain(&record.attachment).del_after_cut(record.result.as_ref()).await;
        if let Err(error) = self.removed(served, record, failures).await {
            Span::current().record("failed", true);
            // The record is left, and the next collection tries again.
            let AttachmentId { container_id: container, ifname } = record.attachment.id();
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
        let failures = served.chain(&record.attachment).del(record.result.as_ref()).await;
        self.removed(served, record, failures).await
    }

    /// After a DEL of which that failed.
    async fn removed(&self, served: &Served, record: &Record, failures: Vec<Error>) -> Result<(), Error> {
        let id = record.attachment.id();
        if served.is_native() {
            self.ground.leave();
        }
        if failures.is_empty() {
            return self.forget(id).await;
        }
        if failures.iter().all(is_missing) {
            failures.iter().for_each(|missing| put_off(&id, missing));
            let mut left = record.clone();
            left.detached = true;
            return self.store(&left).await;
        }
        Err(detach_failed(&id, failures))
    }

    /// The same for one of which only the name is known. Without any network it is put off.
    pub(super) async fn detach_damaged(
        &self,
        id: &AttachmentId,
        netns: Option<PathBuf>,
        damage: &Error,
    ) -> Result<(), Error> {
        let AttachmentId { container_id, ifname } = id.clone();
        let named = Attachment { container_id, ifname, netns, ..Attachment::default() };
        let mut failures = Vec::new();
        let networks = self.loaded(&mut failures);
        for served in &networks {
            let _busy = self.quiet.busy(&served.conf.name).await;
            failures.extend(served.chain(&named).del(None).await);
            if served.is_native() {
                self.ground.leave();
            }
        }
        let (container, ifname) = (&id.container_id, &id.ifname);
        let networks: Vec<&str> = networks.iter().map(|served| served.conf.name.as_str()).collect();
        tracing::warn!(
            container,
            ifname,
            ?networks,
            error = chain(damage),
            "an attachment of which only the name is known is detached from whatever is configured"
        );
        if failures.is_empty() && !networks.is_empty() {
            return self.forget(id.clone()).await;
        }
        if failures.iter().all(is_missing) {
            failures.iter().for_each(|missing| put_off(id, missing));
            return Ok(());
        }
        Err(detach_failed(id, failures))
    }
}

fn is_missing(failure: &Error) -> bool {
    matches!(failure, Error::PluginMissing { .. })
}

fn put_off(id: &AttachmentId, reason: &Error) {
    let AttachmentId { container_id: container, ifname } = id;
    tracing::warn!(container, ifname, error = chain(reason), "detaching is put off");
}
