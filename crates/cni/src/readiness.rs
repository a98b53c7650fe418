//! Which network is configured now, and whether it is usable: kept up to date by events, read without waiting.
//!
//! - What is configured changes with the configuration directory, whether its plugins are there with the plugin
//!   directories: both are watched.
//! - Whether the plugins would serve an ADD (STATUS, since 1.1.0) is nothing that an event tells. It is asked when a
//!   configuration is loaded, and again when somebody wants to know and the last answer is old; who asks gets the last
//!   answer meanwhile.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::carrier::Carrier;
use crate::conf::{self, NetworkConf};
use crate::error::{Error, chain};
use crate::network;
use crate::networks::Config;
use crate::watch::Watch;

/// An answer of STATUS is old after this; kubelet asks every five seconds or so.
const STALE: Duration = Duration::from_secs(10);

/// Whether an ADD would be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// A network is configured and what it needs is there.
    Ready {
        /// The network's name.
        network: String,
    },
    /// No ADD can be served.
    NotReady {
        /// What lacks, for an operator to read.
        reason: String,
    },
}

/// The configured network, watched.
#[derive(Debug)]
pub(crate) struct Readiness {
    shared: Arc<Shared>,
    watcher: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    carrier: Carrier,
    runtime: Handle,
    now: Mutex<Now>,
}

#[derive(Debug)]
struct Now {
    conf: Option<Arc<NetworkConf>>,
    status: Status,
    asked: Asked,
}

/// The question of STATUS.
#[derive(Debug, Clone, Copy)]
enum Asked {
    Never,
    UnderWay,
    At(Instant),
}

impl Readiness {
    /// Loads what is configured and watches it. Has to be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Watch`].
    pub(crate) fn open(config: Config, carrier: Carrier) -> Result<Readiness, Error> {
        let dirs = std::iter::once(&config.conf_dir).chain(&config.bin_dirs).cloned().collect();
        let watch = Watch::new(dirs)?;
        let status = Status::NotReady { reason: "no network configuration has been loaded yet".into() };
        let now = Mutex::new(Now { conf: None, status, asked: Asked::Never });
        let shared = Arc::new(Shared { config, carrier, runtime: Handle::current(), now });
        shared.load();
        let watcher = tokio::spawn(follow(Arc::clone(&shared), watch));
        Ok(Readiness { shared, watcher })
    }

    /// Whether an ADD would be served. Never waits.
    pub(crate) fn status(&self) -> Status {
        self.shared.refresh();
        self.shared.now().status.clone()
    }

    /// The network for a new attachment.
    ///
    /// # Errors
    /// [`Error::NotReady`] when none is loaded, [`Error::PluginMissing`].
    pub(crate) fn network(&self) -> Result<Arc<NetworkConf>, Error> {
        let conf = {
            let now = self.shared.now();
            match (&now.conf, &now.status) {
                (Some(conf), _) => Arc::clone(conf),
                (None, Status::NotReady { reason }) => {
                    return Err(Error::NotReady { reason: reason.clone() });
                }
                (None, Status::Ready { network }) => return Err(Error::NotReady { reason: network.clone() }),
            }
        };
        // STATUS may lag behind; the plugins themselves say no better than their last answer does.
        network::find_plugins(&conf, &self.shared.carrier)?;
        Ok(conf)
    }

    /// The network that is loaded, whether its plugins are there or not.
    pub(crate) fn loaded(&self) -> Option<Arc<NetworkConf>> {
        self.shared.now().conf.clone()
    }
}

impl Drop for Readiness {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

async fn follow(shared: Arc<Shared>, mut watch: Watch) {
    loop {
        if let Err(error) = watch.changed().await {
            tracing::error!(error = chain(&error), "network configurations aren't watched any more");
            return;
        }
        let loading = Arc::clone(&shared);
        // Reading files blocks, and the directory may be on a slow disk.
        let _ = tokio::task::spawn_blocking(move || loading.load()).await;
    }
}

impl Shared {
    fn now(&self) -> std::sync::MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the directories and publishes what is there.
    fn load(self: &Arc<Self>) {
        let dir = &self.config.conf_dir;
        let (conf, problem) = match conf::load_dir(dir) {
            Ok(Some((_, conf))) => {
                let problem = network::find_plugins(&conf, &self.carrier).err();
                let problem = problem.map(|error| format!("network '{}': {error}", conf.name));
                (Some(Arc::new(conf)), problem)
            }
            Ok(None) => (None, Some(format!("no network configuration in '{}'", dir.display()))),
            Err(error) => (None, Some(chain(&error))),
        };
        let unchanged = self.publish(conf, problem);
        if !unchanged {
            self.refresh();
        }
    }

    /// Returns whether all is as it was.
    fn publish(&self, conf: Option<Arc<NetworkConf>>, problem: Option<String>) -> bool {
        let mut now = self.now();
        let same_conf = now.conf == conf;
        let status = match (&conf, problem) {
            (_, Some(reason)) => Status::NotReady { reason },
            // The last answer of its plugins holds until there is another.
            (Some(_), None) if same_conf && matches!(now.asked, Asked::At(_)) => now.status.clone(),
            (Some(conf), None) if conf.version.has_gc_and_status() => Status::NotReady {
                reason: format!("network '{}': waiting for its plugins' STATUS", conf.name),
            },
            (Some(conf), None) => Status::Ready { network: conf.name.clone() },
            (None, None) => Status::NotReady { reason: String::new() },
        };
        let unchanged = same_conf && now.status == status;
        if !unchanged {
            tracing::info!(?status, "network status");
            now.asked = Asked::Never;
        }
        (now.conf, now.status) = (conf, status);
        unchanged
    }

    /// Asks the plugins in the background, where there is something to ask and it is time.
    fn refresh(self: &Arc<Self>) {
        let conf = {
            let mut now = self.now();
            let Some(conf) = now.conf.clone().filter(|conf| conf.version.has_gc_and_status()) else { return };
            match now.asked {
                Asked::UnderWay => return,
                Asked::At(when) if when.elapsed() < STALE => return,
                Asked::At(_) | Asked::Never => now.asked = Asked::UnderWay,
            }
            conf
        };
        let shared = Arc::clone(self);
        // Its own deadline ends it; nobody waits for it.
        self.runtime.spawn(async move {
            let outcome = network::status(&conf, &shared.carrier).await;
            shared.answered(&conf, outcome);
        });
    }

    fn answered(self: &Arc<Self>, conf: &Arc<NetworkConf>, outcome: Result<(), Error>) {
        {
            let mut now = self.now();
            if now.conf.as_ref() == Some(conf) && matches!(now.asked, Asked::UnderWay) {
                now.status = match outcome {
                    Ok(()) => Status::Ready { network: conf.name.clone() },
                    Err(error) => {
                        Status::NotReady { reason: format!("network '{}': {}", conf.name, chain(&error)) }
                    }
                };
                now.asked = Asked::At(Instant::now());
                return;
            }
            // The configuration changed meanwhile: the question is open again.
            now.asked = Asked::Never;
        }
        self.refresh();
    }
}
