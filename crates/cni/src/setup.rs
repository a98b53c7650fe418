//! What can change while networks are in use: the directories that are watched, and how plugins are carried out.
//!
//! It is exchanged as a whole: whoever has begun with one setup ends with it. Attachments that are there are undone by their
//! records, whatever is set up by then. Not here: the built-in network and the directory of records, which stay as they were opened.

use std::sync::Arc;

use crate::carrier::{Carrier, Means};
use crate::directories::Directories;
use crate::error::Error;
use crate::networks::Config;
use crate::plugin::Runner;

/// One setup.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) directories: Directories,
    /// For networks as they are configured now.
    pub(crate) carrier: Carrier,
}

impl Setup {
    /// Loads the directories and begins to watch. `owner` is what plugins of this node are known by. Has to be called inside a
    /// tokio runtime.
    ///
    /// # Errors
    /// [`Error::Watch`].
    pub(crate) fn open(config: &Config, owner: &str) -> Result<Arc<Setup>, Error> {
        let (bin_dirs, deadline) = (config.bin_dirs.clone(), config.plugin_deadline);
        let runner = Runner { bin_dirs, deadline, owner: owner.to_owned() };
        let carrier = Carrier { runner, means: if config.native { Means::Native } else { Means::Executed } };
        let directories = Directories::open(config, &carrier)?;
        Ok(Arc::new(Setup { directories, carrier }))
    }
}
