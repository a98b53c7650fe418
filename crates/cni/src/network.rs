//! A network as a chain of plugins: which of them is asked for what, in which order, with which configuration.
//!
//! ADD and CHECK run the chain forwards, DEL backwards; the first failure ends an ADD, while a DEL goes on to the end and
//! returns all that failed (SPEC.md section 3). Recording attachments and undoing a failed ADD is `networks`' affair.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::attachment::{Attachment, AttachmentId};
use crate::builtin;
use crate::capabilities::runtime_config;
use crate::conf::{NetworkConf, PluginConf};
use crate::error::{Command, Error};
use crate::plugin::{Call, Runner, garbage};
use crate::result::NetworkResult;
use crate::version::Version;

/// Served in-process: a pod's namespace is born with its loopback interface up, so that there is nothing to run.
const LOOPBACK: &str = "loopback";

/// A chain at work on one attachment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chain<'a> {
    pub(crate) conf: &'a NetworkConf,
    pub(crate) runner: &'a Runner,
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
            previous = Some(self.add_one(plugin, previous).await?);
        }
        Ok(previous.unwrap_or_else(|| json!({ "cniVersion": self.conf.version.as_str() })))
    }

    async fn add_one(&self, plugin: &PluginConf, previous: Option<Value>) -> Result<Value, Error> {
        if plugin.kind == LOOPBACK {
            return match previous {
                Some(previous) => Ok(previous),
                None => self.loopback(),
            };
        }
        let call = self.call(plugin, Command::Add, previous.as_ref());
        let raw = self.runner.run_for_result(&call).await?;
        let result = NetworkResult::parse(&raw, self.conf.version)
            .map_err(|source| garbage(&call, raw.to_string().as_bytes(), source))?;
        // The next plugin is configured to read the chain's version, whatever this one prints.
        let stated = raw.get("cniVersion").and_then(Value::as_str);
        Ok(if stated == Some(self.conf.version.as_str()) {
            raw
        } else {
            result.to_version(self.conf.version)
        })
    }

    fn loopback(&self) -> Result<Value, Error> {
        let netns = self.attachment.netns.as_deref().unwrap_or(Path::new(""));
        builtin::loopback(netns).map(|result| result.to_version(self.conf.version))
    }

    /// Detaches, from the result that ADD had if it had one. Returns what failed.
    ///
    /// Not cancel safe: a dropped future leaves a plugin running.
    pub(crate) async fn del(&self, result: Option<&Value>) -> Vec<Error> {
        let result = result.filter(|_| self.conf.version.has_check());
        let mut failures = Vec::new();
        for plugin in self.conf.plugins.iter().rev().filter(|plugin| plugin.kind != LOOPBACK) {
            let call = self.call(plugin, Command::Del, result);
            if let Err(error) = self.runner.run(&call).await {
                failures.push(error);
            }
        }
        failures
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
            self.runner.run(&self.call(plugin, Command::Check, result)).await?;
        }
        Ok(())
    }

    fn call<'p>(&self, plugin: &'p PluginConf, command: Command, previous: Option<&Value>) -> Call<'p> {
        let mut config = base(self.conf, plugin);
        if let Some(details) = runtime_config(&plugin.capabilities, self.attachment) {
            config.insert("runtimeConfig".into(), details);
        }
        if let Some(previous) = previous {
            config.insert("prevResult".into(), previous.clone());
        }
        Call { plugin: &plugin.kind, command, env: environment(self.attachment), config: config.into() }
    }
}

/// Sees that every plugin of the chain is there.
///
/// # Errors
/// [`Error::PluginMissing`] for the first that isn't.
pub(crate) fn find_plugins(conf: &NetworkConf, runner: &Runner) -> Result<(), Error> {
    let executed = conf.plugins.iter().filter(|plugin| plugin.kind != LOOPBACK);
    executed.map(|plugin| runner.find(&plugin.kind)).try_for_each(|found| found.map(drop))
}

/// Has every plugin remove what belongs to no valid attachment; versions before 1.1.0 have no word for it.
///
/// Not cancel safe: a dropped future leaves a plugin running.
pub(crate) async fn gc(conf: &NetworkConf, runner: &Runner, valid: &[AttachmentId]) -> Vec<Error> {
    if conf.disable_gc || !conf.version.has_gc_and_status() {
        return Vec::new();
    }
    let mut failures = Vec::new();
    for plugin in conf.plugins.iter().filter(|plugin| plugin.kind != LOOPBACK) {
        let mut config = base(conf, plugin);
        config.insert("cni.dev/valid-attachments".into(), json!(valid));
        let call =
            Call { plugin: &plugin.kind, command: Command::Gc, env: Vec::new(), config: config.into() };
        match runner.run(&call).await {
            Err(error) if !lacks_verb(&error) => failures.push(error),
            _ => {}
        }
    }
    failures
}

/// Asks every plugin whether it would serve an ADD; versions before 1.1.0 have no word for it.
///
/// Not cancel safe: a dropped future leaves a plugin running.
///
/// # Errors
/// Of the first plugin that wouldn't.
pub(crate) async fn status(conf: &NetworkConf, runner: &Runner) -> Result<(), Error> {
    if !conf.version.has_gc_and_status() {
        return Ok(());
    }
    for plugin in conf.plugins.iter().filter(|plugin| plugin.kind != LOOPBACK) {
        let config = Value::Object(base(conf, plugin));
        let call = Call { plugin: &plugin.kind, command: Command::Status, env: Vec::new(), config };
        match runner.run(&call).await {
            Err(error) if !lacks_verb(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// A plugin older than the verb answers with code 4, invalid environment variables (SPEC.md section 5).
fn lacks_verb(error: &Error) -> bool {
    matches!(error, Error::PluginFailed { code: 4, .. })
}

fn base(conf: &NetworkConf, plugin: &PluginConf) -> Map<String, Value> {
    let mut config = plugin.fields.clone();
    config.insert("name".into(), conf.name.clone().into());
    config.insert("cniVersion".into(), conf.version.as_str().into());
    config
}

fn environment(attachment: &Attachment) -> Vec<(&'static str, String)> {
    let netns = attachment.netns.as_deref().unwrap_or(Path::new(""));
    let mut env = vec![
        ("CNI_CONTAINERID", attachment.container_id.clone()),
        ("CNI_NETNS", netns.to_string_lossy().into_owned()),
        ("CNI_IFNAME", attachment.ifname.clone()),
    ];
    if !attachment.args.is_empty() {
        // Plugins written with the reference library refuse arguments that they don't know, unless they are told so.
        let tolerant = "IgnoreUnknown";
        let stated = attachment.args.iter().any(|(key, _)| key == tolerant);
        let first = (!stated).then(|| format!("{tolerant}=1"));
        let given = attachment.args.iter().map(|(key, value)| format!("{key}={value}"));
        env.push(("CNI_ARGS", first.into_iter().chain(given).collect::<Vec<_>>().join(";")));
    }
    env
}

/// The result of an ADD in the form that callers get. It has been parsed once before, when it was printed.
pub(crate) fn normalised(raw: &Value, version: Version) -> NetworkResult {
    NetworkResult::parse(raw, version).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_keep_their_order_and_ask_for_tolerance() {
        let attachment = Attachment {
            container_id: "c".into(),
            ifname: "eth0".into(),
            args: vec![("K8S_POD_NAMESPACE".into(), "ns".into()), ("K8S_POD_NAME".into(), "p".into())],
            ..Attachment::default()
        };
        let env = environment(&attachment);
        let expected = "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=p".to_owned();
        assert!(env.contains(&("CNI_ARGS", expected)));
        assert!(env.contains(&("CNI_NETNS", String::new())));
    }
}
