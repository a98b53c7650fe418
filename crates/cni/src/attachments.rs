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

mod mend;

pub(crate) use self::mend::watch_tables;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedRwLockReadGuard, RwLock, watch};

use crate::attachment::{Attachment, AttachmentId};
use crate::builtin_network::BuiltinNetwork;
use crate::cache::{Journal, Record, Via};
use crate::carrier::{Carrier, Means};
use crate::claim::Claim;
use crate::directories::Directories;
use crate::error::{Error, chain};
use crate::ground::{Ground, Laid};
use crate::locks::{Lock, Locks};
use crate::network::{self, normalised};
use crate::networks::{Added, Config};
use crate::orphans;
use crate::plugin::Runner;
use crate::readiness::Status;
use crate::result::NetworkResult;
use crate::served::{Chosen, Served};
use crate::version::Version;

/// Said where there is neither a directory nor a built-in network.
const NOTHING: &str = "no network is configured";

/// All attachments of a node.
#[derive(Debug)]
pub(crate) struct Attachments {
    /// Where the built-in network keeps its addresses.
    addresses: PathBuf,
    configured: Configured,
    directories: Directories,
    /// For networks as they are configured now.
    carrier: Carrier,
    journal: Journal,
    locks: Arc<Locks>,
    /// Taken for writing by GC, which must not meet an ADD or a DEL (SPEC.md section 3, "Garbage-collecting").
    quiet: Arc<RwLock<()>>,
    ground: Arc<Ground>,
    /// Held while the tables are mended. Those that something was being done to then: the next one to mend sees to them.
    mending: tokio::sync::Mutex<HashSet<AttachmentId>>,
    /// Those whose DEL has been answered, and is being finished.
    leaving: Mutex<HashSet<AttachmentId>>,
    /// How many are.
    behind: watch::Sender<usize>,
}

#[derive(Debug)]
enum Configured {
    Builtin(BuiltinNetwork, #[expect(dead_code, reason = "held, not used")] Claim),
    Directory,
}

/// Tells which attachments are valid at the moment of asking.
pub(crate) type Valid<'a> = &'a (dyn Fn() -> IsValid + Send + Sync);
/// Whether an attachment was valid when that was asked.
pub(crate) type IsValid = Box<dyn Fn(&AttachmentId) -> bool + Send>;

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
        let records = config.state_dir.join("attachments");
        let journal = Journal::open(records.clone())?;
        let owner = orphans::owner(&config.state_dir)?;
        orphans::end(&owner, &journal)?;
        let runner = Runner { bin_dirs: config.bin_dirs.clone(), deadline: config.plugin_deadline, owner };
        let carrier = Carrier { runner, means: if config.native { Means::Native } else { Means::Executed } };
        let quiet = Arc::default();
        let ground = Arc::new(Ground::new(records.clone(), Arc::clone(&quiet)));
        let addresses = config.state_dir.join("addresses");
        let configured = match config.builtin.clone() {
            Some(builtin) => {
                builtin.check()?;
                let claim = Claim::take(&builtin.bridge, &records)?;
                ground.own_bridge(&builtin.bridge);
                Configured::Builtin(builtin, claim)
            }
            None => Configured::Directory,
        };
        let directories = Directories::open(&config, &carrier)?;
        Ok(Attachments {
            addresses,
            configured,
            directories,
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

    /// Whether an ADD for a pod of that handler would be served now. Never waits.
    pub(crate) fn status(&self, handler: &str) -> Status {
        match (&self.configured, self.directories.of(handler)) {
            (_, Some(readiness)) => readiness.status(),
            (Configured::Builtin(builtin, _), None) => Status::Ready { network: builtin.name.clone() },
            (Configured::Directory, None) => Status::NotReady { reason: NOTHING.into() },
        }
    }

    /// The networks that a pod of that handler joins, in this order; at least one. Not cancel safe: it may run plugins.
    pub(crate) async fn chosen(&self, handler: &str) -> Result<Vec<Chosen>, Error> {
        match (&self.configured, self.directories.of(handler)) {
            (_, Some(readiness)) => {
                let networks = readiness.networks().await?.into_iter();
                Ok(networks.map(|conf| Chosen::chain(conf, &self.carrier)).collect())
            }
            (Configured::Builtin(settings, _), None) => {
                let served = Served::builtin(settings, &self.addresses, &self.carrier, None)?;
                Ok(vec![Chosen { served, via: Via::Builtin(settings.clone()) }])
            }
            (Configured::Directory, None) => Err(Error::NotReady { reason: NOTHING.into() }),
        }
    }

    /// The attachments of a container that are recorded, whatever has become of them, by their interfaces.
    pub(crate) fn recorded(&self, container_id: &str) -> Result<Vec<AttachmentId>, Error> {
        let mut found = self.journal.ids()?;
        found.retain(|id| id.container_id == container_id);
        found.sort_by(|a, b| (a.ifname.len(), &a.ifname).cmp(&(b.ifname.len(), &b.ifname)));
        Ok(found)
    }

    /// What has come of an attachment, while somebody has it.
    pub(crate) fn attached(&self, id: &AttachmentId) -> Result<Option<Added>, Error> {
        Ok(self.journal.load(id)?.filter(Record::is_attached).map(|record| added(&record)))
    }

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
                self.ground.lay(&served.in_tables(attachment, &added));
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
        let served = match self.served_as(&record) {
            Ok(served) => served,
            Err(error) => {
                // Of a newer version, for one. It mustn't keep a pod any more than a plugin that is missing.
                let (container, ifname) = (&id.container_id, &id.ifname);
                tracing::warn!(container, ifname, error = chain(&error), "detaching is put off");
                record.detached = true;
                return self.journal.store(&record);
            }
        };
        if !served.is_native_throughout() {
            return self.remove(&served, &record).await;
        }
        let cut = served.chain(&record.attachment).cut(record.result.as_ref()).await;
        if !cut.is_empty() {
            // What one of them refuses is no reason to leave the rest; what stays refused is said once more.
            return self.remove(&served, &record).await;
        }
        record.detached = true;
        if self.journal.store(&record).is_err() {
            // On a full disk, for one: what a crash would let nobody know isn't answered before it is done.
            return self.remove(&served, &record).await;
        }
        // Its owner may end the namespace now, and the path may lead to another's.
        record.attachment.netns = None;
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
        let failures = served.chain(&record.attachment).del_after_cut(record.result.as_ref()).await;
        if let Err(error) = self.removed(&served, &record, failures) {
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
        // Who looks at the tables holds us while it mends them. Whoever else does had come, and has gone.
        let _mended = self.mending.lock().await;
        let failures = self.clear_ground().await;
        if failures.is_empty() { Ok(()) } else { Err(Error::Collect { failures }) }
    }

    /// Tells whether there are tables, whenever that changes.
    pub(crate) fn laid(&self) -> watch::Receiver<Laid> {
        self.ground.laid()
    }

    /// While nobody comes or goes.
    async fn clear_ground(&self) -> Vec<Error> {
        let native =
            self.carrier.means == Means::Native || matches!(self.configured, Configured::Builtin(..));
        if native || self.ground.is_used() { self.ground.clear().await } else { Vec::new() }
    }

    /// Undoes what a record stands for, as far as possible; the record goes when nothing is left to undo.
    async fn detach(&self, record: &Record) -> Result<(), Error> {
        let served = self.served_as(record);
        let served = served.map_err(|error| detach_failed(&record.attachment.id(), vec![error]))?;
        self.remove(&served, record).await
    }

    /// The whole DEL, to the end. What only a missing plugin could undo is put off to the next.
    async fn remove(&self, served: &Served, record: &Record) -> Result<(), Error> {
        let failures = served.chain(&record.attachment).del(record.result.as_ref()).await;
        self.removed(served, record, failures)
    }

    /// After a DEL of which that failed.
    fn removed(&self, served: &Served, record: &Record, failures: Vec<Error>) -> Result<(), Error> {
        let id = record.attachment.id();
        if served.is_native() {
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
    pub(crate) async fn gc(&self, valid: Valid<'_>) -> Result<(), Error> {
        let recorded = self.journal.ids()?;
        let kept = self.kept(recorded.clone(), &valid());
        self.lay_for(&kept);
        self.mend_what_is_missing().await;
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

    /// The network of a record.
    fn served_as(&self, record: &Record) -> Result<Served, Error> {
        if let Via::Builtin(settings) = &record.via {
            self.ground.own_former_bridge(&settings.bridge);
        }
        Served::of(record, &self.addresses, &self.carrier)
    }
}

/// What came of a record's ADD, in the form of 1.1.0. It was understood once before, when it was printed.
fn result_of(record: &Record) -> Option<NetworkResult> {
    record.result.as_ref().map(|raw| normalised(raw, Version::V1_1_0))
}

fn added(record: &Record) -> Added {
    let result = result_of(record).unwrap_or_default();
    let (ifname, network) = (record.attachment.ifname.clone(), record.network.clone());
    Added { ifname, network, ips: result.addresses(), result }
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
