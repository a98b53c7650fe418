//! Tables that somebody took away come back with what was in them, from the journal.

use std::collections::HashSet;

use super::{Attachments, added};
use crate::attachment::AttachmentId;
use crate::cache::Record;
use crate::error::{Error, chain};
use crate::served::Served;

impl Attachments {
    /// Tells the ground of those whom a former daemon attached: else nobody would miss their entries in the tables. A record
    /// that can't be used keeps nobody else's from being missed.
    pub(super) fn lay_for(&self, kept: &[AttachmentId]) {
        for id in kept {
            match self.with_entries(id) {
                Ok(None) => {}
                Ok(Some((record, _))) => self.ground.lay(&added(&record).ips),
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

    /// Makes again what somebody took away with the tables (`nft flush ruleset`) of those who are attached. A failure is
    /// theirs, not of whoever comes by.
    ///
    /// Not cancel safe: what the kernel is at goes on.
    pub(super) async fn mend_if_flushed(&self) {
        let mut missed = self.mending.lock().await;
        let failures = match self.ground.is_flushed().await {
            Ok(false) if missed.is_empty() => return,
            Ok(false) => {
                let ids = std::mem::take(&mut *missed);
                self.mend(ids, &mut missed).await
            }
            Ok(true) => self.mend_all(&mut missed).await,
            Err(error) => vec![error],
        };
        for error in failures {
            tracing::warn!(error = chain(&error), "an attachment's entries in the tables can't be made anew");
        }
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
        // Who is being attached sees to its own, and who is half detached has none any more.
        if self.with_entries(id)?.is_none() {
            return Ok(Outcome::Nothing);
        }
        let Some(_lock) = self.locks.try_lock(id.clone()) else { return Ok(Outcome::Busy) };
        // As it is now that nobody else can change it.
        let Some((record, served)) = self.with_entries(id)? else { return Ok(Outcome::Nothing) };
        let Some(result) = &record.result else { return Ok(Outcome::Nothing) };
        self.ground.lay(&added(&record).ips);
        Ok(Outcome::Mended(served.chain(&record.attachment).restore(result).await))
    }

    /// The record of an attachment that has entries in the tables.
    fn with_entries(&self, id: &AttachmentId) -> Result<Option<(Record, Served)>, Error> {
        let Some(record) = self.journal.load(id)?.filter(Record::is_attached) else { return Ok(None) };
        let served = self.served_as(&record)?;
        Ok(served.uses_tables(&record.attachment).then_some((record, served)))
    }
}

/// What there was to do for one attachment.
enum Outcome {
    /// It has no entries.
    Nothing,
    /// Something is being done to it: a CHECK leaves it without its entries, a DEL without need of them.
    Busy,
    /// Its entries were made anew, but for what failed.
    Mended(Vec<Error>),
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    use serde_json::json;

    use crate::attachment::Attachment;
    use crate::cache::Via;
    use crate::networks::{Config, Selection};

    fn attachments(dir: &tempfile::TempDir) -> Attachments {
        std::fs::create_dir(dir.path().join("net.d")).unwrap();
        let config = Config {
            conf_dir: dir.path().join("net.d"),
            bin_dirs: vec![dir.path().join("bin")],
            state_dir: dir.path().join("state"),
            builtin: None,
            native: true,
            plugin_deadline: Duration::from_secs(20),
            selection: Selection::default(),
        };
        Attachments::open(config).unwrap()
    }

    /// A network whose pods have entries in the tables.
    fn record(pod: &str) -> Record {
        let conf =
            json!({"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge", "ipMasq": true}]});
        let attachment =
            Attachment { container_id: pod.into(), ifname: "eth0".into(), ..Attachment::default() };
        Record::intent("net", &attachment, Via::Chain(conf), true)
    }

    /// What it comes to without waiting.
    fn at_once<T>(work: impl Future<Output = T>) -> T {
        match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => done,
            Poll::Pending => panic!("it waits"),
        }
    }

    /// Everybody who is being attached holds a lock while somebody mends, who mends first of all.
    #[tokio::test]
    async fn those_who_are_being_attached_or_detached_are_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let attachments = attachments(&dir);
        let (coming, mut half_gone, mut busy) = (record("coming"), record("half-gone"), record("busy"));
        for record in [&mut half_gone, &mut busy] {
            record.result = Some(json!({"cniVersion": "1.0.0", "ips": [{"address": "10.9.0.2/24"}]}));
        }
        half_gone.detached = true;
        let mut locks = Vec::new();
        for record in [&coming, &half_gone, &busy] {
            attachments.journal.store(record).unwrap();
            locks.push(attachments.locks.lock(record.attachment.id()).await);
        }
        attachments.ground.lay(&["10.9.0.2".parse().unwrap()]);
        let mut missed = HashSet::from([coming.attachment.id()]);
        let failures = at_once(attachments.mend_all(&mut missed));
        assert!(failures.is_empty(), "{failures:?}");
        assert_eq!(missed, HashSet::from([busy.attachment.id()]), "who may want its entries later");
        // Nobody has any: the next one needn't look again.
        assert!(!at_once(attachments.ground.is_flushed()).unwrap());
        // The one that was missed has gone meanwhile.
        attachments.journal.remove(&busy.attachment.id()).unwrap();
        *attachments.mending.lock().await = missed;
        at_once(attachments.mend_if_flushed());
        assert!(attachments.mending.lock().await.is_empty());
    }
}
