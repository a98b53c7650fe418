//! The handle that callers hold, and what they configure.
//!
//! How an attachment goes from its intent to its end is `attachments`' affair; the several interfaces of one container are
//! `interfaces`'.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tracing::Instrument;

use crate::attachment::{Attachment, AttachmentId};
use crate::attachments::{self, Attachments, IsValid};
use crate::builtin_network::BuiltinNetwork;
use crate::error::Error;
use crate::interfaces::Interfaces;
use crate::readiness::Status;
use crate::result::NetworkResult;
use crate::setup::Setup;

/// Where things are, and how long a plugin may take.
#[derive(Debug, Clone)]
pub struct Config {
    /// The directory of network configurations, `/etc/cni/net.d` by custom. The first file by name decides, as far as
    /// [`Config::selection`] says nothing else.
    pub conf_dir: PathBuf,
    /// The directories that plugin binaries are looked for in, in this order.
    pub bin_dirs: Vec<PathBuf>,
    /// Where attachments are recorded; has to survive a reboot, since plugins' own records do.
    pub state_dir: PathBuf,
    /// The built-in network, used instead of `conf_dir` when given.
    pub builtin: Option<BuiltinNetwork>,
    /// Whether the standard plugins of networks in `conf_dir` (`bridge`, `host-local`, `portmap`) are served in-process rather
    /// than executed, as far as their configuration asks for nothing else. Those of the built-in network always are.
    pub native: bool,
    /// How long one run of a plugin may take; it is killed then.
    pub plugin_deadline: Duration,
    /// Which networks are joined.
    pub selection: Selection,
}

/// Which of the networks that are configured a container joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The network of [`Config::conf_dir`] that goes first, by the name in its file; other files are not looked at for it.
    /// `None` for the first file by name.
    pub default: Option<String>,
    /// How many networks a container joins, as far as there are so many in its directory: the first as `eth0`, the next
    /// as `eth1`. None is left out because it is broken. At least one.
    pub count: usize,
    /// Directories of configurations that are used instead, for containers of these handlers.
    pub handlers: BTreeMap<String, PathBuf>,
}

impl Default for Selection {
    fn default() -> Self {
        Selection { default: None, count: 1, handlers: BTreeMap::new() }
    }
}

impl Config {
    /// The default of [`Config::plugin_deadline`]: a plugin that hangs in ADD, and hangs again in the DEL that undoes it,
    /// is reported before kubelet gives up after two minutes (`--runtime-request-timeout`).
    pub const PLUGIN_DEADLINE: Duration = Duration::from_secs(50);
}

/// The outcome of [`Networks::add`], and of [`Networks::join`] for each network.
#[derive(Debug, Clone)]
pub struct Added {
    /// The interface inside the namespace.
    pub ifname: String,
    /// The network's name.
    pub network: String,
    /// The addresses inside the namespace, in the network's order; the first is the primary one.
    pub ips: Vec<IpAddr>,
    /// The whole result, in the form of 1.1.0.
    pub result: NetworkResult,
}

/// Another configuration that is ready to be used: [`Networks::change_over`]. Dropped, it was never there.
#[derive(Debug)]
pub struct Prepared(Arc<Setup>);

/// The networks of this node; clones are handles to the same.
#[derive(Debug, Clone)]
pub struct Networks {
    attachments: Arc<Attachments>,
    interfaces: Arc<Interfaces>,
    /// Looks whether the tables are still there; aborted with the last handle.
    _watching: Arc<JoinSet<()>>,
}

impl Networks {
    /// Opens the directories, loads what is there and begins to watch. Has to be called inside a tokio runtime.
    ///
    /// That nothing usable is configured (yet) is no error, but a [`Status`]. Where plugins of a killed daemon are still at work, what
    /// they would be in the way of waits for their end, some seconds at most, and nothing else does.
    ///
    /// # Errors
    /// [`Error::Record`] for the state directory, [`Error::Watch`], [`Error::InvalidBuiltin`], [`Error::BridgeTaken`].
    pub fn open(config: Config) -> Result<Networks, Error> {
        let attachments = Arc::new(Attachments::open(config)?);
        let interfaces = Arc::new(Interfaces::new(Arc::clone(&attachments)));
        let mut watching = JoinSet::new();
        watching.spawn(attachments::watch_tables(Arc::downgrade(&attachments), attachments.laid()));
        Ok(Networks { attachments, interfaces, _watching: Arc::new(watching) })
    }

    /// Readies another configuration without using it yet: its directories are loaded and watched from now on, and their plugins have been
    /// asked whether they would serve an ADD (STATUS), for some seconds at most: what is ready goes on being it. [`Config::state_dir`]
    /// and [`Config::builtin`] stay as they were opened, whatever they are in it. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Watch`].
    pub async fn prepare(&self, config: &Config) -> Result<Prepared, Error> {
        self.attachments.prepare(config).await.map(Prepared)
    }

    /// Uses it for whatever begins from now on. What is under way ends as it was begun.
    pub fn change_over(&self, prepared: Prepared) {
        self.attachments.change_over(prepared.0);
    }

    /// Whether an ADD would be served now. Never waits.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status_for("")
    }

    /// The same for containers of a handler: its directory's ([`Selection::handlers`]), or the node's where it has none.
    #[must_use]
    pub fn status_for(&self, handler: &str) -> Status {
        self.attachments.status(handler)
    }

    /// Attaches a network namespace to all networks that containers of the handler join, in their order: the first is
    /// `eth0`, the next `eth1` ([`Selection::count`]). All or none: what had been done is undone when one fails.
    ///
    /// Host ports, and addresses and hardware addresses that are asked for, are the first interface's. The interface's name
    /// in the attachment is of no consequence.
    ///
    /// Cancel safe, as [`Networks::add`] is; a later [`Networks::leave`] waits for it.
    ///
    /// # Errors
    /// Those of [`Networks::add`], of the first network that fails.
    pub async fn join(&self, handler: &str, attachment: &Attachment) -> Result<Vec<Added>, Error> {
        Attachment { ifname: "eth0".into(), ..attachment.clone() }.check()?;
        let (interfaces, attachment) = (Arc::clone(&self.interfaces), attachment.clone());
        let handler = handler.to_owned();
        finish(async move { interfaces.join(&handler, &attachment).await }).await
    }

    /// Detaches every interface of the attachment's container, the last first, from what was recorded: what is configured
    /// by now has no say. Otherwise as [`Networks::del`].
    ///
    /// Cancel safe, as [`Networks::add`] is.
    ///
    /// # Errors
    /// [`Error::Detach`] with all that failed; calling again tries again.
    pub async fn leave(&self, attachment: &Attachment) -> Result<(), Error> {
        let (interfaces, attachment) = (Arc::clone(&self.interfaces), attachment.clone());
        finish(async move { interfaces.leave(&attachment).await }).await
    }

    /// [`Networks::check`] for every interface of the attachment's container.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// Those of [`Networks::check`], of the first interface with which something is wrong.
    pub async fn check_all(&self, attachment: &Attachment) -> Result<(), Error> {
        let (interfaces, attachment) = (Arc::clone(&self.interfaces), attachment.clone());
        finish(async move { interfaces.check(&attachment).await }).await
    }

    /// What a container has now, `eth0` first. Reads small files.
    ///
    /// # Errors
    /// [`Error::Record`].
    pub fn interfaces(&self, container_id: &str) -> Result<Vec<Added>, Error> {
        self.interfaces.of(container_id)
    }

    /// Attaches a network namespace to the first network under the interface's name in the attachment.
    ///
    /// Where no address is left, or not the one that is asked for, those are waited for, for seconds, whose `del` has returned but
    /// whose interface is being removed still: the next has what `del` has freed.
    ///
    /// Cancel safe: the work goes on to its end when the future is dropped; a later `del` waits for it.
    ///
    /// # Errors
    /// [`Error::NotReady`], [`Error::InvalidAttachment`], [`Error::AlreadyAttached`], and whatever the plugins or the
    /// kernel refuse. What had been done is undone then; [`Error::Undo`] when that failed too.
    pub async fn add(&self, attachment: &Attachment) -> Result<Added, Error> {
        attachment.check()?;
        let (attachments, attachment) = (Arc::clone(&self.attachments), attachment.clone());
        finish(async move {
            let chosen = attachments.chosen("").await?.into_iter().next();
            let chosen = chosen.ok_or_else(|| Error::NotReady { reason: String::new() })?;
            attachments.add(&attachment, chosen).await
        })
        .await
    }

    /// Detaches, from what was recorded by `add`; the namespace may be gone. Succeeds for what isn't attached.
    ///
    /// Every step is tried though another fails. A plugin whose binary is gone blocks nobody: its part is put off to the
    /// collections that follow. Where all plugins are served in-process it returns when nothing reaches the namespace any
    /// more; deleting the interface takes the kernel longer, and is done behind ([`Networks::settle`]). Cancel safe, as `add` is.
    ///
    /// # Errors
    /// [`Error::Detach`] with all that failed; calling again tries again.
    pub async fn del(&self, attachment: &Attachment) -> Result<(), Error> {
        attachment.id().check()?;
        let (attachments, attachment) = (Arc::clone(&self.attachments), attachment.clone());
        finish(async move { attachments.del(&attachment).await }).await
    }

    /// Sees whether an attachment is still as `add` left it.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`Error::NotAttached`], or what a plugin or the kernel finds wrong.
    pub async fn check(&self, attachment: &Attachment) -> Result<(), Error> {
        attachment.id().check()?;
        let (attachments, attachment) = (Arc::clone(&self.attachments), attachment.clone());
        finish(async move { attachments.check(&attachment).await }).await
    }

    /// Detaches everything that isn't valid, and has the plugins do the same with what they keep (GC).
    ///
    /// `valid` is asked once the records are listed, and again before the plugins are, so that what is attached meanwhile is not
    /// taken for a leftover. It has to name every attachment whose `add` has begun; one that has been detached since is no
    /// hindrance. What another call is at work on is left to it, and a network in which it is to the next collection. A plugin that is
    /// executed has ten seconds at most, in which nobody else comes or goes in its network. Cancel safe, as `add` is.
    ///
    /// # Errors
    /// [`Error::Collect`] with all that failed; the next call tries again.
    pub async fn gc<F>(&self, valid: F) -> Result<(), Error>
    where
        F: Fn() -> HashSet<AttachmentId> + Send + Sync + 'static,
    {
        let attachments = Arc::clone(&self.attachments);
        let valid = move || {
            let valid = valid();
            Box::new(move |id: &AttachmentId| valid.contains(id)) as IsValid
        };
        finish(async move { attachments.gc(&valid).await }).await
    }

    /// The same by containers: every interface of a container that is valid is.
    ///
    /// # Errors
    /// Those of [`Networks::gc`].
    pub async fn gc_containers<F>(&self, valid: F) -> Result<(), Error>
    where
        F: Fn() -> HashSet<String> + Send + Sync + 'static,
    {
        let attachments = Arc::clone(&self.attachments);
        let valid = move || {
            let valid = valid();
            Box::new(move |id: &AttachmentId| valid.contains(&id.container_id)) as IsValid
        };
        finish(async move { attachments.gc(&valid).await }).await
    }

    /// Waits until nothing is being done behind, and has tables and built-in bridge that nobody is attached to taken away
    /// now rather than a while later. For the end of a process; what isn't waited for is left to the next one's `gc`.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`Error::Collect`] with what couldn't be taken away.
    pub async fn settle(&self) -> Result<(), Error> {
        self.attachments.settle().await
    }
}

/// Runs the work as a task of its own, which ends by its own deadlines whether its caller still waits or not.
async fn finish<T, F>(work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Error>> + Send + 'static,
{
    // Of the caller's request all the same.
    tokio::spawn(work.in_current_span()).await.unwrap_or(Err(Error::CutShort))
}
