//! Network configurations: read from a directory, checked, and kept field by field as they were written.
//!
//! Which files count: the first by name of those ending in `.conflist`, `.conf` or `.json`, or the first so many ([`Wanted`]).
//! If one of those is broken no other takes its place: a half-written file must not put pods into another network.
//!
//! How a configuration reaches a plugin is `network`'s affair; watching the directory is `watch`'s.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::attachment::is_identifier;
use crate::builtin::field;
use crate::error::{Error, chain};
use crate::plugin::is_name;
use crate::version::Version;

/// More than any configuration; what is larger isn't read.
const FILE_LIMIT: u64 = 1 << 20;

/// A network: a chain of plugins (SPEC.md section 1). A single configuration is a chain of one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NetworkConf {
    /// The network's name.
    pub(crate) name: String,
    /// The version spoken with its plugins.
    pub(crate) version: Version,
    /// Whether CHECK must not be called.
    pub(crate) disable_check: bool,
    /// Whether GC must not be called.
    pub(crate) disable_gc: bool,
    /// The plugins, in the order of ADD.
    pub(crate) plugins: Vec<PluginConf>,
}

/// One plugin's part of a configuration.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PluginConf {
    /// The plugin's type: the name of its binary.
    pub(crate) kind: String,
    /// The capabilities that it declares as supported.
    pub(crate) capabilities: BTreeSet<String>,
    /// Everything that stands in the file, known or not.
    pub(crate) fields: Map<String, Value>,
}

/// Which networks of a directory pods join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The network that goes first, by the name in its file, whatever the file's own name.
    pub(crate) first: Option<String>,
    /// How many, as far as there are so many.
    pub(crate) count: usize,
}

/// Loads the networks that are wanted of a directory, in the order in which pods join them. None: there is no
/// configuration in it, or no directory.
///
/// With a first network by name, files that come before it are looked at for their names alone.
///
/// # Errors
/// [`Error::ReadConf`], [`Error::ParseConf`], [`Error::InvalidConf`]; [`Error::NotReady`] when the network that is to
/// be the first isn't there.
pub(crate) fn load_dir(dir: &Path, wanted: &Wanted) -> Result<Vec<NetworkConf>, Error> {
    let mut files = files(dir, &["conflist", "conf", "json"])?;
    let mut networks = Vec::new();
    if let Some(name) = &wanted.first {
        let Some(at) = files.iter().position(|path| is_of(path, name)) else {
            return Err(not_there(dir, name, &files));
        };
        networks.push(load(&files.remove(at))?);
    }
    for path in files.iter().take(wanted.count.saturating_sub(networks.len())) {
        let network = load(path)?;
        // Attachments, addresses and rules are told apart by network, too.
        if networks.iter().any(|other: &NetworkConf| other.name == network.name) {
            return Err(invalid(path, &format!("is the second to be called '{}'", network.name)));
        }
        networks.push(network);
    }
    Ok(networks)
}

/// Whether a file is that of a network. One that can't be read is nobody's: it may be another's that is being written.
fn is_of(path: &Path, name: &str) -> bool {
    read_json(path).is_ok_and(|value| value.get("name").and_then(Value::as_str) == Some(name))
}

fn not_there(dir: &Path, name: &str, files: &[PathBuf]) -> Error {
    let broken = files.iter().find_map(|path| read_json(path).err());
    let broken = broken.map(|error| format!(" ({})", chain(&error))).unwrap_or_default();
    let reason = format!("no network '{name}' is configured in '{}'{broken}", dir.display());
    Error::NotReady { reason }
}

/// Loads one file of either form.
fn load(path: &Path) -> Result<NetworkConf, Error> {
    let value = read_json(path)?;
    let mut conf = parse(path, &value)?;
    if let Some(aggregated) = aggregation_dir(path, &value, &conf)? {
        for file in files(&aggregated, &["conf"])? {
            conf.plugins.push(parse_plugin(&file, &read_json(&file)?)?);
        }
    }
    if conf.plugins.is_empty() {
        return Err(invalid(path, "'plugins' is empty"));
    }
    Ok(conf)
}

/// Since 1.1.0 the directory `<name>/` beside a list may hold further plugins, unless the list says otherwise.
fn aggregation_dir(path: &Path, value: &Value, conf: &NetworkConf) -> Result<Option<PathBuf>, Error> {
    let only_inlined = flag(path, value, "loadOnlyInlinedPlugins")?;
    if only_inlined || !conf.version.has_gc_and_status() || value.get("type").is_some() {
        return Ok(None);
    }
    Ok(path.parent().map(|dir| dir.join(&conf.name)).filter(|dir| dir.is_dir()))
}

/// Reads a configuration from parsed JSON; `path` is for the messages.
///
/// # Errors
/// [`Error::InvalidConf`], naming the field.
pub(crate) fn parse(path: &Path, value: &Value) -> Result<NetworkConf, Error> {
    let Value::Object(fields) = value else {
        return Err(invalid(path, "isn't a JSON object"));
    };
    let version = version(path, fields)?;
    let name = match fields.get("name") {
        Some(Value::String(name)) if is_identifier(name) => name.clone(),
        Some(name) => return Err(invalid(path, &format!("'name' {name} isn't a network name"))),
        None => return Err(invalid(path, "'name' is missing")),
    };
    let plugins = match (fields.get("plugins"), fields.contains_key("type")) {
        (Some(Value::Array(plugins)), false) => {
            plugins.iter().map(|plugin| parse_plugin(path, plugin)).collect::<Result<_, _>>()?
        }
        (Some(_), true) => return Err(invalid(path, "has both 'plugins' and 'type'")),
        (Some(_), false) => return Err(invalid(path, "'plugins' isn't a list")),
        (None, true) => vec![parse_plugin(path, value)?],
        (None, false) => Vec::new(),
    };
    Ok(NetworkConf {
        name,
        version,
        disable_check: flag(path, value, "disableCheck")?,
        disable_gc: flag(path, value, "disableGC")?,
        plugins,
    })
}

/// The best version of `cniVersion` and `cniVersions` (1.1.0) that is understood here. One that is written as the only
/// one and isn't understood is refused; none at all means 0.1.0, as it did before the field existed.
fn version(path: &Path, fields: &Map<String, Value>) -> Result<Version, Error> {
    let stated = match fields.get("cniVersion") {
        None => None,
        Some(Value::String(text)) if text.is_empty() => None,
        Some(Value::String(text)) => Some(text.as_str()),
        Some(_) => return Err(invalid(path, "'cniVersion' isn't a string")),
    };
    let offered = fields.get("cniVersions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let best = offered.iter().filter_map(Value::as_str).chain(stated).filter_map(Version::parse).max();
    match (best, stated) {
        (Some(version), _) => Ok(version),
        (None, None) if offered.is_empty() => Ok(Version::V0_1_0),
        (None, stated) => {
            let stated = stated.unwrap_or("none of 'cniVersions'");
            Err(invalid(path, &format!("'cniVersion' {stated} isn't supported")))
        }
    }
}

fn parse_plugin(path: &Path, value: &Value) -> Result<PluginConf, Error> {
    let Value::Object(fields) = value else {
        return Err(invalid(path, "a plugin isn't a JSON object"));
    };
    // As the reference library reads them: in any case.
    let kind = match field(fields, "type") {
        // The type becomes a file name in a plugin directory, and must not lead out of it.
        Some(Value::String(kind)) if is_name(kind) => kind,
        Some(kind) => return Err(invalid(path, &format!("'type' {kind} isn't a plugin's name"))),
        None => return Err(invalid(path, "a plugin's 'type' is missing")),
    };
    let capabilities = match field(fields, "capabilities") {
        None => BTreeSet::new(),
        Some(Value::Object(declared)) => {
            let supported = declared.iter().filter(|(_, value)| value.as_bool() == Some(true));
            supported.map(|(name, _)| name.clone()).collect()
        }
        Some(_) => return Err(invalid(path, &format!("'capabilities' of plugin '{kind}' isn't an object"))),
    };
    Ok(PluginConf { kind: kind.clone(), capabilities, fields: fields.clone() })
}

/// A boolean that the reference library also takes as a string.
fn flag(path: &Path, value: &Value, name: &str) -> Result<bool, Error> {
    match value.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(_) => Err(invalid(path, &format!("'{name}' is neither true nor false"))),
    }
}

impl NetworkConf {
    /// The whole as a list, for the record of an attachment: a DEL must see what ADD saw.
    pub(crate) fn to_value(&self) -> Value {
        let plugins = self.plugins.iter().map(|plugin| Value::Object(plugin.fields.clone())).collect();
        let mut fields = Map::new();
        fields.insert("cniVersion".into(), self.version.as_str().into());
        fields.insert("name".into(), self.name.clone().into());
        fields.insert("disableCheck".into(), self.disable_check.into());
        fields.insert("disableGC".into(), self.disable_gc.into());
        fields.insert("plugins".into(), Value::Array(plugins));
        Value::Object(fields)
    }
}

/// The files of a directory that end so, by name. None where there is no directory.
fn files(dir: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::ReadConf { path: dir.to_owned(), source };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if extension.is_some_and(|extension| extensions.contains(&extension)) && !path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn read_json(path: &Path) -> Result<Value, Error> {
    let failed = |source| Error::ReadConf { path: path.to_owned(), source };
    let text = crate::files::read_regular(path, FILE_LIMIT).map_err(failed)?;
    if text.len() as u64 > FILE_LIMIT {
        return Err(invalid(path, &format!("is larger than {FILE_LIMIT} bytes")));
    }
    serde_json::from_slice(&text).map_err(|source| Error::ParseConf { path: path.to_owned(), source })
}

fn invalid(path: &Path, problem: &str) -> Error {
    Error::InvalidConf { path: path.to_owned(), problem: problem.to_owned() }
}

#[cfg(test)]
mod tests;
