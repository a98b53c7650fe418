//! Tables that somebody took away come back with what was in them, from the journal.
//!
//! While they are away there are no host ports, pods leave under their own addresses, and nobody guards the host's loopback. So
//! for as long as there are any, `looking` looks every two seconds: asks the kernel for a number that each change of any table
//! raises, looks at ours only where it has been raised by others than us, and at the journal only where not all is there that
//! we left. A collection looks at all of it. Being told by the kernel (NFNLGRP_NFTABLES) would come at once, but at the
//! cost of everybody else: with a listener it writes a message of 4 KiB for every element that anybody adds, and keeps all of a
//! transaction's until its end, on nobody's account. 100,000 elements, a large cluster's services, took 0.8 GiB of memory and
//! eight times the processor time in the kernel.

mod looking;
mod missed;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

pub(crate) use self::looking::watch_tables;
pub(super) use self::missed::Missed;
use super::{Attachments, added};
use crate::attachment::AttachmentId;
use crate::builtin::{self, Inventory};
use crate::cache::Record;
use crate::carrier::blocking;
use crate::error::Error;
use crate::ground::Ground;

/// For those whose addresses nobody could ask for: tables of either family.
const ANY: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];

impl Attachments {
    /// Makes again what somebody took away with the tables (`nft flush ruleset`) of those who are attached. A failure is
    /// theirs, not of whoever comes by, and is [`Missed`].
    ///
    /// Not cancel safe: what the kernel is at goes on.
    pub(super) async fn mend_if_flushed(&self) {
        let mut missed = self.mending.lock().await;
        let end = match self.ground.is_flushed().await {
            Ok(false) if !missed.anybody => {
                let ids = missed.ids.clone();
                self.mend(ids, &mut missed).await.map(drop)
            }
            Err(error) if !missed.anybody => Err(error),
            // Where the kernel can't be asked there may be nobody who needs it.
            _ => self.mend_all(&mut missed).await,
        };
        missed.looked_at(end);
    }

    /// The same for all that is missing, though the tables may be there: a rule set that was saved and is loaded again has the
    /// entries of its time, and not even the guard need be among them.
    ///
    /// Not cancel safe: what the kernel is at goes on.
    pub(super) async fn mend_what_is_missing(&self) {
        let mut missed = self.mending.lock().await;
        let end = self.mend_all(&mut missed).await;
        missed.looked_at(end);
    }

    async fn mend_all(&self, missed: &mut Missed) -> Result<(), Error> {
        missed.anybody = true;
        // Before the records are listed: who is attached from now on tells the ground itself. And where nobody is left who had
        // entries, nobody misses the tables.
        let mut anew = Anew::begin(&self.ground);
        let journal = self.journal.clone();
        let ids = blocking(move || journal.ids().map(HashSet::from_iter)).await?;
        missed.keep(&ids);
        anew.is_told = self.mend(ids, missed).await?;
        missed.anybody = false;
        Ok(())
    }

    /// Returns whether it is known of all of them by which addresses they have entries.
    async fn mend(&self, ids: HashSet<AttachmentId>, missed: &mut Missed) -> Result<bool, Error> {
        let (mut mended, mut are_known) = (0, true);
        let mut inventory = None;
        for id in ids {
            match self.mend_one(&id, &mut inventory).await? {
                Outcome::Nothing => missed.is_whole(&id),
                Outcome::Mended => {
                    mended += 1;
                    missed.is_whole(&id);
                }
                Outcome::Busy => drop(missed.ids.insert(id)),
                Outcome::Failed(failures) => missed.fails(id, &failures),
                Outcome::Unknown(failure) => {
                    are_known = false;
                    missed.fails(id, &[failure]);
                }
            }
        }
        if mended > 0 {
            tracing::info!(
                attachments = mended,
                "of the nftables tables something was taken away: entries were made anew"
            );
        }
        if inventory.is_some() {
            // What is open for somebody is guarded again by now.
            blocking(builtin::shut_unguarded).await?;
        }
        Ok(are_known)
    }

    /// Waits for nobody: whoever waits for the mending holds the lock of an attachment.
    ///
    /// # Errors
    /// What keeps everybody from being mended.
    async fn mend_one(
        &self,
        id: &AttachmentId,
        inventory: &mut Option<Arc<Inventory>>,
    ) -> Result<Outcome, Error> {
        let lock = self.locks.try_lock(id.clone());
        let (journal, wanted) = (self.journal.clone(), id.clone());
        let record = match blocking(move || journal.load(&wanted)).await {
            // Who is half detached has no entries any more.
            Ok(record) => record.filter(|record| !record.detached),
            Err(error) => return Ok(Outcome::Unknown(error)),
        };
        let addresses = match self.in_tables(record.as_ref()) {
            Ok(addresses) => addresses,
            Err(error) => return Ok(Outcome::Failed(vec![error])),
        };
        let Some(record) = record else { return Ok(Outcome::Nothing) };
        self.ground.lay(&addresses);
        if lock.is_none() {
            return Ok(Outcome::Busy);
        }
        let Some(result) = record.result.as_ref().filter(|_| !addresses.is_empty()) else {
            return Ok(Outcome::Nothing);
        };
        let inventory = match inventory {
            Some(inventory) => inventory,
            // Whoever has come since has what is missing there.
            none => none.insert(Arc::new(blocking(Inventory::take).await?)),
        };
        let served = match self.served_as(&record) {
            Ok(served) => served,
            Err(error) => return Ok(Outcome::Failed(vec![error])),
        };
        let chain = served.chain(&record.attachment);
        let restore = || chain.restore(result, Arc::clone(inventory));
        // Each who came with saved rules and isn't there has one of them at least.
        for _ in &record.attachment.port_mappings {
            let restored = restore().await;
            match restored.iter().find_map(taken_by) {
                Some(owner) if self.vacate(owner).await => {}
                _ => return Ok(Outcome::of(restored)),
            }
        }
        Ok(Outcome::of(restore().await))
    }

    /// The addresses by which an attachment has entries in the tables; none while it isn't attached.
    fn in_tables(&self, record: Option<&Record>) -> Result<Vec<IpAddr>, Error> {
        let Some(record) = record.filter(|record| record.is_attached()) else { return Ok(Vec::new()) };
        Ok(self.served_as(record)?.in_tables(&record.attachment, &added(record)))
    }
}

/// The ground is told anew for whom there are tables. Until it has been, there may be some for anybody, and are to be looked at.
struct Anew<'a> {
    ground: &'a Ground,
    is_told: bool,
}

impl Anew<'_> {
    fn begin(ground: &Ground) -> Anew<'_> {
        ground.forget();
        Anew { ground, is_told: false }
    }
}

impl Drop for Anew<'_> {
    fn drop(&mut self) {
        if !self.is_told {
            self.ground.lay(&ANY);
        }
    }
}

/// What there was to do for one attachment.
enum Outcome {
    /// It has no entries, or all of them.
    Nothing,
    /// Something is being done to it: a CHECK leaves it without its entries, an ADD may have made some before the flush and others
    /// after it, a DEL has no need of them.
    Busy,
    /// Its entries were made anew.
    Mended,
    /// They can't be.
    Failed(Vec<Error>),
    /// Its record can't be read.
    Unknown(Error),
}

impl Outcome {
    fn of(restored: Vec<Result<bool, Error>>) -> Outcome {
        let is_mended = restored.iter().any(|restored| matches!(restored, Ok(true)));
        let failed: Vec<Error> = restored.into_iter().filter_map(Result::err).collect();
        match is_mended {
            _ if !failed.is_empty() => Outcome::Failed(failed),
            true => Outcome::Mended,
            false => Outcome::Nothing,
        }
    }
}

fn taken_by(restored: &Result<bool, Error>) -> Option<&str> {
    match restored {
        Err(Error::HostPortTaken { owner, .. }) => Some(owner),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
