//! Collecting: what is recorded but valid no more is detached, and plugins remove what isn't recorded.

use super::{Attachments, Configured, IsValid, Valid};
use crate::attachment::AttachmentId;
use crate::error::{Error, chain};
use crate::network;
use crate::served::Served;

impl Attachments {
    /// See [`crate::Networks::gc`].
    pub(crate) async fn gc(&self, valid: Valid<'_>) -> Result<(), Error> {
        let recorded = self.journal.ids()?;
        let kept = self.kept(recorded.clone(), &valid());
        self.lay_for(&kept);
        self.mend_if_flushed().await;
        let mut failures = Vec::new();
        for id in recorded.into_iter().filter(|id| !kept.contains(id)) {
            failures.extend(self.collect(id).await.err());
        }
        // While anything is being attached or detached there is no telling what is valid: the next call asks again.
        if let Ok(_quiet) = self.quiet.try_write() {
            let kept = self.kept(self.journal.ids()?, &valid());
            failures.extend(self.collect_unrecorded(&kept).await);
        }
        if failures.is_empty() { Ok(()) } else { Err(Error::Collect { failures }) }
    }

    /// Those of the recorded attachments that are valid and not half detached, as far as is known.
    fn kept(&self, recorded: Vec<AttachmentId>, is_valid: &IsValid) -> Vec<AttachmentId> {
        let is_detached = |id: &AttachmentId| match self.journal.load(id) {
            Ok(record) => record.is_some_and(|record| record.detached),
            Err(error) => {
                tracing::warn!(error = chain(&error), "who can't be looked up is kept");
                false
            }
        };
        recorded.into_iter().filter(|id| is_valid(id) && !is_detached(id)).collect()
    }

    async fn collect(&self, id: AttachmentId) -> Result<(), Error> {
        let Some(_lock) = self.locks.try_lock(id.clone()) else { return Ok(()) };
        let _busy = self.quiet.read().await;
        match self.journal.load(&id)? {
            // Nobody vouches for the namespace any more; its path may name another's by now.
            Some(mut record) => {
                record.attachment.netns = None;
                self.detach(&record).await
            }
            None => self.journal.remove(&id),
        }
    }

    /// While nobody comes or goes.
    async fn collect_unrecorded(&self, kept: &[AttachmentId]) -> Vec<Error> {
        let mut failures = Vec::new();
        for conf in self.directories.loaded() {
            failures.extend(network::gc(&conf, &self.carrier, kept).await);
        }
        if let Configured::Builtin(settings, _) = &self.configured {
            match Served::builtin(settings, &self.addresses, &self.carrier, None) {
                Ok(served) => failures.extend(network::gc(&served.conf, &served.carrier, kept).await),
                Err(error) => failures.push(error),
            }
        }
        failures.extend(self.clear_ground().await);
        failures
    }
}
