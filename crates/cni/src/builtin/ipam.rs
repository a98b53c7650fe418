//! Whom a plugin asks for addresses: `host-local` in-process, any other by execution (SPEC.md section 4).

use serde_json::Value;

use super::host_local;
use crate::command::Command;
use crate::error::Error;
use crate::request::Request;
use crate::result::NetworkResult;

/// Executes plugins that aren't served in-process.
pub(crate) trait Ipam {
    /// Has the request carried out; ADD returns what was printed.
    ///
    /// # Errors
    /// What the plugin answers.
    fn call(&self, request: &Request) -> Result<Option<Value>, Error>;
}

/// Who gives addresses to a plugin's interfaces, and what it is asked with: the plugin's own configuration.
pub(super) struct Delegate<'a> {
    pub(super) kind: &'a str,
    pub(super) request: &'a Request,
    pub(super) executed: &'a dyn Ipam,
}

impl Delegate<'_> {
    /// Asks for addresses.
    ///
    /// # Errors
    /// Those of the plugin; [`Error::PluginConf`] for an answer that is no result.
    pub(super) fn add(&self) -> Result<NetworkResult, Error> {
        match self.call(Command::Add)? {
            Some(result) => Ok(result),
            None => Err(self.request.invalid(format!("'{}' gave no result", self.kind))),
        }
    }

    /// Asks for anything else. A verb that the plugin doesn't know is fine.
    ///
    /// # Errors
    /// Those of the plugin.
    pub(super) fn ask(&self, command: Command) -> Result<(), Error> {
        match self.call(command) {
            Err(error) if error.lacks_verb() && matches!(command, Command::Gc | Command::Status) => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    fn call(&self, command: Command) -> Result<Option<NetworkResult>, Error> {
        let request = Request { plugin: self.kind.to_owned(), command, ..self.request.clone() };
        if self.kind == "host-local" {
            return host_local::run(&request);
        }
        match self.executed.call(&request)? {
            Some(raw) if command == Command::Add => NetworkResult::parse(&raw, request.version())
                .map(Some)
                .map_err(|error| self.request.invalid(format!("result of '{}': {error}", self.kind))),
            _ => Ok(None),
        }
    }
}
