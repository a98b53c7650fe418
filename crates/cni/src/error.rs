//! Everything that can go wrong with a network, for a caller to act upon or to show. One enum for the crate, and so a long file.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use crate::command::Command;

/// An operation on a network that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No network can be used now; the reason names what lacks. Retrying later can succeed.
    #[error("network is not ready: {reason}")]
    NotReady {
        /// What lacks.
        reason: String,
    },
    /// A field of the request can't be used.
    #[error("invalid {field} '{value}'")]
    InvalidAttachment {
        /// The field.
        field: &'static str,
        /// What it holds.
        value: String,
    },
    /// The attachment exists already, in another form or by another request.
    #[error("interface '{ifname}' of '{container_id}' is attached already")]
    AlreadyAttached {
        /// The container.
        container_id: String,
        /// The interface.
        ifname: String,
    },
    /// No attachment of that name is known.
    #[error("interface '{ifname}' of '{container_id}' isn't attached")]
    NotAttached {
        /// The container.
        container_id: String,
        /// The interface.
        ifname: String,
    },

    /// A configuration file or directory can't be read.
    #[error("read network configuration '{}'", path.display())]
    ReadConf {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A configuration file isn't the JSON it should be.
    #[error("parse network configuration '{}'", path.display())]
    ParseConf {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A configuration file is JSON but no network configuration.
    #[error("network configuration '{}': {problem}", path.display())]
    InvalidConf {
        /// The file.
        path: PathBuf,
        /// What is wrong with which field.
        problem: String,
    },
    /// A directory of configurations or of plugins can't be watched.
    #[error("watch '{}' for network configurations and plugins", path.display())]
    Watch {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The built-in network's settings can't be used.
    #[error("built-in network: invalid {field} '{value}'")]
    InvalidBuiltin {
        /// The setting.
        field: &'static str,
        /// Its value.
        value: String,
    },
    /// Another daemon's built-in network has the bridge, or has pods on it that outlived the daemon.
    #[error("the bridge '{bridge}' is another daemon's, whose records are in '{}': two daemons need two", owner.display())]
    BridgeTaken {
        /// Its name.
        bridge: String,
        /// Where its records are.
        owner: PathBuf,
    },

    /// The configuration of a plugin that is served in-process can't be used.
    #[error("configuration of CNI plugin '{plugin}': {problem}")]
    PluginConf {
        /// Its type.
        plugin: String,
        /// What is wrong with which field.
        problem: String,
    },
    /// A configuration asks for what the plugin, served in-process, doesn't do.
    #[error("CNI plugin '{plugin}': '{field}' isn't supported")]
    Unsupported {
        /// Its type.
        plugin: String,
        /// The field, with its value where that matters.
        field: String,
    },
    /// A variable of a plugin's environment is missing or can't be used.
    #[error("environment of a CNI plugin: {problem}")]
    PluginEnvironment {
        /// What is wrong with which variable.
        problem: String,
    },
    /// A configuration is of a version that isn't understood, or has no such verb.
    #[error("CNI version '{version}' {problem}")]
    PluginVersion {
        /// The version.
        version: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The namespace to be attached is the one that the attaching is done from.
    #[error("'{}' is the network namespace of the host itself", path.display())]
    OwnNamespace {
        /// Its path.
        path: PathBuf,
    },
    /// Something isn't as it was made.
    #[error("{subject} '{name}' {problem}")]
    Unlike {
        /// What kind of thing.
        subject: &'static str,
        /// Which.
        name: String,
        /// What is different.
        problem: String,
    },

    /// A plugin's binary is in none of the plugin directories.
    #[error("CNI plugin '{plugin}' isn't in {}", list(searched))]
    PluginMissing {
        /// Its type.
        plugin: String,
        /// Where it was looked for.
        searched: Vec<PathBuf>,
    },
    /// A plugin couldn't be started or talked to.
    #[error("run CNI plugin '{plugin}' for {command}")]
    PluginRun {
        /// Its type.
        plugin: String,
        /// What for.
        command: Command,
        /// Why.
        source: io::Error,
    },
    /// A plugin answered with an error object.
    #[error("CNI plugin '{plugin}' failed {command}: {msg} (code {code}){}", suffix(details))]
    PluginFailed {
        /// Its type.
        plugin: String,
        /// What it was asked for.
        command: Command,
        /// The error code (SPEC.md, "Error"): below 100 the specification's own, others the plugin's.
        code: u64,
        /// The short message.
        msg: String,
        /// The longer one; may be empty.
        details: String,
    },
    /// A plugin ended unsuccessfully without an error object.
    #[error("CNI plugin '{plugin}' crashed in {command} ({status}){}", suffix(stderr))]
    PluginCrashed {
        /// Its type.
        plugin: String,
        /// What it was asked for.
        command: Command,
        /// How it ended.
        status: ExitStatus,
        /// What it printed on standard error, shortened.
        stderr: String,
    },
    /// A plugin succeeded but printed no result.
    #[error("CNI plugin '{plugin}' answered {command} with no valid result: '{excerpt}'")]
    PluginGarbage {
        /// Its type.
        plugin: String,
        /// What it was asked for.
        command: Command,
        /// The beginning of what it printed.
        excerpt: String,
        /// Where it departs from a result.
        source: serde_json::Error,
    },
    /// A plugin printed more than is read, and was killed.
    #[error("CNI plugin '{plugin}' printed more than {limit} bytes in {command}")]
    PluginOutput {
        /// Its type.
        plugin: String,
        /// What it was asked for.
        command: Command,
        /// The limit, in bytes.
        limit: usize,
    },
    /// A plugin didn't end in time, and was killed with its process group.
    #[error("CNI plugin '{plugin}' didn't finish {command} within {deadline:?}")]
    PluginTimedOut {
        /// Its type.
        plugin: String,
        /// What it was asked for.
        command: Command,
        /// How long it had.
        deadline: Duration,
    },

    /// An attachment failed, and undoing what had been done of it failed as well.
    #[error("{}; undoing it left something behind: {}", chain(failure.as_ref()), chains(undo))]
    Undo {
        /// The failure itself.
        failure: Box<Error>,
        /// What couldn't be undone; it is tried again by the next detach or collection.
        undo: Vec<Error>,
    },
    /// Some of the steps of a teardown failed; the others were done, and the rest is tried again by the next one.
    #[error("detach interface '{ifname}' of '{container_id}': {}", chains(failures))]
    Detach {
        /// The container.
        container_id: String,
        /// The interface.
        ifname: String,
        /// What failed.
        failures: Vec<Error>,
    },
    /// Some of the steps of a collection failed; the others were done.
    #[error("collect networks: {}", chains(failures))]
    Collect {
        /// What failed.
        failures: Vec<Error>,
    },

    /// A record of ours can't be read or written.
    #[error("{action} network record '{}'", path.display())]
    Record {
        /// `read`, `write`, `remove` …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A record of ours isn't what it should be.
    #[error("parse network record '{}'", path.display())]
    ParseRecord {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A namespace can't be opened or entered, or isn't one.
    #[error("open network namespace '{}'", path.display())]
    Namespace {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused a change of links, addresses, routes or rules.
    #[error("{action} '{subject}'")]
    Kernel {
        /// What was attempted.
        action: &'static str,
        /// On which thing.
        subject: String,
        /// Why.
        source: io::Error,
    },
    /// Every address of a subnet is taken.
    #[error("no address left in '{subnet}' of network '{network}'")]
    AddressesExhausted {
        /// The network.
        network: String,
        /// The subnet.
        subnet: String,
    },
    /// An address asked for can't be had.
    #[error("address '{address}' of network '{network}' isn't available")]
    AddressUnavailable {
        /// The network.
        network: String,
        /// The address.
        address: IpAddr,
    },
    /// The attachment has an address already, where it gets one.
    #[error(
        "address '{address}' of network '{network}' is the attachment's already: it can't have another of that range"
    )]
    AddressHeld {
        /// The network.
        network: String,
        /// The address.
        address: IpAddr,
    },
    /// A port mapping that nothing could do as asked.
    #[error("host port {mapping} {problem}")]
    PortMapping {
        /// Which: host port and protocol.
        mapping: String,
        /// Why it can't be.
        problem: &'static str,
    },
    /// A host port asked for leads to another namespace already.
    #[error("host port {port}/{protocol} is taken")]
    HostPortTaken {
        /// The port.
        port: u16,
        /// The protocol's name.
        protocol: &'static str,
        /// Whose it is, as the tables name it: `<network>/<container>/<interface>`.
        owner: String,
    },
    /// A task of ours ended early, as the process is shutting down.
    #[error("network operation was cut short")]
    CutShort,
}

impl Error {
    /// Whether a plugin says that it is older than the verb: by code 4, invalid environment variables (SPEC.md section 5).
    pub(crate) fn lacks_verb(&self) -> bool {
        matches!(self, Error::PluginFailed { code: 4, .. })
    }

    /// The code that a plugin tells its caller (SPEC.md section 5, "Error"); 999 where the specification has none, as the
    /// reference plugins do.
    #[must_use]
    pub fn code(&self) -> u64 {
        match self {
            Error::PluginVersion { .. } => 1,
            Error::Unsupported { .. } => 2,
            Error::NotAttached { .. } => 3,
            Error::InvalidAttachment { .. } | Error::PluginEnvironment { .. } => 4,
            Error::ReadConf { .. } | Error::Record { .. } | Error::PluginRun { .. } => 5,
            Error::ParseConf { .. } | Error::ParseRecord { .. } | Error::PluginGarbage { .. } => 6,
            Error::InvalidConf { .. }
            | Error::PluginConf { .. }
            | Error::PortMapping { .. }
            | Error::InvalidBuiltin { .. } => 7,
            // Not in the specification's table, but in the reference library's.
            Error::OwnNamespace { .. } => 8,
            Error::PluginTimedOut { .. } => 11,
            Error::NotReady { .. } => 50,
            Error::PluginFailed { code, .. } => *code,
            Error::Undo { failure, .. } => failure.code(),
            Error::AlreadyAttached { .. }
            | Error::Watch { .. }
            | Error::BridgeTaken { .. }
            | Error::Unlike { .. }
            | Error::PluginMissing { .. }
            | Error::PluginCrashed { .. }
            | Error::PluginOutput { .. }
            | Error::Detach { .. }
            | Error::Collect { .. }
            | Error::Namespace { .. }
            | Error::Kernel { .. }
            | Error::AddressesExhausted { .. }
            | Error::AddressUnavailable { .. }
            | Error::AddressHeld { .. }
            | Error::HostPortTaken { .. }
            | Error::CutShort => 999,
        }
    }
}

/// An error with all of its causes, outside in.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

fn chains(errors: &[Error]) -> String {
    errors.iter().map(|error| chain(error)).collect::<Vec<_>>().join("; ")
}

fn suffix(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

fn list(paths: &[PathBuf]) -> String {
    if paths.is_empty() {
        return "any directory, as none is configured".to_owned();
    }
    paths.iter().map(|path| format!("'{}'", path.display())).collect::<Vec<_>>().join(" or ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_reads_as_one_sentence() {
        let cause = Error::Record {
            action: "write",
            path: "/x".into(),
            source: io::Error::new(io::ErrorKind::StorageFull, "no space"),
        };
        let error = Error::Detach { container_id: "c".into(), ifname: "eth0".into(), failures: vec![cause] };
        assert_eq!(chain(&error), "detach interface 'eth0' of 'c': write network record '/x': no space");
    }

    #[test]
    fn a_missing_plugin_says_where_it_was_looked_for() {
        let error = Error::PluginMissing { plugin: "p".into(), searched: vec!["/a".into(), "/b".into()] };
        assert_eq!(error.to_string(), "CNI plugin 'p' isn't in '/a' or '/b'");
    }
}
