//! Attachments from their intent to their end.
//!
//! | part | what it does |
//! |---|---|
//! | `add` | attaches: from the intent in the journal to the result |
//! | `del` | detaches: what is done before the answer, and behind it |
//! | `leaving` | who has been answered and isn't gone yet |
//! | `gc` | detaches what nobody owns, and has plugins remove what isn't recorded |
//! | `mend` | makes again what somebody took away with the tables |
//!
//! A record that is left says what is still to be undone; the next DEL or collection tries again. Which plugin runs when is
//! `network`'s affair, who waits for whom `locks`' and `quiet`'s.

mod add;
mod del;
mod gc;
mod leaving;
mod mend;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use tokio::task::JoinSet;

use self::leaving::Leaving;
use self::mend::Missed;
pub(crate) use self::mend::watch_tables;

use crate::attachment::{Attachment, AttachmentId};
use crate::builtin_network::BuiltinNetwork;
use crate::cache::{Journal, Record, Via};
use crate::carrier::{Means, blocking};
use crate::claim::Claim;
use crate::error::Error;
use crate::ground::{Ground, Laid};
use crate::locks::{Locks, locked};
use crate::network::normalised;
use crate::networks::{Added, Config};
use crate::orphans::{self, Owner, Way};
use crate::quiet::Quiet;
use crate::readiness::Status;
use crate::result::NetworkResult;
use crate::served::{Chosen, Served};
use crate::setup::Setup;
use crate::version::Version;

/// Said where there is neither a directory nor a built-in network.
const NOTHING: &str = "no network is configured";

/// All attachments of a node.
#[derive(Debug)]
pub(crate) struct Attachments {
    /// Where the built-in network keeps its addresses.
    addresses: PathBuf,
    configured: Configured,
    /// Exchanged by [`Attachments::change_over`].
    setup: watch::Sender<Arc<Setup>>,
    journal: Journal,
    locks: Arc<Locks>,
    quiet: Quiet,
    ground: Arc<Ground>,
    /// Held while the tables are mended.
    mending: tokio::sync::Mutex<Missed>,
    /// Those whose DEL has been answered, and is being finished.
    leaving: Arc<Leaving>,
    /// Results on their way to the disk, behind the answers.
    keeping: Mutex<JoinSet<()>>,
    /// Whether plugins of a killed daemon are in it.
    way: Way,
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

impl Attachments {
    /// Opens the directories. Has to be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Record`], [`Error::Watch`], [`Error::InvalidBuiltin`], [`Error::BridgeTaken`].
    pub(crate) fn open(config: Config) -> Result<Attachments, Error> {
        let records = config.state_dir.join("attachments");
        let journal = Journal::open(records.clone())?;
        let owner = Owner::of(&config.state_dir)?;
        let (owner, way) = (owner.value(), orphans::end(owner, &journal)?);
        let quiet = Quiet::default();
        let ground = Arc::new(Ground::new(records.clone(), Arc::clone(quiet.node())));
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
        let setup = Setup::open(&config, &owner)?;
        Ok(Attachments {
            addresses,
            configured,
            setup: watch::Sender::new(setup),
            journal,
            locks: Arc::default(),
            quiet,
            ground,
            mending: tokio::sync::Mutex::default(),
            leaving: Arc::default(),
            keeping: Mutex::default(),
            way,
        })
    }

    /// The setup that whatever begins now is done with.
    fn setup(&self) -> Arc<Setup> {
        Arc::clone(&self.setup.borrow())
    }

    /// A setup for another configuration; see [`crate::Networks::prepare`].
    pub(crate) async fn prepare(&self, config: &Config) -> Result<Arc<Setup>, Error> {
        let builtin = match &self.configured {
            Configured::Builtin(settings, _) => Some(settings.clone()),
            Configured::Directory => None,
        };
        let config = Config { builtin, ..config.clone() };
        let setup = Setup::open(&config, &self.setup().carrier.runner.owner)?;
        setup.directories.answered().await;
        Ok(setup)
    }

    /// See [`crate::Networks::change_over`].
    pub(crate) fn change_over(&self, setup: Arc<Setup>) {
        self.setup.send_replace(setup);
    }

    /// Whether an ADD for a pod of that handler would be served now. Never waits.
    pub(crate) fn status(&self, handler: &str) -> Status {
        match (&self.configured, self.setup().directories.of(handler)) {
            (_, Some(readiness)) => readiness.status(),
            (Configured::Builtin(builtin, _), None) => Status::Ready { network: builtin.name.clone() },
            (Configured::Directory, None) => Status::NotReady { reason: NOTHING.into() },
        }
    }

    /// The networks that a pod of that handler joins, in this order; at least one. Not cancel safe: it may run plugins.
    pub(crate) async fn chosen(&self, handler: &str) -> Result<Vec<Chosen>, Error> {
        let Setup { directories, carrier } = &*self.setup();
        match (&self.configured, directories.of(handler)) {
            (_, Some(readiness)) => {
                let networks = readiness.networks().await?.into_iter();
                Ok(networks.map(|conf| Chosen::chain(conf, carrier)).collect())
            }
            (Configured::Builtin(settings, _), None) => {
                let served = Served::builtin(settings, &self.addresses, carrier, None)?;
                Ok(vec![Chosen { served, via: Via::Builtin(settings.clone()) }])
            }
            (Configured::Directory, None) => Err(Error::NotReady { reason: NOTHING.into() }),
        }
    }

    /// The attachments of a container that are recorded, whatever has become of them, by their interfaces.
    pub(crate) fn recorded(&self, container_id: &str) -> Result<Vec<AttachmentId>, Error> {
        let mut found = self.journal.ids_of(container_id)?;
        found.sort_by(|a, b| (a.ifname.len(), &a.ifname).cmp(&(b.ifname.len(), &b.ifname)));
        Ok(found)
    }

    /// What has come of an attachment, while somebody has it.
    pub(crate) fn attached(&self, id: &AttachmentId) -> Result<Option<Added>, Error> {
        Ok(self.journal.load(id)?.filter(Record::is_attached).map(|record| added(&record)))
    }

    /// See [`crate::Networks::settle`].
    pub(crate) async fn settle(&self) -> Result<(), Error> {
        self.leaving.end_of_all().await;
        let keeping = std::mem::take(&mut *locked(&self.keeping));
        keeping.join_all().await;
        let _alone = self.quiet.node().write().await;
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
            self.setup().carrier.means == Means::Native || matches!(self.configured, Configured::Builtin(..));
        if native || self.ground.is_used() { self.ground.clear().await } else { Vec::new() }
    }

    /// See [`crate::Networks::check`].
    pub(crate) async fn check(&self, attachment: &Attachment) -> Result<(), Error> {
        let id = attachment.id();
        let _lock = self.locks.lock(id.clone()).await;
        self.way.is_free(&id).await;
        let record = self.journal.load(&id)?.filter(Record::is_attached);
        let Some(mut record) = record else {
            let AttachmentId { container_id, ifname } = id;
            return Err(Error::NotAttached { container_id, ifname });
        };
        let _busy = self.quiet.busy(&record.network).await;
        record.attachment.netns = namespace(attachment.netns.as_deref());
        let served = self.served_as(&record)?;
        served.chain(&record.attachment).check(record.result.as_ref()).await
    }

    /// The network of a record.
    fn served_as(&self, record: &Record) -> Result<Served, Error> {
        if let Via::Builtin(settings) = &record.via {
            self.ground.own_former_bridge(&settings.bridge);
        }
        Served::of(record, &self.addresses, &self.setup().carrier)
    }

    /// The networks that are configured now, whether their plugins are there or not; adds what is wrong with one.
    fn loaded(&self, failures: &mut Vec<Error>) -> Vec<Served> {
        let Setup { directories, carrier } = &*self.setup();
        let chain = |conf| Served { conf, carrier: carrier.clone() };
        let mut networks: Vec<Served> = directories.loaded().into_iter().map(chain).collect();
        if let Configured::Builtin(settings, _) = &self.configured {
            match Served::builtin(settings, &self.addresses, carrier, None) {
                Ok(served) => networks.push(served),
                Err(error) => failures.push(error),
            }
        }
        networks
    }

    /// Writes a record, on a thread that may wait for the disk. Not cancel safe: it is written or not.
    async fn store(&self, record: &Record) -> Result<(), Error> {
        let (journal, record) = (self.journal.clone(), record.clone());
        blocking(move || journal.store(&record)).await
    }

    /// Removes a record, in the same way.
    async fn forget(&self, id: AttachmentId) -> Result<(), Error> {
        let journal = self.journal.clone();
        blocking(move || journal.remove(&id)).await
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
