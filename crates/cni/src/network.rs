//! A network as a chain of plugins: which of them is asked for what, in which order, with which configuration.
//!
//! ADD and CHECK run the chain forwards, DEL backwards; the first failure ends an ADD, while a DEL goes on to the end and
//! returns all that failed (SPEC.md section 3). Recording attachments and undoing a failed ADD is `attachments`' affair,
//! whether a plugin is executed or served in-process `carrier`'s.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::attachment::{Attachment, AttachmentId};
use crate::builtin::{self, Inventory};
use crate::capabilities::runtime_config;
use crate::carrier::Carrier;
use crate::command::Command;
use crate::conf::{NetworkConf, PluginConf};
use crate::error::Error;
use crate::plugin::garbage;
use crate::request::{ATTACHMENTS, Request, VALID_ATTACHMENTS};
use crate::result::NetworkResult;
use crate::version::Version;

/// A pod's namespace is born with its loopback interface up: there is nothing to do but for ADD, which says so.
const LOOPBACK: &str = "loopback";

/// How long a run of an executed plugin may take for GC, where others have no less: nobody comes or goes in the network meanwhile.
const COLLECTION: Duration = Duration::from_secs(10);

/// A chain at work on one attachment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chain<'a> {
    pub(crate) conf: &'a NetworkConf,
    pub(crate) carrier: &'a Carrier,
    pub(crate) attachment: &'a Attachment,
}

impl Chain<'_> {
    /// Attaches. The result is the last plugin's, as it printed it.
    ///
    /// Not cancel safe: a dropped future leaves a plugin running.
    ///
    /// # Errors
    /// Of the first plugin that fails. What the ones before it did stays to be undone by [`Chain::del`].
    pub(crate) async fn add(&self) -> Result<Value, Error> {
        let mut previous = None;
        for plugin in &self.conf.plugins {
            // Others than it needn't hand a result on; it has none of its own then.
            if plugin.kind == LOOPBACK && previous.is_some() {
                continue;
            }
            previous = Some(self.add_one(plugin, previous).await?);
        }
        Ok(previous.unwrap_or_else(|| json!({ "cniVersion": self.conf.version.as_str() })))
    }

    async fn add_one(&self, plugin: &PluginConf, previous: Option<Value>) -> Result<Value, Error> {
        let request = self.request(plugin, Command::Add, previous.as_ref());
        let raw = self.carrier.add(&request).await?;
        let result = NetworkResult::parse(&raw, self.conf.version)
            .map_err(|source| garbage(&request, raw.to_string().as_bytes(), source))?;
        // The next plugin is configured to read the chain's version, whatever this one prints.
        let stated = raw.get("cniVersion").and_then(Value::as_str);
        Ok(if stated == Some(self.conf.version.as_str()) {
            raw
        } else {
            result.to_version(self.conf.version)
        })
    }

    /// Detaches, from the result that ADD had if it had one. Returns what failed.
    ///
    /// Not cancel safe: a dropped future leaves a plugin running.
    pub(crate) async fn del(&self, result: Option<&Value>) -> Vec<Error> {
        let mut failures = Vec::new();
        for request in self.backwards(result) {
            failures.extend(self.carrier.call(&request).await.err());
        }
        failures
    }

    /// The rest of a DEL, once [`Chain::cut`] has succeeded. Who doesn't know that it has runs [`Chain::del`]. Returns what failed.
    ///
    /// Not cancel safe: what the kernel is at goes on.
    pub(crate) async fn del_after_cut(&self, result: Option<&Value>) -> Vec<Error> {
        let mut failures = Vec::new();
        for request in self.backwards(result).filter(|request| !builtin::ends_with_cut(&request.plugin)) {
            failures.extend(self.carrier.call(&request).await.err());
        }
        failures
    }

    /// Cuts off, without removing anything; for chains that are served in-process throughout. Returns what failed.
    ///
    /// Not cancel safe: what the kernel is at goes on.
    pub(crate) async fn cut(&self, result: Option<&Value>) -> Vec<Error> {
        self.carrier.cut(self.backwards(result).collect()).await
    }

    /// The calls of a DEL.
    fn backwards(&self, result: Option<&Value>) -> impl Iterator<Item = Request> {
        let result = result.filter(|_| self.conf.version.has_check());
        let plugins = self.conf.plugins.iter().rev().filter(|plugin| plugin.kind != LOOPBACK);
        plugins.map(move |plugin| self.request(plugin, Command::Del, result))
    }

    /// Checks. Networks that can't be checked, by version or by their own wish, are fine.
    ///
    /// Not cancel safe: a dropped future leaves a plugin running.
    ///
    /// # Errors
    /// Of the first plugin that finds something wrong.
    pub(crate) async fn check(&self, result: Option<&Value>) -> Result<(), Error> {
        if self.conf.disable_check || !self.conf.version.has_check() {
            return Ok(());
        }
        for plugin in self.conf.plugins.iter().filter(|plugin| plugin.kind != LOOPBACK) {
            self.carrier.call(&self.request(plugin, Command::Check, result)).await?;
        }
        Ok(())
    }

    /// Makes again what somebody took away from the tables of the plugins that are served in-process. Returns for each of them
    /// whether anything was missing.
    ///
    /// Not cancel safe: what the kernel is at goes on.
    pub(crate) async fn restore(
        &self,
        result: &Value,
        inventory: Arc<Inventory>,
    ) -> Vec<Result<bool, Error>> {
        let requests =
            self.conf.plugins.iter().map(|plugin| self.request(plugin, Command::Add, Some(result)));
        self.carrier.restore(requests.collect(), inventory).await
    }

    fn request(&self, plugin: &PluginConf, command: Command, previous: Option<&Value>) -> Request {
        let mut config = base(self.conf, plugin);
        if let Some(details) = runtime_config(&plugin.capabilities, self.attachment) {
            config.insert("runtimeConfig".into(), details);
        }
        if let Some(previous) = previous {
            config.insert("prevResult".into(), previous.clone());
        }
        Request::about(&plugin.kind, command, self.attachment, config)
    }
}

/// Sees that every plugin of the chain is there.
///
/// # Errors
/// [`Error::PluginMissing`] for the first that isn't.
pub(crate) fn find_plugins(conf: &NetworkConf, carrier: &Carrier) -> Result<(), Error> {
    conf.plugins.iter().try_for_each(|plugin| carrier.find(plugin))
}

/// Has every plugin remove what belongs to no valid attachment; versions before 1.1.0 have no word for it.
///
/// Not cancel safe: a dropped future leaves a plugin running.
pub(crate) async fn gc(conf: &NetworkConf, carrier: &Carrier, valid: &[AttachmentId]) -> Vec<Error> {
    if conf.disable_gc || !conf.version.has_gc_and_status() {
        return Vec::new();
    }
    let carrier = carrier.within(COLLECTION);
    let mut failures = Vec::new();
    for plugin in conf.plugins.iter().filter(|plugin| plugin.kind != LOOPBACK) {
        let mut config = base(conf, plugin);
        config.insert(VALID_ATTACHMENTS.into(), json!(valid));
        config.insert(ATTACHMENTS.into(), json!(valid));
        match carrier.call(&Request::about_network(&plugin.kind, Command::Gc, config)).await {
            Err(error) if !error.lacks_verb() => failures.push(error),
            _ => {}
        }
    }
    failures
}

/// Whether a plugin can be asked if it would serve an ADD: versions before 1.1.0 have no word for it, but what is served
/// in-process throughout needs none.
pub(crate) fn has_status(conf: &NetworkConf, plugin: &PluginConf, carrier: &Carrier) -> bool {
    plugin.kind != LOOPBACK && (conf.version.has_gc_and_status() || carrier.serves(plugin))
}

/// Asks every plugin that can be asked whether it would serve an ADD.
///
/// Not cancel safe: a dropped future leaves a plugin running.
///
/// # Errors
/// Of the first plugin that wouldn't.
pub(crate) async fn status(conf: &NetworkConf, carrier: &Carrier) -> Result<(), Error> {
    for plugin in conf.plugins.iter().filter(|plugin| has_status(conf, plugin, carrier)) {
        let config = base(conf, plugin);
        match carrier.call(&Request::about_network(&plugin.kind, Command::Status, config)).await {
            Err(error) if !error.lacks_verb() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn base(conf: &NetworkConf, plugin: &PluginConf) -> Map<String, Value> {
    let mut config = plugin.fields.clone();
    config.insert("name".into(), conf.name.clone().into());
    config.insert("cniVersion".into(), conf.version.as_str().into());
    config
}

/// The result of an ADD in the form that callers get. It has been parsed once before, when it was printed.
pub(crate) fn normalised(raw: &Value, version: Version) -> NetworkResult {
    NetworkResult::parse(raw, version).unwrap_or_default()
}
