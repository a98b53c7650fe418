//! Attachments from their intent to their end.
//!
//! | step of ADD | on failure |
//! |---|---|
//! | check the request, find a network and its plugins | nothing to undo |
//! | journal the intent | nothing to undo |
//! | run the chain, or the built-in network | DEL of all of it; the record goes if that succeeds |
//! | journal the result | the same |
//!
//! | step of DEL | on failure |
//! |---|---|
//! | run the chain backwards, or cut off from the built-in network | go on to the end; the record stays |
//! | delete what the kernel takes its time for (behind the answer) | the record stays |
//! | remove the record | |
//!
//! A record that is left says what is still to be undone; the next DEL or collection tries again. Which plugin runs when is
//! `network`'s affair.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedRwLockReadGuard, RwLock, watch};
use tokio::task::JoinSet;

use crate::attachment::{Attachment, AttachmentId};
use crate::builtin::{Builtin, BuiltinNetwork, Published};
use crate::cache::{Journal, Record, Via};
use crate::claim::Claim;
use crate::conf::{self, NetworkConf};
use crate::directories::Directories;
use crate::engine::{Engine, blocking, result_of};
use crate::error::{Error, chain};
use crate::locks::{Lock, Locks};
use crate::network;
use crate::networks::{Added, Config};
use crate::plugin::Runner;
use crate::readiness::Status;

/// How long the ground of the built-in network outlives its last pod: it takes longer to make and to take away than all of
/// a pod's share.
const LINGER: Duration = Duration::from_secs(3);

/// Said where there is neither a directory nor a built-in network.
const NOTHING: &str = "no network is configured";

/// All attachments of a node.
#[derive(Debug)]
pub(crate) struct Attachments {
    state_dir: PathBuf,
    configured: Configured,
    directories: Directories,
    runner: Runner,
    journal: Journal,
    locks: Arc<Locks>,
    /// Taken for writing by GC, which must not meet an ADD or a DEL (SPEC.md section 3, "Garbage-collecting").
    quiet: Arc<RwLock<()>>,
    /// By bridge: the configured one, and those that attachments of an earlier configuration are still on.
    builtins: Mutex<HashMap<String, Arc<Builtin>>>,
    /// Those whose DEL has been answered, and is being finished.
    leaving: Mutex<HashSet<AttachmentId>>,
    /// How many are.
    behind: watch::Sender<usize>,
    /// Waits until the ground of a built-in network may go; given up with us.
    lingering: Mutex<JoinSet<()>>,
}

#[derive(Debug)]
enum Configured {
    Builtin(BuiltinNetwork, #[expect(dead_code, reason = "held, not used")] Claim),
    Directory,
}

/// A network that an attachment can be made in.
#[derive(Debug, Clone)]
pub(crate) struct Chosen {
    engine: Engine,
    name: String,
    /// What a record needs to find them again.
    via: Via,
}

/// Tells which attachments are valid at the moment of asking.
pub(crate) type Valid<'a> = &'a (dyn Fn() -> IsValid + Send + Sync);
/// Whether an attachment was valid when that was asked.
pub(crate) type IsValid = Box<dyn Fn(&AttachmentId) -> bool + Send>;

/// The second half of a DEL, with the right to it.
struct Remainder {
    engine: Engine,
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
        let state_dir = config.state_dir.clone();
        let configured = match config.builtin.clone() {
            Some(builtin) => {
                builtin.check()?;
                let claim = Claim::take(&builtin.bridge)?;
                Configured::Builtin(builtin, claim)
            }
            None => Configured::Directory,
        };
        let directories = Directories::open(&config, &runner)?;
        Ok(Attachments {
            state_dir,
            configured,
            directories,
            runner,
            journal,
            locks: Arc::default(),
            quiet: Arc::default(),
            builtins: Mutex::default(),
            leaving: Mutex::default(),
            behind: watch::Sender::new(0),
            lingering: Mutex::default(),
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
            (_, Some(readiness)) => Ok(readiness.networks().await?.into_iter().map(Chosen::chain).collect()),
            (Configured::Builtin(settings, _), None) => {
                let (engine, name) = (Engine::Builtin(self.builtin(settings)?), settings.name.clone());
                Ok(vec![Chosen { engine, name, via: Via::Builtin(settings.clone()) }])
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
        }
        let Chosen { engine, name, via } = chosen;
        let mut record = Record::intent(&name, attachment, via);
        self.journal.store(&record)?;
        let outcome = engine.add(&self.runner, attachment).await.and_then(|raw| {
            record.result = Some(raw);
            self.journal.store(&record)
        });
        match outcome {
            Ok(()) => Ok(added(&record)),
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
        let engine = self.engine_of(&record).map_err(|error| detach_failed(&id, vec![error]))?;
        let complete = self.cut(&engine, &record).await?;
        if complete && !engine.has_remainder() {
            return self.journal.remove(&id);
        }
        record.detached = true;
        self.journal.store(&record)?;
        if !complete {
            return Ok(());
        }
        locked(&self.leaving).insert(id);
        self.behind.send_modify(|count| *count += 1);
        let (attachments, remainder) = (Arc::clone(self), Remainder { engine, record, lock, busy });
        // Ends by itself; `settle` waits for it.
        tokio::spawn(async move { attachments.finish(remainder).await });
        Ok(())
    }

    async fn finish(&self, remainder: Remainder) {
        let Remainder { engine, record, lock, busy } = remainder;
        let id = record.attachment.id();
        if let Err(error) = self.remove(&engine, &record).await {
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
        if let Engine::Builtin(builtin) = engine {
            self.linger(builtin);
        }
    }

    fn linger(&self, builtin: Arc<Builtin>) {
        let Some(idle) = builtin.idle_since() else { return };
        let mut lingering = locked(&self.lingering);
        while lingering.try_join_next().is_some() {}
        lingering.spawn(async move {
            tokio::time::sleep(LINGER).await;
            if let Err(error) = blocking(move || builtin.clear(idle)).await {
                tracing::warn!(error = chain(&error), "the built-in network couldn't be taken away");
            }
        });
    }

    /// See [`crate::Networks::settle`].
    pub(crate) async fn settle(&self) -> Result<(), Error> {
        // The sender is ours, so that the wait can't fail.
        let _ = self.behind.subscribe().wait_for(|count| *count == 0).await;
        let builtins: Vec<Arc<Builtin>> = locked(&self.builtins).values().cloned().collect();
        let mut failures = Vec::new();
        for builtin in builtins {
            if let Some(idle) = builtin.idle_since() {
                failures.extend(blocking(move || builtin.clear(idle)).await.err());
            }
        }
        if failures.is_empty() { Ok(()) } else { Err(Error::Collect { failures }) }
    }

    /// Undoes what a record stands for, as far as possible; the record goes when nothing is left to undo.
    async fn detach(&self, record: &Record) -> Result<(), Error> {
        let engine =
            self.engine_of(record).map_err(|error| detach_failed(&record.attachment.id(), vec![error]))?;
        if self.cut(&engine, record).await? { self.remove(&engine, record).await } else { Ok(()) }
    }

    /// The first half. Returns whether the second may follow: what only a missing plugin could undo is put off.
    async fn cut(&self, engine: &Engine, record: &Record) -> Result<bool, Error> {
        let id = record.attachment.id();
        let failures = engine.cut(&self.runner, record).await;
        for failure in &failures {
            let (container, ifname) = (&id.container_id, &id.ifname);
            tracing::warn!(container, ifname, error = chain(failure), "a step of detaching failed");
        }
        if failures.iter().all(|failure| matches!(failure, Error::PluginMissing { .. })) {
            return Ok(failures.is_empty());
        }
        Err(detach_failed(&id, failures))
    }

    /// The second half.
    async fn remove(&self, engine: &Engine, record: &Record) -> Result<(), Error> {
        engine.remove(record).await?;
        self.journal.remove(&record.attachment.id())
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
        self.engine_of(&record)?.check(&self.runner, &record).await
    }

    /// See [`crate::Networks::gc`].
    pub(crate) async fn gc(&self, valid: Valid<'_>) -> Result<(), Error> {
        let recorded = self.journal.ids()?;
        let kept = self.kept(recorded.clone(), &valid())?;
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

    /// Those of the recorded attachments that are valid and not half detached.
    fn kept(&self, recorded: Vec<AttachmentId>, is_valid: &IsValid) -> Result<Vec<AttachmentId>, Error> {
        let mut kept = Vec::new();
        for id in recorded.into_iter().filter(|id| is_valid(id)) {
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

    async fn collect_unrecorded(&self, kept: &[AttachmentId]) -> Vec<Error> {
        let mut failures = Vec::new();
        for conf in self.directories.loaded() {
            failures.extend(network::gc(&conf, &self.runner, kept).await);
        }
        if let Configured::Builtin(settings, _) = &self.configured {
            let (builtin, kept) = match self.builtin(settings) {
                Ok(builtin) => (builtin, kept.iter().cloned().collect()),
                Err(error) => return vec![error],
            };
            let collected = tokio::task::spawn_blocking(move || builtin.collect(&kept)).await;
            failures.extend(collected.unwrap_or_else(|_| vec![Error::CutShort]));
        }
        failures
    }

    fn engine_of(&self, record: &Record) -> Result<Engine, Error> {
        match &record.via {
            Via::Builtin(settings) => Ok(Engine::Builtin(self.builtin(settings)?)),
            Via::Chain(value) => Ok(Engine::Chain(Arc::new(conf::parse(Path::new(&record.network), value)?))),
        }
    }

    fn builtin(&self, settings: &BuiltinNetwork) -> Result<Arc<Builtin>, Error> {
        let mut builtins = locked(&self.builtins);
        if let Some(builtin) = builtins.get(&settings.bridge) {
            return Ok(Arc::clone(builtin));
        }
        let on_bridge =
            |record: &Record| matches!(&record.via, Via::Builtin(of) if of.bridge == settings.bridge);
        let mut users = HashMap::new();
        for id in self.journal.ids()? {
            if let Some(record) = self.journal.load(&id)?.filter(|record| on_bridge(record)) {
                let addresses = result_of(&record).unwrap_or_default().addresses();
                let mappings = record.attachment.port_mappings;
                users.insert(id, Published { mappings, addresses });
            }
        }
        let builtin = Arc::new(Builtin::open(settings.clone(), &self.state_dir, users)?);
        builtins.insert(settings.bridge.clone(), Arc::clone(&builtin));
        Ok(builtin)
    }
}

impl Chosen {
    fn chain(conf: Arc<NetworkConf>) -> Chosen {
        let (name, via) = (conf.name.clone(), Via::Chain(conf.to_value()));
        Chosen { engine: Engine::Chain(conf), name, via }
    }
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
