//! Attaching.
//!
//! | step of ADD | on failure |
//! |---|---|
//! | check the request, find a network and its plugins | nothing to undo |
//! | undo what an earlier one left | nothing more to undo |
//! | journal the intent | nothing to undo |
//! | run the chain | DEL of all of it; the record goes if that succeeds |
//! | journal the result | the same |
//!
//! Where an address lacks, those are waited for whose DEL has been answered but who have theirs still, and it is tried once
//! more: by its answer a DEL says that the address can be had. A host port whose owner isn't there is taken from it.

use std::collections::HashSet;
use std::time::Duration;

use super::{Attachments, added, detach_failed, namespace};
use crate::attachment::{Attachment, AttachmentId};
use crate::builtin;
use crate::builtin_network::BuiltinNetwork;
use crate::cache::{Found, Record, Via};
use crate::carrier::blocking;
use crate::error::{Error, chain};
use crate::locks::locked;
use crate::network;
use crate::networks::Added;
use crate::served::{Chosen, Served};

/// How long those who are leaving are waited for. A hundred links take the kernel some three seconds.
const PATIENCE: Duration = Duration::from_secs(5);

impl Attachments {
    /// See [`crate::Networks::add`].
    pub(crate) async fn add(&self, attachment: &Attachment, chosen: Chosen) -> Result<Added, Error> {
        let _lock = self.locks.lock(attachment.id()).await;
        self.way.is_free(&attachment.id()).await;
        if attachment.netns.is_none() {
            return Err(Error::InvalidAttachment { field: "network namespace", value: String::new() });
        }
        // Each who is left over has one of them at least.
        for _ in &attachment.port_mappings {
            match self.attempt_patiently(attachment, &chosen).await {
                Err(Error::HostPortTaken { owner, .. }) if self.vacate(&owner).await => {}
                outcome => return outcome,
            }
        }
        self.attempt_patiently(attachment, &chosen).await
    }

    async fn attempt_patiently(&self, attachment: &Attachment, chosen: &Chosen) -> Result<Added, Error> {
        let network = &chosen.served.conf.name;
        // Who is gone when it fails may have been there still when it looked for an address.
        let mut leaving = self.leaving.from(network);
        let failure = match self.attempt(attachment, chosen).await {
            Err(failure) if lacks_address(&failure) => failure,
            outcome => return outcome,
        };
        leaving.extend(self.leaving.from(network));
        if leaving.is_empty() {
            return Err(failure);
        }
        // Not before everybody's end, but those of today: others keep leaving. What has come of it is seen by trying.
        let _ = tokio::time::timeout(PATIENCE, self.leaving.end_of(&leaving)).await;
        self.attempt(attachment, chosen).await
    }

    /// Takes an owner's entries out of the tables who isn't there: of a network of ours, but neither recorded nor with a link.
    /// Returns whether that is so.
    pub(super) async fn vacate(&self, owner: &str) -> bool {
        let vacated = match self.journal.ids().map(HashSet::from_iter) {
            Ok(known) => {
                let is_ours = |served: &Served| {
                    served.makes_links() && builtin::is_stranger(owner, &served.conf.name, &known)
                };
                let owner = owner.to_owned();
                // What is wrong with a network is said by others.
                match self.loaded(&mut Vec::new()).iter().any(is_ours) {
                    true => blocking(move || builtin::vacate(&owner)).await,
                    false => Ok(false),
                }
            }
            Err(error) => Err(error),
        };
        match &vacated {
            Ok(true) => tracing::warn!(owner, "host ports of nobody's, of rules that were saved: withdrawn"),
            Ok(false) => {}
            Err(error) => tracing::warn!(owner, error = chain(error), "whose a host port is can't be told"),
        }
        vacated.unwrap_or(false)
    }

    async fn attempt(&self, attachment: &Attachment, chosen: &Chosen) -> Result<Added, Error> {
        self.make_way(attachment).await?;
        let _busy = self.quiet.busy(&chosen.served.conf.name).await;
        let mtu = match &chosen.via {
            Via::Builtin(settings @ BuiltinNetwork { mtu: None, .. }) => {
                Some((settings, self.ground.mtu().await?))
            }
            _ => None,
        };
        let served = match mtu {
            Some((settings, mtu)) => Served::builtin(settings, &self.addresses, &self.setup().carrier, mtu)?,
            None => chosen.served.clone(),
        };
        let via = chosen.via.clone();
        let mut record = Record::intent(&served.conf.name, attachment, via, served.is_native());
        record.executed = !served.is_native_throughout();
        self.store(&record).await?;
        match self.run(&served, &mut record).await {
            Ok(()) => {
                if record.executed {
                    self.keep_behind(record.attachment.id());
                }
                let added = added(&record);
                self.ground.lay(&served.in_tables(attachment, &added));
                Ok(added)
            }
            Err(failure) => Err(self.undo(&record, failure).await),
        }
    }

    /// The chain, from an intent that is stored to a result that is.
    async fn run(&self, served: &Served, record: &mut Record) -> Result<(), Error> {
        if served.is_native() {
            self.ground.arrive();
            self.mend_if_flushed().await;
        }
        let chain = served.chain(&record.attachment);
        let added = if record.executed {
            // Plugins take longer than the disk, and what they have done isn't on it sooner either.
            let (added, kept) = tokio::join!(chain.add(), self.keep(record.attachment.id()));
            added.and_then(|added| kept.map(|()| added))
        } else {
            chain.add().await
        };
        record.result = Some(added?);
        self.store(record).await
    }

    /// Sees that a record outlasts a power cut.
    async fn keep(&self, id: AttachmentId) -> Result<(), Error> {
        let journal = self.journal.clone();
        blocking(move || journal.keep(&id)).await
    }

    /// The same for a result, which nobody waits for: after a power cut the intent would do.
    fn keep_behind(&self, id: AttachmentId) {
        let journal = self.journal.clone();
        let mut keeping = locked(&self.keeping);
        while keeping.try_join_next().is_some() {}
        keeping.spawn_blocking(move || {
            if let Err(error) = journal.keep(&id) {
                tracing::warn!(
                    error = chain(&error),
                    "what came of an attachment may be lost with a power cut"
                );
            }
        });
    }

    /// Undoes what there is of an ADD that was cut short before anybody learnt of it, or of a DEL that wasn't finished.
    async fn make_way(&self, attachment: &Attachment) -> Result<(), Error> {
        let id = attachment.id();
        let netns = namespace(attachment.netns.as_deref());
        match self.journal.look(&id)? {
            Found::Nothing => Ok(()),
            Found::Record(record) if record.is_attached() => {
                let AttachmentId { container_id, ifname } = id;
                Err(Error::AlreadyAttached { container_id, ifname })
            }
            Found::Record(mut record) => {
                let _busy = self.quiet.busy(&record.network).await;
                record.attachment.netns = netns;
                self.detach(&record).await?;
                self.has_gone(&record)
            }
            Found::Damaged(damage) => {
                self.detach_damaged(&id, netns, &damage).await?;
                match self.journal.look(&id)? {
                    Found::Nothing => Ok(()),
                    // Put off: it would be forgotten with its record.
                    _ => Err(detach_failed(&id, vec![damage])),
                }
            }
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

/// Whether one that somebody else gives back would do.
fn lacks_address(failure: &Error) -> bool {
    matches!(failure, Error::AddressesExhausted { .. } | Error::AddressUnavailable { .. })
}
