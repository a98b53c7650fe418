//! A look at what is configured, for people: nothing is opened, watched or run.
//!
//! Not here: whether plugins would serve an ADD (STATUS), which a running daemon asks them.

use std::path::PathBuf;

use crate::carrier::{Carrier, Means};
use crate::conf::{self, NetworkConf, Wanted};
use crate::error::Error;
use crate::network;
use crate::networks::Config;
use crate::plugin::Runner;

/// A directory of configurations, and what is in it.
#[derive(Debug)]
pub struct Surveyed {
    /// The directory.
    pub dir: PathBuf,
    /// The handlers that have it; empty for the node's own.
    pub handlers: Vec<String>,
    /// The networks that pods would join, in their order.
    ///
    /// # Errors
    /// Why they would join none.
    pub networks: Result<Vec<SurveyedNetwork>, Error>,
}

/// A network.
#[derive(Debug)]
pub struct SurveyedNetwork {
    /// Its name.
    pub name: String,
    /// The version of CNI that is spoken with its plugins.
    pub version: &'static str,
    /// The types of its plugins, in the order of ADD.
    pub plugins: Vec<String>,
    /// The first plugin that isn't there or can't be executed, where one is.
    pub missing: Option<Error>,
}

/// Looks at every directory that pods get networks from. Reads files: blocks.
pub fn survey(config: &Config) -> Vec<Surveyed> {
    let (bin_dirs, deadline) = (config.bin_dirs.clone(), config.plugin_deadline);
    let runner = Runner { bin_dirs, deadline, owner: String::new() };
    let carrier = Carrier { runner, means: if config.native { Means::Native } else { Means::Executed } };
    let count = config.selection.count.max(1);
    let mut surveyed = Vec::new();
    if config.builtin.is_none() {
        let wanted = Wanted { first: config.selection.default.clone(), count };
        surveyed.push(look(config.conf_dir.clone(), &wanted, &carrier));
    }
    for (handler, dir) in config.selection.handlers.iter().filter(|(handler, _)| !handler.is_empty()) {
        let own = look(dir.clone(), &Wanted { first: None, count }, &carrier);
        surveyed.push(Surveyed { handlers: vec![handler.clone()], ..own });
    }
    surveyed
}

fn look(dir: PathBuf, wanted: &Wanted, carrier: &Carrier) -> Surveyed {
    let networks = conf::load_dir(&dir, wanted);
    let networks = networks.map(|found| found.iter().map(|conf| network(conf, carrier)).collect());
    Surveyed { dir, handlers: Vec::new(), networks }
}

fn network(conf: &NetworkConf, carrier: &Carrier) -> SurveyedNetwork {
    SurveyedNetwork {
        name: conf.name.clone(),
        version: conf.version.as_str(),
        plugins: conf.plugins.iter().map(|plugin| plugin.kind.clone()).collect(),
        missing: network::find_plugins(conf, carrier).err(),
    }
}
