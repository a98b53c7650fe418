//! Collecting: what is recorded but valid no more is detached, and each network's plugins remove what isn't recorded.
//!
//! Nobody comes or goes in a network while its plugins are at that, for there would be no telling what is valid; one in which
//! anybody does is left to the next call. The others go on.

use std::collections::HashSet;

use super::{Attachments, IsValid, Valid};
use crate::attachment::AttachmentId;
use crate::cache::{Found, Journal};
use crate::carrier::blocking;
use crate::error::{Error, chain};
use crate::network;
use crate::served::Served;

/// All that is recorded, read at once.
struct Survey {
    seen: Vec<Seen>,
    /// The number of changes before.
    changes: u64,
}

/// What is of interest about a record.
struct Seen {
    id: AttachmentId,
    detached: bool,
    /// Why no more can be told.
    damage: Option<Error>,
}

impl Survey {
    fn of(journal: &Journal) -> Result<Survey, Error> {
        let changes = journal.changes();
        let ids = journal.ids()?.into_iter();
        Ok(Survey { seen: ids.filter_map(|id| Seen::by(journal, id)).collect(), changes })
    }

    /// Those that are valid and not half detached, as far as is known.
    fn kept<'a>(&'a self, is_valid: &IsValid) -> impl Iterator<Item = &'a Seen> {
        self.seen.iter().filter(|seen| !seen.detached && is_valid(&seen.id))
    }
}

impl Seen {
    fn by(journal: &Journal, id: AttachmentId) -> Option<Seen> {
        let (detached, damage) = match journal.look(&id) {
            Ok(Found::Nothing) => return None,
            Ok(Found::Record(record)) => (record.detached, None),
            Ok(Found::Damaged(damage)) | Err(damage) => (false, Some(damage)),
        };
        Some(Seen { id, detached, damage })
    }
}

impl Attachments {
    /// See [`crate::Networks::gc`].
    pub(crate) async fn gc(&self, valid: Valid<'_>) -> Result<(), Error> {
        self.way.is_clear().await;
        let mut survey = self.survey().await?;
        let is_valid = valid();
        let kept: HashSet<AttachmentId> = survey.kept(&is_valid).map(|seen| told(seen).id.clone()).collect();
        self.mend_what_is_missing().await;
        let mut failures = Vec::new();
        let leftovers = survey.seen.iter().map(|seen| &seen.id).filter(|id| !kept.contains(id));
        for id in leftovers {
            failures.extend(self.collect(id).await.err());
        }
        for served in self.loaded(&mut failures) {
            failures.extend(self.collect_unrecorded(&served, &mut survey, valid).await);
        }
        if let Ok(_alone) = self.quiet.node().try_write() {
            failures.extend(self.clear_ground().await);
        }
        if failures.is_empty() { Ok(()) } else { Err(Error::Collect { failures }) }
    }

    async fn survey(&self) -> Result<Survey, Error> {
        let journal = self.journal.clone();
        blocking(move || Survey::of(&journal)).await
    }

    async fn collect(&self, id: &AttachmentId) -> Result<(), Error> {
        let Some(_lock) = self.locks.try_lock(id.clone()) else { return Ok(()) };
        // Nobody vouches for the namespace any more; its path may name another's by now.
        match self.journal.look(id)? {
            Found::Nothing => Ok(()),
            Found::Record(mut record) => {
                record.attachment.netns = None;
                let _busy = self.quiet.busy(&record.network).await;
                self.detach(&record).await
            }
            Found::Damaged(damage) => self.detach_damaged(id, None, &damage).await,
        }
    }

    /// Has a network's plugins remove what isn't recorded.
    async fn collect_unrecorded(&self, served: &Served, survey: &mut Survey, valid: Valid<'_>) -> Vec<Error> {
        let Some(_still) = self.quiet.still(&served.conf.name).await else { return Vec::new() };
        // Of others it may be old already: they are none of this one's.
        if survey.changes != self.journal.changes() {
            match self.survey().await {
                Ok(anew) => *survey = anew,
                Err(error) => return vec![error],
            }
        }
        let is_valid = valid();
        let kept: Vec<AttachmentId> = survey.kept(&is_valid).map(|seen| seen.id.clone()).collect();
        network::gc(&served.conf, &served.carrier, &kept).await
    }
}

/// Says what can't be told of it.
fn told(seen: &Seen) -> &Seen {
    if let Some(damage) = &seen.damage {
        let AttachmentId { container_id: container, ifname } = &seen.id;
        tracing::warn!(
            container,
            ifname,
            error = chain(damage),
            "an attachment is kept, of which only the name is known"
        );
    }
    seen
}
