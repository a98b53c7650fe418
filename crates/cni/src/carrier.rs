//! How a call of a plugin is carried out: by execution, or in-process on a thread that may block.
//!
//! `loopback` is always served in-process. Of the other types that can be, those of a network are when it is `native`, unless
//! their configuration asks for what only an executable does.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::runtime::Handle;
use tracing::Instrument;
use tracing::field::Empty;

use crate::builtin::{self, Inventory, Ipam, Kind};
use crate::command::Command;
use crate::conf::PluginConf;
use crate::error::Error;
use crate::plugin::Runner;
use crate::request::Request;

/// Whether the standard plugins of a network are served in-process. An attachment is undone by who made it: the two keep
/// links and addresses alike, but not their packet filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Means {
    Executed,
    Native,
}

/// Carries calls out.
#[derive(Debug, Clone)]
pub(crate) struct Carrier {
    pub(crate) runner: Runner,
    pub(crate) means: Means,
}

/// Executes what `bridge`, served in-process, is configured to ask for addresses.
struct Executed {
    runner: Runner,
    runtime: Handle,
}

impl Ipam for Executed {
    fn call(&self, request: &Request) -> Result<Option<Value>, Error> {
        self.runtime.block_on(execute(&self.runner, request))
    }
}

async fn execute(runner: &Runner, request: &Request) -> Result<Option<Value>, Error> {
    match request.command {
        Command::Add => runner.run_for_result(request).await.map(Some),
        Command::Del | Command::Check | Command::Gc | Command::Status => {
            runner.run(request).await.map(|_| None)
        }
    }
}

impl Carrier {
    /// The same for networks of other means.
    pub(crate) fn by(&self, means: Means) -> Carrier {
        Carrier { means, ..self.clone() }
    }

    /// The same with no more time than that for each run of an executable.
    pub(crate) fn within(&self, deadline: Duration) -> Carrier {
        let runner = Runner { deadline: self.runner.deadline.min(deadline), ..self.runner.clone() };
        Carrier { runner, ..self.clone() }
    }

    /// Has a plugin attach.
    ///
    /// Not cancel safe: what a plugin or the kernel is at goes on.
    ///
    /// # Errors
    /// Those of the plugin, or of running it.
    pub(crate) async fn add(&self, request: &Request) -> Result<Value, Error> {
        let answer = self.carry(request).await?;
        Ok(answer.unwrap_or_else(|| serde_json::json!({ "cniVersion": request.version().as_str() })))
    }

    /// Has a plugin do anything else.
    ///
    /// Not cancel safe: what a plugin or the kernel is at goes on.
    ///
    /// # Errors
    /// Those of the plugin, or of running it.
    pub(crate) async fn call(&self, request: &Request) -> Result<(), Error> {
        self.carry(request).await.map(drop)
    }

    async fn carry(&self, request: &Request) -> Result<Option<Value>, Error> {
        // A stage of whatever it is done for. Of the highest level, so that it is there whatever is logged.
        let (plugin, command) = (request.plugin.as_str(), request.command.as_str());
        let span = tracing::error_span!("stage", stage = "cni_plugin", plugin, command, failed = Empty);
        let outcome = self.carry_out(request).instrument(span.clone()).await;
        if outcome.is_err() {
            span.record("failed", true);
        }
        outcome
    }

    async fn carry_out(&self, request: &Request) -> Result<Option<Value>, Error> {
        let Some(kind) = self.served(&request.plugin, request) else {
            return execute(&self.runner, request).await;
        };
        let executed = Executed { runner: self.runner.clone(), runtime: Handle::current() };
        let request = request.clone();
        blocking(move || builtin::run(kind, &request, &executed)).await
    }

    /// The first half of a DEL, for calls that are all served in-process. Returns what failed.
    ///
    /// Not cancel safe: what the kernel is at goes on.
    pub(crate) async fn cut(&self, requests: Vec<Request>) -> Vec<Error> {
        let done = self.for_served(requests, builtin::cut).await;
        done.into_iter().filter_map(Result::err).collect()
    }

    /// Makes again what is missing in the tables, for those of the calls that are served in-process. Returns for each of them
    /// whether there was anything.
    ///
    /// Not cancel safe: what the kernel is at goes on.
    pub(crate) async fn restore(
        &self,
        requests: Vec<Request>,
        inventory: Arc<Inventory>,
    ) -> Vec<Result<bool, Error>> {
        self.for_served(requests, move |kind, request| builtin::restore(kind, request, &inventory)).await
    }

    async fn for_served<T: Send + 'static>(
        &self,
        requests: Vec<Request>,
        work: impl Fn(Kind, &Request) -> Result<T, Error> + Send + 'static,
    ) -> Vec<Result<T, Error>> {
        let served = |request: Request| Some((self.served(&request.plugin, &request)?, request));
        let served: Vec<(Kind, Request)> = requests.into_iter().filter_map(served).collect();
        let done = tokio::task::spawn_blocking(move || {
            served.iter().map(|(kind, request)| work(*kind, request)).collect()
        });
        done.await.unwrap_or_else(|_| vec![Err(Error::CutShort)])
    }

    fn served(&self, plugin: &str, request: &Request) -> Option<Kind> {
        self.kind(plugin).filter(|kind| kind.serves(&request.config).is_ok())
    }

    fn kind(&self, plugin: &str) -> Option<Kind> {
        let native = self.means == Means::Native;
        Kind::of(plugin).filter(|kind| native || *kind == Kind::Loopback)
    }

    /// Whether it is served in-process when another plugin asks it for addresses.
    fn gives_addresses(&self, kind: &str) -> bool {
        self.kind(kind) == Some(Kind::HostLocal)
    }

    /// Whether a plugin is served in-process, and the one that it asks for addresses as well.
    pub(crate) fn serves(&self, plugin: &PluginConf) -> bool {
        self.serves_alone(plugin) && asked_for_addresses(plugin).is_none_or(|kind| self.gives_addresses(kind))
    }

    /// Sees that what has to be executed of a plugin is there.
    ///
    /// # Errors
    /// [`Error::PluginMissing`]; [`Error::Unsupported`] where only an executable, which isn't there, does what is asked for.
    pub(crate) fn find(&self, plugin: &PluginConf) -> Result<(), Error> {
        let executed = if self.serves_alone(plugin) {
            asked_for_addresses(plugin).filter(|kind| !self.gives_addresses(kind))
        } else {
            Some(plugin.kind.as_str())
        };
        let found = executed.map_or(Ok(()), |kind| self.runner.find(kind).map(drop));
        match self.unserved(plugin) {
            Some(field) if found.is_err() => Err(Error::Unsupported { plugin: plugin.kind.clone(), field }),
            _ => found,
        }
    }

    /// The field for which a plugin, which could be served in-process, is executed all the same.
    pub(crate) fn unserved(&self, plugin: &PluginConf) -> Option<String> {
        self.kind(&plugin.kind)?.serves(&plugin.fields).err().map(|unserved| unserved.field)
    }

    /// Whether it is served in-process, whoever gives it addresses.
    pub(crate) fn serves_alone(&self, plugin: &PluginConf) -> bool {
        self.kind(&plugin.kind).is_some() && self.unserved(plugin).is_none()
    }
}

fn asked_for_addresses(plugin: &PluginConf) -> Option<&str> {
    builtin::ipam(&plugin.fields)
}

/// Runs what blocks for as long as the kernel needs.
///
/// Not cancel safe: the work goes on when the future is dropped.
///
/// # Errors
/// Those of the work; [`Error::CutShort`].
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::CutShort))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::Path;

    #[test]
    fn who_gives_addresses_counts_however_it_is_written() {
        let carrier = Carrier { runner: Runner::default(), means: Means::Native };
        let plugin = |fields: Value| {
            let conf = json!({"cniVersion": "1.0.0", "name": "n", "plugins": [fields]});
            crate::conf::parse(Path::new("x"), &conf).unwrap().plugins.remove(0)
        };
        for (fields, served) in [
            (json!({"type": "bridge"}), true),
            (json!({"type": "bridge", "ipam": {"type": "host-local"}}), true),
            (json!({"type": "bridge", "Ipam": {"Type": "host-local"}}), true),
            (json!({"type": "bridge", "ipam": {"type": "dhcp"}}), false),
            (json!({"type": "bridge", "IPAM": {"type": "dhcp"}}), false),
            (json!({"type": "bridge", "ipam": {"TYPE": "dhcp"}}), false),
            // It is asked as an executable, though it is served as a plugin of a chain.
            (json!({"type": "bridge", "ipam": {"type": "portmap"}}), false),
            (json!({"type": "bridge", "macSpoofChk": true}), false),
        ] {
            let plugin = plugin(fields.clone());
            assert_eq!(carrier.serves(&plugin), served, "{fields}");
            assert_eq!(carrier.find(&plugin).is_ok(), served, "{fields}");
        }
    }
}
