//! The handle that callers hold, and what they configure.
//!
//! How an attachment goes from its intent to its end is `attachments`' affair.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::attachment::{Attachment, AttachmentId};
use crate::attachments::Attachments;
use crate::builtin_network::BuiltinNetwork;
use crate::error::Error;
use crate::readiness::Status;
use crate::result::NetworkResult;

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
    /// Whether the standard plugins of networks in `conf_dir` (`bridge`, `host-local`, `portmap`) are served in-process rather
    /// than executed, as far as their configuration asks for nothing else. Those of the built-in network always are.
    pub native: bool,
    /// How long one run of a plugin may take; it is killed then.
    pub plugin_deadline: Duration,
}

impl Config {
    /// The default of [`Config::plugin_deadline`]: a plugin that hangs in ADD, and hangs again in the DEL that undoes it,
    /// is reported before kubelet gives up after two minutes (`--runtime-request-timeout`).
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
    attachments: Arc<Attachments>,
}

impl Networks {
    /// Opens the directories, loads what is there and begins to watch. Has to be called inside a tokio runtime.
    ///
    /// That nothing usable is configured (yet) is no error, but a [`Status`].
    ///
    /// # Errors
    /// [`Error::Record`] for the state directory, [`Error::Watch`], [`Error::InvalidBuiltin`], [`Error::BridgeTaken`].
    pub fn open(config: Config) -> Result<Networks, Error> {
        Ok(Networks { attachments: Arc::new(Attachments::open(config)?) })
    }

    /// Whether an ADD would be served now. Never waits.
    #[must_use]
    pub fn status(&self) -> Status {
        self.attachments.status()
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
        let (attachments, attachment) = (Arc::clone(&self.attachments), attachment.clone());
        finish(async move { attachments.add(&attachment).await }).await
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
    /// hindrance. What another call is at work on is left to it. Cancel safe, as `add` is.
    ///
    /// # Errors
    /// [`Error::Collect`] with all that failed; the next call tries again.
    pub async fn gc<F>(&self, valid: F) -> Result<(), Error>
    where
        F: Fn() -> HashSet<AttachmentId> + Send + Sync + 'static,
    {
        let attachments = Arc::clone(&self.attachments);
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
    tokio::spawn(work).await.unwrap_or(Err(Error::CutShort))
}
