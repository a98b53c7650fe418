//! One call of a plugin, however it is carried out: executed by `plugin`, or served in-process by `builtin`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::attachment::{Attachment, AttachmentId};
use crate::command::Command;
use crate::error::Error;
use crate::result::NetworkResult;
use crate::version::Version;

/// Tells plugins written with the reference library to pass over arguments that they don't know.
pub(crate) const IGNORE_UNKNOWN: &str = "IgnoreUnknown";
/// What GC keeps (SPEC.md section 2, "GC").
pub(crate) const VALID_ATTACHMENTS: &str = "cni.dev/valid-attachments";
/// The same by the name that the specification had for it by mistake; libcni says both (containernetworking/cni#1101), and
/// there are plugins that read this one.
pub(crate) const ATTACHMENTS: &str = "cni.dev/attachments";

/// One call of a plugin.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Its type.
    pub(crate) plugin: String,
    /// The verb.
    pub(crate) command: Command,
    /// `CNI_CONTAINERID`; empty for GC and STATUS, as are namespace and interface name.
    pub(crate) container_id: String,
    /// `CNI_NETNS`; `None` when it is gone.
    pub(crate) netns: Option<PathBuf>,
    /// `CNI_IFNAME`.
    pub(crate) ifname: String,
    /// `CNI_ARGS`, in order.
    pub(crate) args: Vec<(String, String)>,
    /// What an executable reads on standard input: `name`, `cniVersion`, `runtimeConfig`, `prevResult` and the plugin's own.
    pub(crate) config: Map<String, Value>,
}

impl Request {
    /// A call that isn't about an attachment (GC, STATUS).
    pub(crate) fn about_network(plugin: &str, command: Command, config: Map<String, Value>) -> Request {
        let (container_id, ifname) = (String::new(), String::new());
        let plugin = plugin.to_owned();
        Request { plugin, command, container_id, netns: None, ifname, args: Vec::new(), config }
    }

    /// A call about an attachment.
    pub(crate) fn about(
        plugin: &str,
        command: Command,
        attachment: &Attachment,
        config: Map<String, Value>,
    ) -> Request {
        let stated = attachment.args.iter().any(|(key, _)| key == IGNORE_UNKNOWN);
        let tolerant = !attachment.args.is_empty() && !stated;
        let first = tolerant.then(|| (IGNORE_UNKNOWN.to_owned(), "1".to_owned()));
        Request {
            container_id: attachment.container_id.clone(),
            netns: attachment.netns.clone(),
            ifname: attachment.ifname.clone(),
            args: first.into_iter().chain(attachment.args.iter().cloned()).collect(),
            ..Request::about_network(plugin, command, config)
        }
    }

    /// The attachment's name.
    pub(crate) fn id(&self) -> AttachmentId {
        AttachmentId { container_id: self.container_id.clone(), ifname: self.ifname.clone() }
    }

    /// The network's name.
    pub(crate) fn network(&self) -> &str {
        self.config.get("name").and_then(Value::as_str).unwrap_or_default()
    }

    /// The version that the result has to be in.
    pub(crate) fn version(&self) -> Version {
        let stated = self.config.get("cniVersion").and_then(Value::as_str);
        stated.and_then(Version::parse).unwrap_or(Version::V0_1_0)
    }

    /// A capability's value, from `runtimeConfig`.
    ///
    /// # Errors
    /// [`Error::PluginConf`] when it isn't of that form.
    pub(crate) fn runtime_config<T: for<'de> Deserialize<'de>>(
        &self,
        name: &str,
    ) -> Result<Option<T>, Error> {
        let value = self.config.get("runtimeConfig").and_then(|config| config.get(name));
        match value.filter(|value| !value.is_null()) {
            None => Ok(None),
            Some(value) => T::deserialize(value)
                .map(Some)
                .map_err(|error| self.invalid(format!("runtimeConfig.{name}: {error}"))),
        }
    }

    /// The result of the plugin before it in the chain, or of the ADD that is to be undone.
    ///
    /// # Errors
    /// [`Error::PluginConf`] when it is no result.
    pub(crate) fn previous(&self) -> Result<Option<NetworkResult>, Error> {
        match self.config.get("prevResult").filter(|value| !value.is_null()) {
            None => Ok(None),
            Some(raw) => NetworkResult::parse(raw, self.version())
                .map(Some)
                .map_err(|error| self.invalid(format!("prevResult: {error}"))),
        }
    }

    /// The namespace, for what can't be done without.
    ///
    /// # Errors
    /// [`Error::PluginEnvironment`].
    pub(crate) fn netns(&self) -> Result<&Path, Error> {
        let missing = || Error::PluginEnvironment { problem: "CNI_NETNS is missing".into() };
        self.netns.as_deref().ok_or_else(missing)
    }

    /// What a GC has to keep.
    ///
    /// # Errors
    /// [`Error::PluginConf`] when the list is missing or malformed: nothing may be removed then.
    pub(crate) fn valid_attachments(&self) -> Result<HashSet<AttachmentId>, Error> {
        match self.config.get(VALID_ATTACHMENTS) {
            None => Err(self.invalid(format!("'{VALID_ATTACHMENTS}' is missing"))),
            Some(list) => HashSet::deserialize(list)
                .map_err(|error| self.invalid(format!("{VALID_ATTACHMENTS}: {error}"))),
        }
    }

    /// Says that the configuration can't be used.
    pub(crate) fn invalid(&self, problem: String) -> Error {
        Error::PluginConf { plugin: self.plugin.clone(), problem }
    }

    /// The variables of an executed plugin beside `CNI_COMMAND` and `CNI_PATH`.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        if self.container_id.is_empty() {
            return Vec::new();
        }
        let netns = self.netns.as_deref().unwrap_or(Path::new(""));
        let mut env = vec![
            ("CNI_CONTAINERID", self.container_id.clone()),
            ("CNI_NETNS", netns.to_string_lossy().into_owned()),
            ("CNI_IFNAME", self.ifname.clone()),
        ];
        if !self.args.is_empty() {
            let args: Vec<String> = self.args.iter().map(|(key, value)| format!("{key}={value}")).collect();
            env.push(("CNI_ARGS", args.join(";")));
        }
        env
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn attachment() -> Attachment {
        Attachment {
            container_id: "c".into(),
            ifname: "eth0".into(),
            args: vec![("K8S_POD_NAMESPACE".into(), "ns".into()), ("K8S_POD_NAME".into(), "p".into())],
            ..Attachment::default()
        }
    }

    #[test]
    fn arguments_keep_their_order_and_ask_for_tolerance() {
        let env = Request::about("p", Command::Add, &attachment(), Map::new()).environment();
        let expected = "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=p".to_owned();
        assert!(env.contains(&("CNI_ARGS", expected)));
        assert!(env.contains(&("CNI_NETNS", String::new())));
        let without = Request::about("p", Command::Add, &attachment(), Map::new());
        assert!(without.netns().unwrap_err().to_string().contains("CNI_NETNS"));
    }

    #[test]
    fn a_collection_without_a_list_keeps_everything() {
        let request = |config: Value| {
            let config = config.as_object().cloned().unwrap_or_default();
            Request::about_network("p", Command::Gc, config).valid_attachments()
        };
        assert!(request(json!({})).is_err());
        let listed = json!({VALID_ATTACHMENTS: [{"containerID": "c", "ifname": "eth0"}]});
        assert_eq!(request(listed).unwrap().len(), 1);
        assert!(request(json!({VALID_ATTACHMENTS: "all"})).is_err());
    }
}
