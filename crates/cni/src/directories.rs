//! The directories that networks are configured in: the node's, and those of runtime handlers.
//!
//! Each is watched and judged by itself (`readiness`). A directory decides for pods that are to be made; those that are
//! there are known by their records, whatever becomes of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::carrier::Carrier;
use crate::conf::{NetworkConf, Wanted};
use crate::error::Error;
use crate::networks::Config;
use crate::readiness::Readiness;

/// All directories, watched.
#[derive(Debug)]
pub(crate) struct Directories {
    /// None where the built-in network serves instead.
    main: Option<Arc<Readiness>>,
    by_handler: BTreeMap<String, Arc<Readiness>>,
}

impl Directories {
    /// Loads and watches them. Has to be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Watch`].
    pub(crate) fn open(config: &Config, carrier: &Carrier) -> Result<Directories, Error> {
        let selection = &config.selection;
        let count = selection.count.max(1);
        let open = |dir: &PathBuf, first: Option<String>| {
            Readiness::open(dir.clone(), Wanted { first, count }, carrier.clone()).map(Arc::new)
        };
        let main = match config.builtin {
            Some(_) => None,
            None => Some(open(&config.conf_dir, selection.default.clone())?),
        };
        let mut by_dir: BTreeMap<&PathBuf, Arc<Readiness>> = BTreeMap::new();
        let mut by_handler = BTreeMap::new();
        for (handler, dir) in &selection.handlers {
            let readiness = match by_dir.get(dir) {
                Some(readiness) => Arc::clone(readiness),
                None => open(dir, None)?,
            };
            by_dir.insert(dir, Arc::clone(&readiness));
            by_handler.insert(handler.clone(), readiness);
        }
        Ok(Directories { main, by_handler })
    }

    /// The directory for pods of a handler; the node's where it has none of its own. None where that is the built-in
    /// network.
    pub(crate) fn of(&self, handler: &str) -> Option<&Arc<Readiness>> {
        self.by_handler.get(handler).or(self.main.as_ref())
    }

    /// Waits until the plugins of all have been asked for the first time, or have had their time.
    pub(crate) async fn answered(&self) {
        let all: Vec<_> = self.main.iter().chain(self.by_handler.values()).cloned().collect();
        let mut asking = JoinSet::new();
        for readiness in all {
            asking.spawn(async move { readiness.answered().await });
        }
        asking.join_all().await;
    }

    /// All networks that are loaded, whether their plugins are there or not; one that several directories have alike is
    /// there once.
    pub(crate) fn loaded(&self) -> Vec<Arc<NetworkConf>> {
        let mut networks: Vec<Arc<NetworkConf>> = Vec::new();
        for readiness in self.main.iter().chain(self.by_handler.values()) {
            for conf in readiness.loaded() {
                if !networks.contains(&conf) {
                    networks.push(conf);
                }
            }
        }
        networks
    }
}
