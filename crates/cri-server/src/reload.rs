//! Another configuration while the daemon runs: SIGHUP and `knarr config reload`.
//!
//! All of it is read and checked first (`config`), then it is found out what is different and what of that can be applied (`plan`,
//! pure), then every part readies itself, and only then do all of them change over, which can't fail any more. A configuration that is wrong,
//! or a part that can't have it, changes nothing.
//! Not here: the table that says which key is whose (`config::keys`).

mod plan;
mod tell;

use std::sync::Arc;

use thiserror::Error;
use tokio::signal::unix::Signal;
use tokio::sync::{Mutex, watch};

use self::plan::Plan;
use crate::config::keys::Part;
use crate::config::{Config, ConfigError, Faults, Sources};
use crate::logging::Level;
use crate::parts;

/// Takes other configurations over. Clones are handles to the same.
#[derive(Clone)]
pub(crate) struct Reloader(Arc<Inner>);

struct Inner {
    sources: Sources,
    running: watch::Sender<Arc<Config>>,
    parts: Parts,
    /// One at a time.
    alone: Mutex<()>,
}

/// The parts of the daemon that take another configuration.
pub(crate) struct Parts {
    pub(crate) pods: sandbox::Pods,
    pub(crate) networks: cni::Networks,
    pub(crate) images: image_service::Images,
    pub(crate) level: Level,
}

/// What came of a reload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reloaded {
    /// The keys whose new values are in effect.
    pub(crate) applied: Vec<&'static str>,
    /// The keys whose new values wait for a restart, and why.
    pub(crate) waiting: Vec<(&'static str, &'static str)>,
}

/// Why nothing was changed.
#[derive(Debug, Error)]
pub(crate) enum ReloadError {
    /// It can't be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What can be applied at once doesn't go with what waits for a restart.
    #[error("what can be changed now does not go with what needs a restart: restart the daemon")]
    Mixed(#[source] Faults),
    /// A directory of networks can't be watched.
    #[error("opening the pod network")]
    Networks(#[from] cni::Error),
    /// The image service.
    #[error("changing the image service")]
    Images(#[from] image_service::Error),
    /// The daemon is ending, or has no thread for it.
    #[error("reading the configuration")]
    CutShort(#[from] tokio::task::JoinError),
}

/// What is ready to change over.
struct Ready {
    pods: Option<sandbox::PreparedSettings>,
    networks: Option<cni::Prepared>,
}

impl Reloader {
    /// For a daemon that runs by what `running` holds.
    pub(crate) fn new(sources: Sources, running: watch::Sender<Arc<Config>>, parts: Parts) -> Self {
        Self(Arc::new(Inner { sources, running, parts, alone: Mutex::default() }))
    }

    /// What the daemon runs by.
    pub(crate) fn running(&self) -> Arc<Config> {
        Arc::clone(&self.0.running.borrow())
    }

    /// Reads the configuration again and takes over what can be. The log and systemd are told what came of it.
    ///
    /// Safe to cancel: it goes on to the end.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub(crate) async fn reload(&self) -> Result<Reloaded, ReloadError> {
        let inner = Arc::clone(&self.0);
        tokio::spawn(async move {
            let _alone = inner.alone.lock().await;
            tell::begun();
            let outcome = inner.reload().await;
            tell::done(&outcome);
            outcome
        })
        .await?
    }

    /// Reloads at every signal.
    pub(crate) async fn at(self, mut hangups: Signal) -> std::convert::Infallible {
        while hangups.recv().await.is_some() {
            // Told by itself.
            let _outcome = self.reload().await;
        }
        std::future::pending().await
    }
}

impl Inner {
    async fn reload(&self) -> Result<Reloaded, ReloadError> {
        let sources = self.sources.clone();
        let wanted = tokio::task::spawn_blocking(move || sources.load()).await??.config;
        let running = Arc::clone(&self.running.borrow());
        let plan = Plan::new(&running, &wanted)?;
        let ready = self.prepare(&plan).await?;
        self.change_over(plan, ready).await
    }

    /// Everything that can fail, or takes time.
    async fn prepare(&self, plan: &Plan) -> Result<Ready, ReloadError> {
        let networks = match plan.parts.contains(&Part::Networks) {
            true => Some(
                self.parts.networks.prepare(&parts::network(&plan.config).map_err(ReloadError::Mixed)?)?,
            ),
            false => None,
        };
        let pods = match plan.parts.contains(&Part::Pods) {
            true => {
                let settings = parts::pod_settings(&plan.config).map_err(ReloadError::Mixed)?;
                Some(sandbox::Pods::prepare(settings).await)
            }
            false => None,
        };
        Ok(Ready { pods, networks })
    }

    /// The images first: for want of a thread they are the only ones that could still fail.
    async fn change_over(&self, plan: Plan, ready: Ready) -> Result<Reloaded, ReloadError> {
        if plan.parts.contains(&Part::Images) {
            self.parts.images.change_over(parts::images(&plan.config)).await?;
        }
        // Before the pods: a new handler's directory is there when the first pod asks for it.
        if let Some(networks) = ready.networks {
            self.parts.networks.change_over(networks);
        }
        if let Some(pods) = ready.pods {
            self.parts.pods.change_over(pods);
        }
        if plan.parts.contains(&Part::Log) {
            self.parts.level.set(plan.config.log_level);
        }
        self.running.send_replace(Arc::new(plan.config));
        Ok(plan.outcome)
    }
}
