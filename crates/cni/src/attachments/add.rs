//! Attaching.
//!
//! | step of ADD | on failure |
//! |---|---|
//! | check the request, find a network and its plugins | nothing to undo |
//! | journal the intent | nothing to undo |
//! | run the chain | DEL of all of it; the record goes if that succeeds |
//! | journal the result | the same |

use super::{Attachments, added, detach_failed, namespace};
use crate::attachment::{Attachment, AttachmentId};
use crate::builtin_network::BuiltinNetwork;
use crate::cache::{Record, Via};
use crate::error::Error;
use crate::network;
use crate::networks::Added;
use crate::served::{Chosen, Served};

impl Attachments {
    /// See [`crate::Networks::add`].
    pub(crate) async fn add(&self, attachment: &Attachment, chosen: Chosen) -> Result<Added, Error> {
        let id = attachment.id();
        let _lock = self.locks.lock(id.clone()).await;
        let _busy = self.quiet.read().await;
        if attachment.netns.is_none() {
            return Err(Error::InvalidAttachment { field: "network namespace", value: String::new() });
        }
        if let Some(mut record) = self.journal.load(&id)? {
            if record.is_attached() {
                let AttachmentId { container_id, ifname } = id;
                return Err(Error::AlreadyAttached { container_id, ifname });
            }
            // An ADD that was cut short before anybody learnt of it, or a DEL that wasn't finished.
            record.attachment.netns = namespace(attachment.netns.as_deref());
            self.detach(&record).await?;
            self.has_gone(&record)?;
        }
        let Chosen { mut served, via } = chosen;
        if let Via::Builtin(settings @ BuiltinNetwork { mtu: None, .. }) = &via {
            let mtu = self.ground.mtu().await?;
            served = Served::builtin(settings, &self.addresses, &self.carrier, mtu)?;
        }
        let mut record = Record::intent(&served.conf.name, attachment, via, served.is_native());
        self.journal.store(&record)?;
        if served.is_native() {
            self.ground.arrive();
            self.mend_if_flushed().await;
        }
        let outcome = served.chain(attachment).add().await.and_then(|raw| {
            record.result = Some(raw);
            self.journal.store(&record)
        });
        match outcome {
            Ok(()) => {
                let added = added(&record);
                if served.uses_tables(attachment) {
                    self.ground.lay(&added.ips);
                }
                Ok(added)
            }
            Err(failure) => Err(self.undo(&record, failure).await),
        }
    }

    /// Sees that nothing was put off: what only a missing plugin can undo would be forgotten with its record.
    fn has_gone(&self, record: &Record) -> Result<(), Error> {
        let id = record.attachment.id();
        if self.journal.load(&id)?.is_none() {
            return Ok(());
        }
        let served = self.served_as(record);
        let missing = served.and_then(|served| network::find_plugins(&served.conf, &served.carrier)).err();
        Err(detach_failed(&id, missing.into_iter().collect()))
    }

    async fn undo(&self, record: &Record, failure: Error) -> Error {
        match self.detach(record).await {
            Ok(()) => failure,
            Err(Error::Detach { failures, .. }) => Error::Undo { failure: Box::new(failure), undo: failures },
            Err(other) => Error::Undo { failure: Box::new(failure), undo: vec![other] },
        }
    }
}
