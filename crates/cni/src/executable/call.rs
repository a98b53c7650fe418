//! A call as its environment and its input describe it.

use std::io::Read;
use std::path::PathBuf;

use serde::de::Error as _;
use serde_json::{Map, Value};

use crate::attachment::is_identifier;
use crate::command::Command;
use crate::error::Error;
use crate::request::Request;
use crate::version::Version;

/// More than any configuration.
const INPUT_LIMIT: u64 = 16 << 20;

/// A call, read and checked.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) request: Request,
    /// Where other plugins are looked for, `CNI_PATH`.
    pub(super) path: String,
}

/// The verbs beside VERSION, with the first version of the specification that has them.
const VERBS: [(Command, Version); 5] = [
    (Command::Add, Version::V0_1_0),
    (Command::Del, Version::V0_1_0),
    (Command::Check, Version::V0_4_0),
    (Command::Gc, Version::V1_1_0),
    (Command::Status, Version::V1_1_0),
];

impl Call {
    /// Reads it. The version of the configuration is told as soon as it is known.
    ///
    /// # Errors
    /// [`Error::PluginEnvironment`], [`Error::InvalidAttachment`], [`Error::PluginRun`] for the input,
    /// [`Error::ParseConf`], [`Error::PluginConf`], [`Error::PluginVersion`].
    pub(super) fn read(
        plugin: &str,
        environment: &dyn Fn(&str) -> Option<String>,
        input: &mut dyn Read,
        version: &mut String,
    ) -> Result<Call, Error> {
        let (command, since) = verb(environment)?;
        require(command, environment)?;
        let config = read_config(plugin, command, input)?;
        let mut request = Request::about_network(plugin, command, config);
        if let Some(stated) = request.config.get("cniVersion").and_then(Value::as_str) {
            *version = stated.to_owned();
        }
        check_config(&request, since)?;
        let get = |name: &str| environment(name).unwrap_or_default();
        if is_about_attachment(command) {
            request.container_id = get("CNI_CONTAINERID");
            request.ifname = get("CNI_IFNAME");
            request.netns = Some(get("CNI_NETNS")).filter(|path| !path.is_empty()).map(PathBuf::from);
            request.args = arguments(&get("CNI_ARGS"))?;
            request.id().check()?;
        }
        Ok(Call { request, path: get("CNI_PATH") })
    }
}

fn refused(problem: String) -> Error {
    Error::PluginEnvironment { problem }
}

fn verb(environment: &dyn Fn(&str) -> Option<String>) -> Result<(Command, Version), Error> {
    let Some(name) = environment("CNI_COMMAND") else { return Err(refused("CNI_COMMAND is missing".into())) };
    let known = VERBS.into_iter().find(|(command, _)| command.as_str() == name);
    known.ok_or_else(|| refused(format!("CNI_COMMAND '{name}' isn't known")))
}

fn is_about_attachment(command: Command) -> bool {
    matches!(command, Command::Add | Command::Del | Command::Check)
}

fn require(command: Command, environment: &dyn Fn(&str) -> Option<String>) -> Result<(), Error> {
    let mut needed = vec!["CNI_PATH"];
    if is_about_attachment(command) {
        needed.extend(["CNI_CONTAINERID", "CNI_IFNAME"]);
    }
    if matches!(command, Command::Add | Command::Check) {
        needed.push("CNI_NETNS");
    }
    let is_missing = |name: &&str| environment(name).is_none_or(|value| value.is_empty());
    let missing: Vec<&str> = needed.into_iter().filter(is_missing).collect();
    if missing.is_empty() { Ok(()) } else { Err(refused(format!("{} missing", missing.join(", ")))) }
}

fn read_config(plugin: &str, command: Command, input: &mut dyn Read) -> Result<Map<String, Value>, Error> {
    let mut text = Vec::new();
    let read = input.take(INPUT_LIMIT).read_to_end(&mut text);
    read.map_err(|source| Error::PluginRun { plugin: plugin.to_owned(), command, source })?;
    serde_json::from_slice::<Map<String, Value>>(&text)
        .map_err(|source| Error::ParseConf { path: "standard input".into(), source })
}

fn check_config(request: &Request, since: Version) -> Result<(), Error> {
    match request.config.get("name") {
        Some(Value::String(name)) if is_identifier(name) => {}
        Some(name) => return Err(request.invalid(format!("'name' {name} isn't a network name"))),
        None => return Err(request.invalid("'name' is missing".into())),
    }
    let unusable = |version: &str, problem| Error::PluginVersion { version: version.to_owned(), problem };
    match request.config.get("cniVersion") {
        None | Some(Value::Null) => {}
        Some(Value::String(text)) if text.is_empty() || Version::parse(text).is_some() => {}
        Some(Value::String(text)) => return Err(unusable(text, "isn't supported".into())),
        Some(other) => {
            let source = serde_json::Error::custom(format!("'cniVersion' {other} isn't a string"));
            return Err(Error::ParseConf { path: "standard input".into(), source });
        }
    }
    if request.version() < since {
        let problem = format!("has no {}", request.command);
        return Err(unusable(request.version().as_str(), problem));
    }
    Ok(())
}

/// `KEY=value` pairs parted by semicolons.
fn arguments(text: &str) -> Result<Vec<(String, String)>, Error> {
    let pair = |pair: &str| match pair.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.contains('=') => {
            Ok((key.to_owned(), value.to_owned()))
        }
        _ => Err(refused(format!("'{pair}' in CNI_ARGS is no pair"))),
    };
    text.split(';').filter(|_| !text.is_empty()).map(pair).collect()
}
