//! Tables that somebody took away come back with what was in them, from the journal.

use std::time::Duration;

use tokio::time::timeout;

use super::{Attachments, added};
use crate::attachment::AttachmentId;
use crate::cache::Record;
use crate::error::{Error, chain};

/// How long it waits for an attachment that something is being done to.
const PATIENCE: Duration = Duration::from_secs(2);

impl Attachments {
    /// Tells the ground of those whom a former daemon attached: else nobody would miss their entries in the tables.
    ///
    /// # Errors
    /// [`Error::Record`], [`Error::InvalidConf`].
    pub(super) fn lay_for(&self, kept: &[AttachmentId]) -> Result<(), Error> {
        for id in kept {
            let Some(record) = self.journal.load(id)?.filter(Record::is_attached) else { continue };
            let served = self.served_as(&record)?;
            if served.uses_tables(&record.attachment) {
                self.ground.lay(&added(&record).ips);
            }
        }
        Ok(())
    }

    /// Makes again what somebody took away with the tables (`nft flush ruleset`) of those who are attached. A failure is
    /// theirs, not of whoever comes by.
    ///
    /// Not cancel safe: what the kernel is at goes on.
    pub(super) async fn mend_if_flushed(&self) {
        let _mending = self.mending.lock().await;
        let failures = match self.ground.is_flushed().await {
            Ok(false) => return,
            Ok(true) => self.mend().await,
            Err(error) => vec![error],
        };
        for error in failures {
            tracing::warn!(error = chain(&error), "an attachment's entries in the tables can't be made anew");
        }
    }

    async fn mend(&self) -> Vec<Error> {
        let ids = match self.journal.ids() {
            Ok(ids) => ids,
            Err(error) => return vec![error],
        };
        tracing::info!("the nftables tables were taken away or are of a former daemon: they are made anew");
        let mut failures = Vec::new();
        for id in ids {
            // Who is being attached or detached sees to its own.
            let Ok(_lock) = timeout(PATIENCE, self.locks.lock(id.clone())).await else { continue };
            match self.mend_one(&id).await {
                Ok(failed) => failures.extend(failed),
                Err(error) => failures.push(error),
            }
        }
        failures
    }

    async fn mend_one(&self, id: &AttachmentId) -> Result<Vec<Error>, Error> {
        let Some(record) = self.journal.load(id)?.filter(Record::is_attached) else { return Ok(Vec::new()) };
        let served = self.served_as(&record)?;
        let (Some(result), true) = (&record.result, served.uses_tables(&record.attachment)) else {
            return Ok(Vec::new());
        };
        self.ground.lay(&added(&record).ips);
        Ok(served.chain(&record.attachment).restore(result).await)
    }
}
