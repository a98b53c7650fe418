//! Attachments from their intent to their end.
//!
//! | step of ADD | on failure |
//! |---|---|
//! | check the request, find a network and its plugins | nothing to undo |
//! | journal the intent | nothing to undo |
//! | run the chain | DEL of all of it; the record goes if that succeeds |
//! | journal the result | the same |
//!
//! | step of DEL | on failure |
//! |---|---|
//! | cut off, if all of the chain is served in-process; else run it backwards | go on to the end; the record stays |
//! | run it backwards (behind the answer) | the record stays |
//! | remove the record | |
//!
//! A record that is left says what is still to be undone; the next DEL or collection tries again. Which plugin runs when is
//! `network`'s affair.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedRwLockReadGuard, RwLock, watch};
use tokio::time::timeout;

use crate::attachment::{Attachment, AttachmentId};
use crate::builtin_network::BuiltinNetwork;
use crate::cache::{Journal, Record, Via};
use crate::carrier::{Carrier, Means};
use crate::claim::Claim;
use crate::conf::{self, NetworkConf};
use crate::error::{Error, chain};
use crate::ground::Ground;
use crate::locks::{Lock, Locks};
use crate::network::{self, Chain, normalised};
use crate::networks::{Added, Config};
use crate::plugin::Runner;
use crate::readiness::{Readiness, Status};
use crate::result::NetworkResult;
use crate::version::Version;

/// How long mending the tables waits for an attachment that something is being done to.
const MEND_PATIENCE: Duration = Duration::from_secs(2);

/// All attachments of a node.
#[derive(Debug)]
pub(crate) struct Attachments {
    /// Where the built-in network keeps its addresses.
    addresses: PathBuf,
    configured: Configured,
    /// For networks as they are configured now.
    carrier: Carrier,
    journal: Journal,
    locks: Arc<Locks>,
    /// Taken for writing by GC, which must not meet an ADD or a DEL (SPEC.md section 3, "Garbage-collecting").
    quiet: Arc<RwLock<()>>,
    ground: Arc<Ground>,
    /// Held while the tables are mended.
    mending: tokio::sync::Mutex<()>,
    /// Those whose DEL has been answered, and is being finished.
    leaving: Mutex<HashSet<AttachmentId>>,
    /// How many are.
    behind: watch::Sender<usize>,
}

#[derive(Debug)]
enum Configured {
    Builtin(BuiltinNetwork, #[expect(dead_code, reason = "held, not used")] Claim),
    Directory(Readiness),
}

/// A network, and how its plugins are carried out.
#[derive(Debug, Clone)]
struct Served {
    conf: Arc<NetworkConf>,
    carrier: Carrier,
}

/// The second half of a DEL, with the right to it.
struct Remainder {
    served: Served,
    record: Record,
    lock: Lock,
    busy: OwnedRwLockReadGuard<()>,
}

impl Attachments {
    /// Opens the directories. Has to be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Record`], [`Error::Watch`], [`Error::InvalidBuiltin`], [`Error::BridgeTaken`].
    pub(crate) fn open(config: Config) -> Result<Attachments, Error> {
        let journal = Journal::open(config.state_dir.join("attachments"))?;
        let runner = Runner { bin_dirs: config.bin_dirs.clone(), deadline: config.plugin_deadline };
        let native = config.native || config.builtin.is_some();
        let carrier = Carrier { runner, means: if native { Means::Native } else { Means::Executed } };
        let quiet = Arc::default();
        let ground = Arc::new(Ground::new(Arc::clone(&quiet)));
        let addresses = config.state_dir.join("addresses");
        let configured = match config.builtin.clone() {
            Some(builtin) => {
                builtin.check()?;
                let claim = Claim::take(&builtin.bridge)?;
                ground.own_bridge(&builtin.bridge);
                Configured::Builtin(builtin, claim)
            }
            None => Configured::Directory(Readiness::open(config, carrier.clone())?),
        };
        Ok(Attachments {
            addresses,
            configured,
            carrier,
            journal,
            locks: Arc::default(),
            quiet,
            ground,
            mending: tokio::sync::Mutex::default(),
            leaving: Mutex::default(),
            behind: watch::Sender::new(0),
        })
    }

    /// Whether an ADD would be served now. Never waits.
    pub(crate) fn status(&self) -> Status {
        match &self.configured {
            Configured::Builtin(builtin, _) => Status::Ready { network: builtin.name.clone() },
            Configured::Directory(readiness) => readiness.status(),
        }
    }

    /// See [`crate::Networks::add`].
    pub(crate) async fn add(&self, attachment: &Attachment) -> Result<Added, Error> {
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
        }
        let (served, via) = self.served().await?;
        let native = served.carrier.means == Means::Native;
        let mut record = Record::intent(&served.conf.name, attachment, via, native);
        self.journal.store(&record)?;
        if native {
            self.ground.arrive();
            self.mend_if_flushed().await;
        }
        let chain = Chain { conf: &served.conf, carrier: &served.carrier, attachment };
        let outcome = chain.add().await.and_then(|raw| {
            record.result = Some(raw);
            self.journal.store(&record)
        });
        match outcome {
            Ok(()) => {
                let added = added(&record);
                if native && uses_tables(&record, &served.conf) {
                    self.ground.lay(&added.ips);
                }
                Ok(added)
            }
            Err(failure) => Err(self.undo(&record, failure).await),
        }
    }

    async fn undo(&self, record: &Record, failure: Error) -> Error {
        match self.detach(record).await {
            Ok(()) => failure,
            Err(Error::Detach { failures, .. }) => Error::Undo { failure: Box::new(failure), undo: failures },
            Err(other) => Error::Undo { failure: Box::new(failure), undo: vec![other] },
        }
    }

    /// See [`crate::Networks::del`].
    pub(crate) async fn del(self: &Arc<Self>, attachment: &Attachment) -> Result<(), Error> {
        let id = attachment.id();
        if locked(&self.leaving).contains(&id) {
            return Ok(());
        }
        let lock = self.locks.lock(id.clone()).await;
        let busy = Arc::clone(&self.quiet).read_owned().await;
        let Some(mut record) = self.journal.load(&id)? else { return Ok(()) };
        record.attachment.netns = namespace(attachment.netns.as_deref());
        let served = self.served_as(&record).map_err(|error| detach_failed(&id, vec![error]))?;
        if !served.is_native_throughout() {
            return self.remove(&served, &record).await;
        }
        let cut = served.chain(&record.attachment).cut(record.result.as_ref()).await;
        if !cut.is_empty() {
            return Err(detach_failed(&id, cut));
        }
        record.detached = true;
        self.journal.store(&record)?;
        locked(&self.leaving).insert(id);
        self.behind.send_modify(|count| *count += 1);
        let (attachments, remainder) = (Arc::clone(self), Remainder { served, record, lock, busy });
        // Ends by itself; `settle` waits for it.
        tokio::spawn(async move { attachments.finish(remainder).await });
        Ok(())
    }

    async fn finish(&self, remainder: Remainder) {
        let Remainder { served, record, lock, busy } = remainder;
        let id = record.attachment.id();
        if let Err(error) = self.remove(&served, &record).await {
            // The record is left, and the next collection tries again.
            let (container, ifname) = (&id.container_id, &id.ifname);
            tracing::warn!(
                container,
                ifname,
                error = chain(&error),
                "a detached interface couldn't be removed"
            );
        }
        drop(busy);
        locked(&self.leaving).remove(&id);
        drop(lock);
        self.behind.send_modify(|count| *count -= 1);
    }

    /// See [`crate::Networks::settle`].
    pub(crate) async fn settle(&self) -> Result<(), Error> {
        // The sender is ours, so that the wait can't fail.
        let _ = self.behind.subscribe().wait_for(|count| *count == 0).await;
        let _quiet = self.quiet.write().await;
        let failures = self.clear_ground().await;
        if failures.is_empty() { Ok(()) } else { Err(Error::Collect { failures }) }
    }

    /// While nobody comes or goes.
    async fn clear_ground(&self) -> Vec<Error> {
        if self.carrier.means == Means::Native { self.ground.clear().await } else { Vec::new() }
    }

    /// Undoes what a record stands for, as far as possible; the record goes when nothing is left to undo.
    async fn detach(&self, record: &Record) -> Result<(), Error> {
        let served = self.served_as(record);
        let served = served.map_err(|error| detach_failed(&record.attachment.id(), vec![error]))?;
        self.remove(&served, record).await
    }

    /// The whole DEL, to the end. What only a missing plugin could undo is put off to the next.
    async fn remove(&self, served: &Served, record: &Record) -> Result<(), Error> {
        let id = record.attachment.id();
        let failures = served.chain(&record.attachment).del(record.result.as_ref()).await;
        if served.carrier.means == Means::Native {
            self.ground.leave();
        }
        for failure in &failures {
            let (container, ifname) = (&id.container_id, &id.ifname);
            tracing::warn!(container, ifname, error = chain(failure), "a step of detaching failed");
        }
        if failures.is_empty() {
            return self.journal.remove(&id);
        }
        if failures.iter().all(|failure| matches!(failure, Error::PluginMissing { .. })) {
            let mut left = record.clone();
            left.detached = true;
            return self.journal.store(&left);
        }
        Err(detach_failed(&id, failures))
    }

    /// Makes again what somebody took away with the tables (`nft flush ruleset`) of those who are attached. A failure is
    /// theirs, not of whoever comes by.
    async fn mend_if_flushed(&self) {
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
            let Ok(_lock) = timeout(MEND_PATIENCE, self.locks.lock(id.clone())).await else { continue };
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
        let (Some(result), true) = (&record.result, uses_tables(&record, &served.conf)) else {
            return Ok(Vec::new());
        };
        if served.carrier.means == Means::Executed {
            return Ok(Vec::new());
        }
        self.ground.lay(&added(&record).ips);
        Ok(served.chain(&record.attachment).restore(result).await)
    }

    /// See [`crate::Networks::check`].
    pub(crate) async fn check(&self, attachment: &Attachment) -> Result<(), Error> {
        let id = attachment.id();
        let _lock = self.locks.lock(id.clone()).await;
        let _busy = self.quiet.read().await;
        let record = self.journal.load(&id)?.filter(Record::is_attached);
        let Some(mut record) = record else {
            let AttachmentId { container_id, ifname } = id;
            return Err(Error::NotAttached { container_id, ifname });
        };
        record.attachment.netns = namespace(attachment.netns.as_deref());
        let served = self.served_as(&record)?;
        served.chain(&record.attachment).check(record.result.as_ref()).await
    }

    /// See [`crate::Networks::gc`].
    pub(crate) async fn gc(
        &self,
        valid: &(dyn Fn() -> HashSet<AttachmentId> + Send + Sync),
    ) -> Result<(), Error> {
        let recorded = self.journal.ids()?;
        let kept = self.kept(recorded.clone(), &valid())?;
        if !kept.is_empty() && self.carrier.means == Means::Native {
            // Of those whom a former daemon attached, nobody has told yet whether they have entries in the tables.
            self.lay_for(&kept)?;
            self.mend_if_flushed().await;
        }
        let mut failures = Vec::new();
        for id in recorded.into_iter().filter(|id| !kept.contains(id)) {
            failures.extend(self.collect(id).await.err());
        }
        // While anything is being attached or detached there is no telling what is valid: the next call asks again.
        if let Ok(_quiet) = self.quiet.try_write() {
            let kept = self.kept(self.journal.ids()?, &valid())?;
            failures.extend(self.collect_unrecorded(&kept).await);
        }
        if failures.is_empty() { Ok(()) } else { Err(Error::Collect { failures }) }
    }

    fn lay_for(&self, kept: &[AttachmentId]) -> Result<(), Error> {
        for id in kept {
            let Some(record) = self.journal.load(id)?.filter(Record::is_attached) else { continue };
            let served = self.served_as(&record)?;
            if served.carrier.means == Means::Native && uses_tables(&record, &served.conf) {
                self.ground.lay(&added(&record).ips);
            }
        }
        Ok(())
    }

    /// Those of the recorded attachments that are valid and not half detached.
    fn kept(
        &self,
        recorded: Vec<AttachmentId>,
        valid: &HashSet<AttachmentId>,
    ) -> Result<Vec<AttachmentId>, Error> {
        let mut kept = Vec::new();
        for id in recorded.into_iter().filter(|id| valid.contains(id)) {
            if !self.journal.load(&id)?.is_some_and(|record| record.detached) {
                kept.push(id);
            }
        }
        Ok(kept)
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
        let conf = match &self.configured {
            Configured::Directory(readiness) => readiness.loaded(),
            Configured::Builtin(settings, _) => match settings.conf(&self.addresses, None) {
                Ok(conf) => Some(Arc::new(conf)),
                Err(error) => return vec![error],
            },
        };
        let mut failures = match conf {
            Some(conf) => network::gc(&conf, &self.carrier, kept).await,
            None => Vec::new(),
        };
        failures.extend(self.clear_ground().await);
        failures
    }

    /// Who would serve a new attachment, and what a record needs to find them again.
    async fn served(&self) -> Result<(Served, Via), Error> {
        let carrier = self.carrier.clone();
        match &self.configured {
            Configured::Builtin(settings, _) => {
                let mtu = if settings.mtu.is_none() { self.ground.mtu().await? } else { None };
                let conf = Arc::new(settings.conf(&self.addresses, mtu)?);
                Ok((Served { conf, carrier }, Via::Builtin(settings.clone())))
            }
            Configured::Directory(readiness) => {
                let conf = readiness.network()?;
                let via = Via::Chain(conf.to_value());
                Ok((Served { conf, carrier }, via))
            }
        }
    }

    fn served_as(&self, record: &Record) -> Result<Served, Error> {
        let (conf, means) = match &record.via {
            Via::Builtin(settings) => {
                self.ground.own_bridge(&settings.bridge);
                (settings.conf(&self.addresses, None)?, Means::Native)
            }
            Via::Chain(value) => {
                let means = if record.native { Means::Native } else { Means::Executed };
                (conf::parse(Path::new(&record.network), value)?, means)
            }
        };
        Ok(Served { conf: Arc::new(conf), carrier: self.carrier.by(means) })
    }
}

impl Served {
    fn chain<'a>(&'a self, attachment: &'a Attachment) -> Chain<'a> {
        Chain { conf: &self.conf, carrier: &self.carrier, attachment }
    }

    /// Whether nothing of it is executed, so that its end can be told apart from its cutting off.
    fn is_native_throughout(&self) -> bool {
        self.conf.plugins.iter().all(|plugin| self.carrier.serves(plugin))
    }
}

/// Whether an attachment that is served in-process has entries in the tables.
fn uses_tables(record: &Record, conf: &NetworkConf) -> bool {
    let masquerades = |field: &serde_json::Value| field.as_bool() == Some(true);
    let masquerades = conf.plugins.iter().any(|plugin| plugin.fields.get("ipMasq").is_some_and(masquerades));
    masquerades || !record.attachment.port_mappings.is_empty()
}

/// What came of a record's ADD, in the form of 1.1.0. It was understood once before, when it was printed.
fn result_of(record: &Record) -> Option<NetworkResult> {
    record.result.as_ref().map(|raw| normalised(raw, Version::V1_1_0))
}

fn added(record: &Record) -> Added {
    let result = result_of(record).unwrap_or_default();
    Added { ips: result.addresses(), result }
}

/// The path if a network namespace is there: after its owner's end, a path below /proc may lead to something else.
fn namespace(path: Option<&Path>) -> Option<PathBuf> {
    let is_namespace = |path: &Path| {
        nix::sys::statfs::statfs(path)
            .is_ok_and(|info| info.filesystem_type() == nix::sys::statfs::NSFS_MAGIC)
    };
    path.filter(|path| is_namespace(path)).map(Path::to_owned)
}

fn detach_failed(id: &AttachmentId, failures: Vec<Error>) -> Error {
    let AttachmentId { container_id, ifname } = id.clone();
    Error::Detach { container_id, ifname, failures }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
