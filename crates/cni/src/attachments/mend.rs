//! Tables that somebody took away come back with what was in them, from the journal.
//!
//! While they are away there are no host ports, pods leave under their own addresses, and nobody guards the host's loopback. So
//! for as long as there are any, somebody looks every [`LOOK`]: asks the kernel for a number that each change of any table
//! raises, and looks at ours only where it is another. Being told by the kernel (NFNLGRP_NFTABLES) would come at once, but at the
//! cost of everybody else: with a listener it writes a message of 4 KiB for every element that anybody adds, and keeps all of a
//! transaction's until its end, on nobody's account. 100,000 elements, a large cluster's services, took 0.8 GiB of memory and
//! eight times the processor time in the kernel.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Weak;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::{Attachments, added};
use crate::attachment::AttachmentId;
use crate::builtin::Changes;
use crate::cache::Record;
use crate::error::{Error, chain};
use crate::ground::Laid;

/// How long a flush may go unseen. A look took 17 µs of processor time, 70 µs where somebody had changed anything.
const LOOK: Duration = Duration::from_secs(2);

/// Looks at the tables as long as there are any; ends with the attachments.
///
/// Cancel safe but for what the kernel is at, which goes on.
pub(crate) async fn watch_tables(attachments: Weak<Attachments>, mut laid: watch::Receiver<Laid>) {
    while laid.wait_for(Laid::is_any).await.is_ok() {
        let mut changes = Changes::default();
        loop {
            match timeout(LOOK, laid.wait_for(|laid| !laid.is_any())).await {
                Ok(Ok(_)) => break,
                Ok(Err(_)) => return,
                Err(_) => {}
            }
            look(&attachments, &mut changes).await;
        }
    }
}

/// Mends what was taken away since the last look. Returns whether that had to be looked for.
///
/// Nobody is held but for the mending itself: who drops the last handle gives up what goes with it, a bridge for one.
///
/// Not cancel safe: what the kernel is at goes on.
async fn look(attachments: &Weak<Attachments>, changes: &mut Changes) -> bool {
    let Some(whom) = attachments.upgrade().and_then(|attachments| attachments.to_be_looked_for(changes))
    else {
        return false;
    };
    let is_due = match whom {
        Whom::Missed => Ok(true),
        Whom::Laid(laid) => laid.is_flushed().await,
    };
    let is_known = match (is_due, attachments.upgrade()) {
        (Ok(true), Some(attachments)) => attachments.mend_if_flushed().await,
        (Ok(_), _) => true,
        (Err(error), _) => {
            tracing::warn!(error = chain(&error), "whether the tables are still there isn't known");
            false
        }
    };
    if !is_known {
        *changes = Changes::default();
    }
    true
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
    fn to_be_looked_for(&self, changes: &mut Changes) -> Option<Whom> {
        let missed = self.mending.try_lock().ok()?;
        match changes.are_there() {
            _ if !missed.is_empty() => Some(Whom::Missed),
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
        let mut is_known = true;
        let failures = match self.ground.is_flushed().await {
            Ok(false) if missed.is_empty() => return true,
            Ok(false) => {
                let ids = std::mem::take(&mut *missed);
                self.mend(ids, &mut missed).await
            }
            Ok(true) => self.mend_all(&mut missed).await,
            Err(error) => {
                is_known = false;
                vec![error]
            }
        };
        for error in failures {
            tracing::warn!(error = chain(&error), "an attachment's entries in the tables can't be made anew");
        }
        is_known
    }

    async fn mend_all(&self, missed: &mut HashSet<AttachmentId>) -> Vec<Error> {
        // Before the records are listed: who is attached from now on tells the ground itself. And where nobody is left who had
        // entries, nobody misses the tables.
        let laid = self.ground.forget();
        missed.clear();
        match self.journal.ids() {
            Ok(ids) => self.mend(ids, missed).await,
            Err(error) => {
                self.ground.lay(&laid);
                vec![error]
            }
        }
    }

    async fn mend(
        &self,
        ids: impl IntoIterator<Item = AttachmentId>,
        missed: &mut HashSet<AttachmentId>,
    ) -> Vec<Error> {
        let (mut mended, mut failures) = (0, Vec::new());
        for id in ids {
            match self.mend_one(&id).await {
                Ok(Outcome::Nothing) => {}
                Ok(Outcome::Busy) => drop(missed.insert(id)),
                Ok(Outcome::Mended(failed)) => {
                    mended += 1;
                    failures.extend(failed);
                }
                Err(error) => failures.push(error),
            }
        }
        if mended > 0 {
            tracing::info!(
                attachments = mended,
                "the nftables tables were taken away or are of a former daemon: entries were made anew"
            );
        }
        failures
    }

    /// Waits for nobody: whoever waits for the mending holds the lock of an attachment.
    async fn mend_one(&self, id: &AttachmentId) -> Result<Outcome, Error> {
        let lock = self.locks.try_lock(id.clone());
        // Who is half detached has no entries any more.
        let record = self.journal.load(id)?.filter(|record| !record.detached);
        let addresses = self.in_tables(record.as_ref())?;
        let Some(record) = record else { return Ok(Outcome::Nothing) };
        self.ground.lay(&addresses);
        if lock.is_none() {
            return Ok(Outcome::Busy);
        }
        match &record.result {
            Some(result) if !addresses.is_empty() => {
                let served = self.served_as(&record)?;
                Ok(Outcome::Mended(served.chain(&record.attachment).restore(result).await))
            }
            _ => Ok(Outcome::Nothing),
        }
    }

    /// The addresses by which an attachment has entries in the tables; none while it isn't attached.
    fn in_tables(&self, record: Option<&Record>) -> Result<Vec<IpAddr>, Error> {
        let Some(record) = record.filter(|record| record.is_attached()) else { return Ok(Vec::new()) };
        Ok(self.served_as(record)?.in_tables(&record.attachment, &added(record)))
    }
}

/// What there was to do for one attachment.
enum Outcome {
    /// It has no entries.
    Nothing,
    /// Something is being done to it: a CHECK leaves it without its entries, an ADD may have made some before the flush and others
    /// after it, a DEL has no need of them.
    Busy,
    /// Its entries were made anew, but for what failed.
    Mended(Vec<Error>),
}

#[cfg(test)]
mod tests;
