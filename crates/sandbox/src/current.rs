//! What the node's pods are made by at the moment: the settings that can change, and what their external runtimes can do.
//!
//! It is exchanged as a whole, so that nobody sees a handler of one configuration with the answer of another's runtime. Not here:
//! pods that are there, which keep the handler that they were made with (their records).

use std::sync::Arc;

use crate::config::{Features, Settings};
use crate::external::Runtimes;
use crate::handler::Handler;

/// One state of it.
#[derive(Debug)]
pub(crate) struct Current {
    pub(crate) settings: Settings,
    /// What external runtimes can do.
    pub(crate) runtimes: Runtimes,
}

impl Current {
    /// Asks the external runtimes that are named. Safe to cancel.
    pub(crate) async fn of(settings: Settings) -> Arc<Self> {
        let runtimes = Runtimes::ask(&settings.handlers).await;
        Arc::new(Self { settings, runtimes })
    }

    /// What pods with this name of a handler can have, where the internal runtime can do `own`.
    ///
    /// # Errors
    /// Why they can't be made.
    pub(crate) fn features(&self, handler: &str, own: Features) -> Result<Features, String> {
        let name = self.settings.handlers.resolve(handler);
        self.runtimes.last(name).unwrap_or(Ok(own))
    }

    /// What a pod can have that was made with a handler, whatever is configured under its name now.
    pub(crate) fn features_of(&self, handler: &Handler, own: Features) -> Features {
        let Some(wanted) = &handler.external else { return own };
        let mut equal = self.settings.handlers.external().filter(|(_, runtime)| *runtime == wanted);
        let said = equal.find_map(|(name, _)| self.runtimes.last(name)?.ok());
        // One that nobody has asked, or that doesn't answer: what no runtime needs to be asked about.
        said.unwrap_or(Features::NONE)
    }
}
