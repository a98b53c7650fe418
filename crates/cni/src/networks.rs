//! The handle that callers hold: attachments from their intent to their end.
//!
//! | step of ADD | on failure |
//! |---|---|
//! | check the request, find a network and its plugins | nothing to undo |
//! | journal the intent | nothing to undo |
//! | run the chain, or the built-in network | DEL of all of it; the record goes if that succeeds |
//! | journal the result | the same |
//!
//! A record that is left says what is still to be undone; the next DEL or collection tries again. Which plugin runs when is
//! `network`'s affair.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::RwLock;

use crate::attachment::{Attachment, AttachmentId};
use crate::builtin::{Builtin, BuiltinNetwork};
use crate::cache::{Journal, Record, Via};
use crate::conf::{self, NetworkConf};
use crate::error::{Error, chain};
use crate::locks::{Lock, Locks};
use crate::network::{self, Chain, normalised};
use crate::plugin::Runner;
use crate::readiness::{Readiness, Status};
use crate::result::NetworkResult;
use crate::version::Version;

/// Where things are, and how long a plugin may take.
#[derive(Debug, Clone)]
pub struct Config {
    /// The directory of network configurations, `/etc/cni/net.d` by custom. The first file by name decides.
    pub conf_dir: PathBuf,
    /// The directories that plugin binaries are looked for in, in this order.
    pub bin_dirs: Vec<PathBuf>,
    /// Where attachments are recorded; has to survive a reboot, since plugins' own records do.
    pub state_dir: PathBuf,
    /// The built-in network, used instead of `conf_dir` when given.
    pub builtin: Option<BuiltinNetwork>,
    /// How long one run of a plugin may take; it is killed then.
    pub plugin_deadline: Duration,
}

impl Config {
    /// The default of [`Config::plugin_deadline`]: a chain of two still fits into the two minutes after which kubelet
    /// gives up (`--runtime-request-timeout`).
    pub const PLUGIN_DEADLINE: Duration = Duration::from_secs(50);
}

/// The outcome of [`Networks::add`].
#[derive(Debug, Clone)]
pub struct Added {
    /// The addresses inside the namespace, in the network's order; the first is the primary one.
    pub ips: Vec<IpAddr>,
    /// The whole result, in the form of 1.1.0.
    pub result: NetworkResult,
}

/// The networks of this node; clones are handles to the same.
#[derive(Debug, Clone)]
pub struct Networks {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state_dir: PathBuf,
    configured: Configured,
    runner: Runner,
    journal: Journal,
    locks: Arc<Locks>,
    /// Taken for writing by GC, which must not meet an ADD or a DEL (SPEC.md section 3, "Garbage-collecting").
    quiet: RwLock<()>,
    /// By bridge: the configured one, and those that attachments of an earlier configuration are still on.
    builtins: Mutex<HashMap<String, Arc<Builtin>>>,
}

#[derive(Debug)]
enum Configured {
    Builtin(BuiltinNetwork),
    Directory(Readiness),
}

/// Who does the work of one attachment.
enum Engine {
    Chain(Arc<NetworkConf>),
    Builtin(Arc<Builtin>),
}

impl Networks {
    /// Opens the directories, loads what is there and begins to watch. Has to be called inside a tokio runtime.
    ///
    /// That nothing usable is configured (yet) is no error, but a [`Status`].
    ///
    /// # Errors
    /// [`Error::Record`] for the state directory, [`Error::Watch`], [`Error::InvalidBuiltin`].
    pub fn open(config: Config) -> Result<Networks, Error> {
        let journal = Journal::open(config.state_dir.join("attachments"))?;
        let runner = Runner { bin_dirs: config.bin_dirs.clone(), deadline: config.plugin_deadline };
        let state_dir = config.state_dir.clone();
        let configured = match config.builtin.clone() {
            Some(builtin) => {
                builtin.check()?;
                Configured::Builtin(builtin)
            }
            None => Configured::Directory(Readiness::open(config, runner.clone())?),
        };
        let inner = Inner {
            state_dir,
            configured,
            runner,
            journal,
            locks: Arc::default(),
            quiet: RwLock::new(()),
            builtins: Mutex::default(),
        };
        Ok(Networks { inner: Arc::new(inner) })
    }

    /// Whether an ADD would be served now. Never waits.
    #[must_use]
    pub fn status(&self) -> Status {
        match &self.inner.configured {
            Configured::Builtin(builtin) => Status::Ready { network: builtin.name.clone() },
            Configured::Directory(readiness) => readiness.status(),
        }
    }

    /// Attaches a network namespace.
    ///
    /// Cancel safe: the work goes on to its end when the future is dropped; a later `del` waits for it.
    ///
    /// # Errors
    /// [`Error::NotReady`], [`Error::InvalidAttachment`], [`Error::AlreadyAttached`], and whatever the plugins or the
    /// kernel refuse. What had been done is undone then; [`Error::Undo`] when that failed too.
    pub async fn add(&self, attachment: &Attachment) -> Result<Added, Error> {
        attachment.check()?;
        let (inner, attachment) = (Arc::clone(&self.inner), attachment.clone());
        finish(async move { inner.add(&attachment).await }).await
    }

    /// Detaches, from what was recorded by `add`; the namespace may be gone. Succeeds for what isn't attached.
    ///
    /// Every step is tried though another fails. A plugin whose binary is gone blocks nobody: its part is put off to the
    /// collections that follow. Cancel safe, as `add` is.
    ///
    /// # Errors
    /// [`Error::Detach`] with all that failed; calling again tries again.
    pub async fn del(&self, attachment: &Attachment) -> Result<(), Error> {
        attachment.id().check()?;
        let (inner, attachment) = (Arc::clone(&self.inner), attachment.clone());
        finish(async move { inner.del(&attachment).await }).await
    }

    /// Sees whether an attachment is still as `add` left it.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`Error::NotAttached`], or what a plugin or the kernel finds wrong.
    pub async fn check(&self, attachment: &Attachment) -> Result<(), Error> {
        attachment.id().check()?;
        let (inner, attachment) = (Arc::clone(&self.inner), attachment.clone());
        finish(async move { inner.check(&attachment).await }).await
    }

    /// Detaches everything that isn't in `valid`, and has the plugins do the same with what they keep (GC).
    ///
    /// `valid` has to name every attachment whose `add` has begun. What another call is at work on is left to it. Cancel
    /// safe, as `add` is.
    ///
    /// # Errors
    /// [`Error::Collect`] with all that failed; the next call tries again.
    pub async fn gc(&self, valid: &[AttachmentId]) -> Result<(), Error> {
        let (inner, valid) = (Arc::clone(&self.inner), valid.iter().cloned().collect());
        finish(async move { inner.gc(&valid).await }).await
    }
}

/// Runs the work as a task of its own, which ends by its own deadlines whether its caller still waits or not.
async fn finish<T, F>(work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Error>> + Send + 'static,
{
    tokio::spawn(work).await.unwrap_or(Err(Error::CutShort))
}

impl Inner {
    async fn add(&self, attachment: &Attachment) -> Result<Added, Error> {
        let id = attachment.id();
        let lock = self.locks.lock(id.clone()).await;
        let _busy = self.quiet.read().await;
        if attachment.netns.is_none() {
            return Err(Error::InvalidAttachment { field: "network namespace", value: String::new() });
        }
        if let Some(mut record) = self.journal.load(&id)? {
            if record.result.is_some() {
                let AttachmentId { container_id, ifname } = id;
                return Err(Error::AlreadyAttached { container_id, ifname });
            }
            // An ADD that was cut short before anybody learnt of it.
            record.attachment.netns = namespace(attachment.netns.as_deref());
            self.detach(&lock, &record).await?;
        }
        let (engine, network, via) = self.engine()?;
        let mut record = Record::intent(&network, attachment, via);
        self.journal.store(&record)?;
        let outcome = engine.add(&self.runner, attachment).await.and_then(|raw| {
            record.result = Some(raw);
            self.journal.store(&record)
        });
        match outcome {
            Ok(()) => Ok(added(&record)),
            Err(failure) => Err(self.undo(&lock, &record, failure).await),
        }
    }

    async fn undo(&self, lock: &Lock, record: &Record, failure: Error) -> Error {
        match self.detach(lock, record).await {
            Ok(()) => failure,
            Err(Error::Detach { failures, .. }) => Error::Undo { failure: Box::new(failure), undo: failures },
            Err(other) => Error::Undo { failure: Box::new(failure), undo: vec![other] },
        }
    }

    async fn del(&self, attachment: &Attachment) -> Result<(), Error> {
        let lock = self.locks.lock(attachment.id()).await;
        let _busy = self.quiet.read().await;
        let Some(mut record) = self.journal.load(&attachment.id())? else { return Ok(()) };
        record.attachment.netns = namespace(attachment.netns.as_deref());
        self.detach(&lock, &record).await
    }

    /// Undoes what a record stands for, as far as possible; the record goes when nothing is left to undo.
    async fn detach(&self, _lock: &Lock, record: &Record) -> Result<(), Error> {
        let id = record.attachment.id();
        let failures = match self.engine_of(record) {
            Ok(engine) => engine.del(&self.runner, record).await,
            Err(error) => vec![error],
        };
        if failures.is_empty() {
            return self.journal.remove(&id);
        }
        for failure in &failures {
            let (container, ifname) = (&id.container_id, &id.ifname);
            tracing::warn!(container, ifname, error = chain(failure), "a step of detaching failed");
        }
        if failures.iter().all(|failure| matches!(failure, Error::PluginMissing { .. })) {
            return Ok(());
        }
        Err(Error::Detach { container_id: id.container_id, ifname: id.ifname, failures })
    }

    async fn check(&self, attachment: &Attachment) -> Result<(), Error> {
        let id = attachment.id();
        let _lock = self.locks.lock(id.clone()).await;
        let _busy = self.quiet.read().await;
        let record = self.journal.load(&id)?.filter(|record| record.result.is_some());
        let Some(mut record) = record else {
            let AttachmentId { container_id, ifname } = id;
            return Err(Error::NotAttached { container_id, ifname });
        };
        record.attachment.netns = namespace(attachment.netns.as_deref());
        self.engine_of(&record)?.check(&self.runner, &record).await
    }

    async fn gc(&self, valid: &HashSet<AttachmentId>) -> Result<(), Error> {
        let mut failures = Vec::new();
        let mut kept = Vec::new();
        for id in self.journal.ids()? {
            if valid.contains(&id) {
                kept.push(id);
            } else if let Err(error) = self.collect(id).await {
                failures.push(error);
            }
        }
        // While anything is being attached or detached there is no telling what is valid: the next call asks again.
        if let Ok(_quiet) = self.quiet.try_write() {
            failures.extend(self.collect_unrecorded(&kept).await);
        }
        if failures.is_empty() { Ok(()) } else { Err(Error::Collect { failures }) }
    }

    async fn collect(&self, id: AttachmentId) -> Result<(), Error> {
        let Some(lock) = self.locks.try_lock(id.clone()) else { return Ok(()) };
        let _busy = self.quiet.read().await;
        match self.journal.load(&id)? {
            // Nobody vouches for the namespace any more; its path may name another's by now.
            Some(mut record) => {
                record.attachment.netns = None;
                self.detach(&lock, &record).await
            }
            None => self.journal.remove(&id),
        }
    }

    async fn collect_unrecorded(&self, kept: &[AttachmentId]) -> Vec<Error> {
        match &self.configured {
            Configured::Directory(readiness) => match readiness.loaded() {
                Some(conf) => network::gc(&conf, &self.runner, kept).await,
                None => Vec::new(),
            },
            Configured::Builtin(settings) => {
                let (builtin, kept) = match self.builtin(settings) {
                    Ok(builtin) => (builtin, kept.iter().cloned().collect()),
                    Err(error) => return vec![error],
                };
                let collected = tokio::task::spawn_blocking(move || builtin.collect(&kept)).await;
                collected.unwrap_or_else(|_| vec![Error::CutShort])
            }
        }
    }

    /// Who would serve a new attachment, in which network, and what a record needs to find them again.
    fn engine(&self) -> Result<(Engine, String, Via), Error> {
        match &self.configured {
            Configured::Builtin(settings) => {
                let engine = Engine::Builtin(self.builtin(settings)?);
                Ok((engine, settings.name.clone(), Via::Builtin(settings.clone())))
            }
            Configured::Directory(readiness) => {
                let conf = readiness.network()?;
                let (network, via) = (conf.name.clone(), Via::Chain(conf.to_value()));
                Ok((Engine::Chain(conf), network, via))
            }
        }
    }

    fn engine_of(&self, record: &Record) -> Result<Engine, Error> {
        match &record.via {
            Via::Builtin(settings) => Ok(Engine::Builtin(self.builtin(settings)?)),
            Via::Chain(value) => Ok(Engine::Chain(Arc::new(conf::parse(Path::new(&record.network), value)?))),
        }
    }

    fn builtin(&self, settings: &BuiltinNetwork) -> Result<Arc<Builtin>, Error> {
        let mut builtins = self.builtins.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(builtin) = builtins.get(&settings.bridge) {
            return Ok(Arc::clone(builtin));
        }
        let on_bridge =
            |record: &Record| matches!(&record.via, Via::Builtin(of) if of.bridge == settings.bridge);
        let mut users = HashSet::new();
        for id in self.journal.ids()? {
            if self.journal.load(&id)?.is_some_and(|record| on_bridge(&record)) {
                users.insert(id);
            }
        }
        let builtin = Arc::new(Builtin::open(settings.clone(), &self.state_dir, users)?);
        builtins.insert(settings.bridge.clone(), Arc::clone(&builtin));
        Ok(builtin)
    }
}

impl Engine {
    async fn add(&self, runner: &Runner, attachment: &Attachment) -> Result<Value, Error> {
        match self {
            Engine::Chain(conf) => Chain { conf, runner, attachment }.add().await,
            Engine::Builtin(builtin) => {
                let (builtin, attachment) = (Arc::clone(builtin), attachment.clone());
                let added = tokio::task::spawn_blocking(move || builtin.add(&attachment)).await;
                Ok(added.unwrap_or(Err(Error::CutShort))?.to_version(Version::V1_1_0))
            }
        }
    }

    async fn del(&self, runner: &Runner, record: &Record) -> Vec<Error> {
        match self {
            Engine::Chain(conf) => {
                Chain { conf, runner, attachment: &record.attachment }.del(record.result.as_ref()).await
            }
            Engine::Builtin(builtin) => {
                let (builtin, attachment) = (Arc::clone(builtin), record.attachment.clone());
                let result = record.result.as_ref().map(|raw| normalised(raw, Version::V1_1_0));
                let deleted =
                    tokio::task::spawn_blocking(move || builtin.del(&attachment, result.as_ref())).await;
                deleted.unwrap_or_else(|_| vec![Error::CutShort])
            }
        }
    }

    async fn check(&self, runner: &Runner, record: &Record) -> Result<(), Error> {
        match self {
            Engine::Chain(conf) => {
                Chain { conf, runner, attachment: &record.attachment }.check(record.result.as_ref()).await
            }
            Engine::Builtin(builtin) => {
                let (builtin, record) = (Arc::clone(builtin), record.clone());
                let checking = tokio::task::spawn_blocking(move || {
                    let result = record.result.as_ref().map(|raw| normalised(raw, Version::V1_1_0));
                    builtin.check(&record.attachment, &result.unwrap_or_default())
                });
                checking.await.unwrap_or(Err(Error::CutShort))
            }
        }
    }
}

fn added(record: &Record) -> Added {
    let raw = record.result.as_ref();
    let result = raw.map(|raw| normalised(raw, Version::V1_1_0)).unwrap_or_default();
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
