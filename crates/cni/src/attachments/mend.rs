//! Tables that somebody took away come back with what was in them, from the journal.
//!
//! While they are away there are no host ports, pods leave under their own addresses, and nobody guards the host's loopback. So
//! for as long as there are any, somebody looks every [`LOOK`]: asks the kernel for a number that each change of any table
//! raises, looks at ours only where it has been raised by others than us, and at the journal only where not all is there that
//! we left. A collection looks at all of it. Being told by the kernel (NFNLGRP_NFTABLES) would come at once, but at the
//! cost of everybody else: with a listener it writes a message of 4 KiB for every element that anybody adds, and keeps all of a
//! transaction's until its end, on nobody's account. 100,000 elements, a large cluster's services, took 0.8 GiB of memory and
//! eight times the processor time in the kernel.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::{Attachments, added};
use crate::attachment::AttachmentId;
use crate::builtin::{self, Changes, Inventory, Mark};
use crate::cache::Record;
use crate::carrier::blocking;
use crate::error::{Error, chain};
use crate::ground::Laid;

/// How long a flush may go unseen. A look took 17 µs of processor time, where others had changed anything 0.2 ms and 4 µs an entry
/// (unoptimised).
const LOOK: Duration = Duration::from_secs(2);

/// Looks at the tables as long as there are any; ends with the attachments.
///
/// Cancel safe but for what the kernel is at, which goes on.
pub(crate) async fn watch_tables(attachments: Weak<Attachments>, mut laid: watch::Receiver<Laid>) {
    while laid.wait_for(Laid::is_any).await.is_ok() {
        let mut seen = Seen::default();
        loop {
            match timeout(LOOK, laid.wait_for(|laid| !laid.is_any())).await {
                Ok(Ok(_)) => break,
                Ok(Err(_)) => return,
                Err(_) => {}
            }
            look(&attachments, &mut seen).await;
        }
    }
}

/// Mends what was taken away since the last look. Returns whether that had to be looked for.
///
/// Nobody is held but for the mending itself: who drops the last handle gives up what goes with it, a bridge for one.
///
/// Not cancel safe: what the kernel is at goes on.
async fn look(attachments: &Weak<Attachments>, seen: &mut Seen) -> bool {
    let Some(whom) = attachments.upgrade().and_then(|attachments| attachments.to_be_looked_for(seen)) else {
        return false;
    };
    let is_known = match whom {
        Whom::Missed => match attachments.upgrade() {
            Some(attachments) => attachments.mend_if_flushed().await,
            None => true,
        },
        Whom::Laid(laid) => match (laid.have_others_meddled(seen.mark).await, attachments.upgrade()) {
            (Ok((mark, have_meddled)), attachments) => {
                seen.mark = Some(mark);
                match attachments.filter(|_| have_meddled) {
                    Some(attachments) => attachments.mend_what_is_missing().await,
                    None => true,
                }
            }
            (Err(error), _) => {
                tracing::warn!(error = chain(&error), "whether the tables are still there isn't known");
                false
            }
        },
    };
    if !is_known {
        *seen = Seen::default();
    }
    true
}

/// What was seen of the tables at the last look.
#[derive(Debug, Default)]
struct Seen {
    changes: Changes,
    mark: Option<Mark>,
}

/// Whose entries may be missing.
enum Whom {
    /// Those to whom something was being done when the others' were made anew.
    Missed,
    /// Anybody's.
    Laid(Laid),
}

impl Attachments {
    /// Tells the ground of those whom a former daemon attached: else nobody would miss their entries in the tables. A record
    /// that can't be used keeps nobody else's from being missed.
    pub(super) fn lay_for(&self, kept: &[AttachmentId]) {
        for id in kept {
            let record = self.journal.load(id).and_then(|record| self.in_tables(record.as_ref()));
            match record {
                Ok(addresses) => self.ground.lay(&addresses),
                Err(error) => {
                    let AttachmentId { container_id, ifname } = id;
                    tracing::warn!(
                        container = container_id,
                        ifname,
                        error = chain(&error),
                        "can't be mended"
                    );
                }
            }
        }
    }

    /// Whose entries may be missing since the last time; nobody's as far as somebody is mending at this moment.
    fn to_be_looked_for(&self, seen: &mut Seen) -> Option<Whom> {
        if !self.mending.try_lock().ok()?.is_empty() {
            return Some(Whom::Missed);
        }
        match seen.changes.are_there() {
            Ok(true) => Some(Whom::Laid(self.ground.laid().borrow().clone())),
            Ok(false) => None,
            Err(error) => {
                // Out of descriptors, for one. The next look finds what this one would have.
                tracing::debug!(error = chain(&error), "whether the tables have changed isn't known");
                None
            }
        }
    }

    /// Makes again what somebody took away with the tables (`nft flush ruleset`) of those who are attached. A failure is
    /// theirs, not of whoever comes by. Returns whether it is known that nothing is missing, or whose.
    ///
    /// Not cancel safe: what the kernel is at goes on.
    pub(super) async fn mend_if_flushed(&self) -> bool {
        let mut missed = self.mending.lock().await;
        let mended = match self.ground.is_flushed().await {
            Ok(false) if missed.is_empty() => return true,
            Ok(false) => {
                let ids = std::mem::take(&mut *missed);
                self.mend(ids, &mut missed).await
            }
            Ok(true) => self.mend_all(&mut missed).await,
            Err(error) => Err(error),
        };
        is_known(mended)
    }

    /// The same for all that is missing, though the tables may be there: a rule set that was saved and is loaded again has the
    /// entries of its time, and not even the guard need be among them.
    ///
    /// Not cancel safe: what the kernel is at goes on.
    pub(super) async fn mend_what_is_missing(&self) -> bool {
        let mut missed = self.mending.lock().await;
        is_known(self.mend_all(&mut missed).await)
    }

    async fn mend_all(&self, missed: &mut HashSet<AttachmentId>) -> Result<Vec<Error>, Error> {
        // Before the records are listed: who is attached from now on tells the ground itself. And where nobody is left who had
        // entries, nobody misses the tables.
        let laid = self.ground.forget();
        missed.clear();
        match self.journal.ids() {
            Ok(ids) => self.mend(ids, missed).await,
            Err(error) => {
                self.ground.lay(&laid);
                Err(error)
            }
        }
    }

    async fn mend(
        &self,
        ids: impl IntoIterator<Item = AttachmentId>,
        missed: &mut HashSet<AttachmentId>,
    ) -> Result<Vec<Error>, Error> {
        let (mut mended, mut failures) = (0, Vec::new());
        let mut inventory = None;
        for id in ids {
            match self.mend_one(&id, &mut inventory).await {
                Ok(Outcome::Nothing) => {}
                Ok(Outcome::Busy) => drop(missed.insert(id)),
                Ok(Outcome::Mended) => mended += 1,
                Ok(Outcome::Failed(failed)) => failures.extend(failed),
                Err(error) => failures.push(error),
            }
        }
        if inventory.is_some() {
            // What is open for somebody is guarded again by now.
            blocking(builtin::shut_unguarded).await?;
        }
        if mended > 0 {
            tracing::info!(
                attachments = mended,
                "of the nftables tables something was taken away: entries were made anew"
            );
        }
        Ok(failures)
    }

    /// Waits for nobody: whoever waits for the mending holds the lock of an attachment.
    async fn mend_one(
        &self,
        id: &AttachmentId,
        inventory: &mut Option<Arc<Inventory>>,
    ) -> Result<Outcome, Error> {
        let lock = self.locks.try_lock(id.clone());
        // Who is half detached has no entries any more.
        let record = self.journal.load(id)?.filter(|record| !record.detached);
        let addresses = self.in_tables(record.as_ref())?;
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
        let (served, inventory) = (self.served_as(&record)?, Arc::clone(inventory));
        let chain = served.chain(&record.attachment);
        let restore = || chain.restore(result, Arc::clone(&inventory));
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

/// Tells what failed. Returns whether it is known that nothing is missing but that, or whose.
fn is_known(mended: Result<Vec<Error>, Error>) -> bool {
    let is_known = mended.is_ok();
    for error in mended.unwrap_or_else(|error| vec![error]) {
        tracing::warn!(error = chain(&error), "an attachment's entries in the tables can't be made anew");
    }
    is_known
}

#[cfg(test)]
mod tests;
