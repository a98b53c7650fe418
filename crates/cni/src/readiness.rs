//! Which networks a directory configures now, and whether they are usable: kept up to date by events, read without waiting.
//!
//! - What is configured changes with the configuration directory, whether its plugins are there with the plugin
//!   directories: both are watched.
//! - Whether the plugins would serve an ADD (STATUS, since 1.1.0) is nothing that an event tells. It is asked when a
//!   configuration is loaded, and again when somebody wants to know and the last answer is old; who asks gets the last
//!   answer meanwhile.
//! - Where pods join several networks, all have to be usable: a pod gets all or none.
//!
//! Which directory a pod's networks are from is `directories`' affair.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::carrier::Carrier;
use crate::conf::{self, NetworkConf, Wanted};
use crate::error::{Error, chain};
use crate::network;
use crate::watch::Watch;

/// An answer of STATUS is old after this; kubelet asks every five seconds or so.
const STALE: Duration = Duration::from_secs(10);

/// How long a change of configuration waits for the first answer. A plugin that needs longer is asked on, and not ready meanwhile.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// Whether an ADD would be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// A network is configured and what it needs is there.
    Ready {
        /// The network's name; several with commas in between.
        network: String,
    },
    /// No ADD can be served.
    NotReady {
        /// What lacks, for an operator to read.
        reason: String,
    },
}

/// The networks of a directory, watched.
#[derive(Debug)]
pub(crate) struct Readiness {
    shared: Arc<Shared>,
    watcher: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    wanted: Wanted,
    carrier: Carrier,
    runtime: Handle,
    now: Mutex<Now>,
}

#[derive(Debug)]
struct Now {
    /// In the order in which pods join them.
    networks: Vec<Arc<NetworkConf>>,
    /// Why none of them can be used, where that can be told without asking.
    problem: Option<String>,
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
    pub(crate) fn open(dir: PathBuf, wanted: Wanted, carrier: Carrier) -> Result<Readiness, Error> {
        let dirs = std::iter::once(&dir).chain(&carrier.runner.bin_dirs).cloned().collect();
        let watch = Watch::new(dirs)?;
        let status = Status::NotReady { reason: "no network configuration has been loaded yet".into() };
        let now = Mutex::new(Now { networks: Vec::new(), problem: None, status, asked: Asked::Never });
        let shared = Arc::new(Shared { dir, wanted, carrier, runtime: Handle::current(), now });
        shared.load();
        let watcher = tokio::spawn(follow(Arc::clone(&shared), watch));
        Ok(Readiness { shared, watcher })
    }

    /// Whether an ADD would be served. Never waits.
    pub(crate) fn status(&self) -> Status {
        let _nobody_waits = self.shared.refresh();
        self.shared.now().status.clone()
    }

    /// Waits for the plugins' first answer, for so long at most; they are asked to the end in any case.
    pub(crate) async fn answered(&self) {
        if let Some(asking) = self.shared.refresh() {
            let _late = tokio::time::timeout(FIRST_ANSWER, asking).await;
        }
    }

    /// The networks for a new pod, in the order in which it joins them; at least one. Where the plugins' last answer was
    /// that they would not serve it, they are asked again.
    ///
    /// Not cancel safe: a dropped future leaves a plugin running.
    ///
    /// # Errors
    /// [`Error::NotReady`] when none is loaded, or its plugins still say that they wouldn't; [`Error::PluginMissing`].
    pub(crate) async fn networks(&self) -> Result<Vec<Arc<NetworkConf>>, Error> {
        let (networks, were_refused) = {
            let now = self.shared.now();
            let reason = match &now.status {
                Status::NotReady { reason } => Some(reason),
                Status::Ready { .. } => None,
            };
            if let (Some(reason), true) = (reason, now.networks.is_empty()) {
                return Err(Error::NotReady { reason: reason.clone() });
            }
            let was_answered = matches!(now.asked, Asked::At(_)) && now.problem.is_none();
            (now.networks.clone(), reason.is_some() && was_answered)
        };
        // The status may lag behind what is there.
        networks.iter().try_for_each(|conf| network::find_plugins(conf, &self.shared.carrier))?;
        if were_refused {
            let status = self.shared.ask(&networks).await;
            self.shared.record(&networks, &status);
            if let Status::NotReady { reason } = status {
                return Err(Error::NotReady { reason });
            }
        }
        Ok(networks)
    }

    /// The networks that are loaded, whether their plugins are there or not.
    pub(crate) fn loaded(&self) -> Vec<Arc<NetworkConf>> {
        self.shared.now().networks.clone()
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
        let (networks, problem) = match conf::load_dir(&self.dir, &self.wanted) {
            Ok(networks) if networks.is_empty() => {
                (networks, Some(format!("no network configuration in '{}'", self.dir.display())))
            }
            Ok(networks) => {
                let problem = networks.iter().find_map(|conf| {
                    let missing = network::find_plugins(conf, &self.carrier).err()?;
                    Some(format!("network '{}': {missing}", conf.name))
                });
                (networks, problem)
            }
            Err(Error::NotReady { reason }) => (Vec::new(), Some(reason)),
            Err(error) => (Vec::new(), Some(chain(&error))),
        };
        let unchanged = self.publish(networks.into_iter().map(Arc::new).collect(), problem);
        if !unchanged {
            self.announce();
            self.refresh();
        }
    }

    /// Says what an operator who wants plugins served in-process may miss.
    fn announce(&self) {
        for conf in &self.now().networks {
            for plugin in &conf.plugins {
                if let Some(field) = self.carrier.unserved(plugin) {
                    let (network, plugin) = (&conf.name, &plugin.kind);
                    tracing::info!(
                        network,
                        plugin,
                        field,
                        "a plugin is executed, as it isn't served in-process"
                    );
                }
            }
        }
    }

    /// Returns whether all is as it was.
    fn publish(&self, networks: Vec<Arc<NetworkConf>>, problem: Option<String>) -> bool {
        let mut now = self.now();
        let same = now.networks == networks && now.problem == problem;
        let status = match &problem {
            Some(reason) => Status::NotReady { reason: reason.clone() },
            // The last answer of its plugins holds until there is another.
            None if same && matches!(now.asked, Asked::At(_)) => now.status.clone(),
            None if self.has_status(&networks) => {
                let reason = format!("network '{}': waiting for its plugins' STATUS", names(&networks));
                Status::NotReady { reason }
            }
            None => Status::Ready { network: names(&networks) },
        };
        let unchanged = same && now.status == status;
        if !unchanged {
            tracing::info!(directory = %self.dir.display(), ?status, "network status");
            now.asked = Asked::Never;
        }
        (now.networks, now.problem, now.status) = (networks, problem, status);
        unchanged
    }

    /// Asks the plugins in the background, where there is something to ask and it is time: that task then.
    fn refresh(self: &Arc<Self>) -> Option<JoinHandle<()>> {
        let networks = {
            let mut now = self.now();
            if now.problem.is_some() || !self.has_status(&now.networks) {
                return None;
            }
            match now.asked {
                Asked::UnderWay => return None,
                Asked::At(when) if when.elapsed() < STALE => return None,
                Asked::At(_) | Asked::Never => now.asked = Asked::UnderWay,
            }
            now.networks.clone()
        };
        let shared = Arc::clone(self);
        // Its own deadline ends it.
        Some(self.runtime.spawn(async move {
            let status = shared.ask(&networks).await;
            shared.answered(&networks, status);
        }))
    }

    /// Whether any of their plugins can be asked.
    fn has_status(&self, networks: &[Arc<NetworkConf>]) -> bool {
        let can_be_asked = |conf: &Arc<NetworkConf>| {
            conf.plugins.iter().any(|plugin| network::has_status(conf, plugin, &self.carrier))
        };
        networks.iter().any(can_be_asked)
    }

    /// What the plugins of all networks say. Not cancel safe: a dropped future leaves a plugin running.
    async fn ask(&self, networks: &[Arc<NetworkConf>]) -> Status {
        for conf in networks {
            if let Err(error) = network::status(conf, &self.carrier).await {
                return Status::NotReady { reason: format!("network '{}': {}", conf.name, chain(&error)) };
            }
        }
        Status::Ready { network: names(networks) }
    }

    fn answered(self: &Arc<Self>, networks: &[Arc<NetworkConf>], status: Status) {
        if self.record(networks, &status) {
            return;
        }
        // The configuration changed meanwhile: the question is open again.
        self.now().asked = Asked::Never;
        let _nobody_waits = self.refresh();
    }

    /// Publishes an answer, if it is still about what there is.
    fn record(&self, networks: &[Arc<NetworkConf>], status: &Status) -> bool {
        let mut now = self.now();
        if now.networks != networks || now.problem.is_some() {
            return false;
        }
        if now.status != *status {
            tracing::info!(directory = %self.dir.display(), ?status, "network status");
        }
        now.status = status.clone();
        now.asked = Asked::At(Instant::now());
        true
    }
}

fn names(networks: &[Arc<NetworkConf>]) -> String {
    networks.iter().map(|conf| conf.name.as_str()).collect::<Vec<_>>().join(", ")
}
