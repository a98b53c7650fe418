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
mod tests {
    use super::*;
    use serde_json::json;
    use std::fs;

    fn parsed(value: Value) -> Result<NetworkConf, Error> {
        parse(Path::new("/net.d/10-x.conflist"), &value)
    }

    fn wanted(first: Option<&str>, count: usize) -> Wanted {
        Wanted { first: first.map(str::to_owned), count }
    }

    /// The names of the networks that are loaded, or why none is.
    fn names(dir: &Path, first: Option<&str>, count: usize) -> Result<Vec<String>, String> {
        let loaded = load_dir(dir, &wanted(first, count)).map_err(|error| error.to_string())?;
        Ok(loaded.into_iter().map(|conf| conf.name).collect())
    }

    fn write(dir: &Path, file: &str, name: &str) {
        let text = json!({"cniVersion": "1.0.0", "name": name, "plugins": [{"type": "p"}]}).to_string();
        fs::write(dir.join(file), text).unwrap();
    }

    #[test]
    fn the_first_file_by_name_decides_even_when_it_is_broken() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert!(names(dir, None, 1).unwrap().is_empty());
        assert!(names(&dir.join("absent"), None, 1).unwrap().is_empty());
        fs::write(dir.join("00-notes.txt"), "no").unwrap();
        fs::write(dir.join("20-b.conf"), r#"{"cniVersion":"0.3.1","name":"b","type":"p"}"#).unwrap();
        assert_eq!(names(dir, None, 1).unwrap(), ["b"]);
        write(dir, "10-a.conflist", "a");
        assert_eq!(names(dir, None, 1).unwrap(), ["a"]);
        fs::write(dir.join("10-a.conflist"), r#"{"cniVersion":"1.0.0","na"#).unwrap();
        let error = names(dir, None, 1).unwrap_err();
        assert!(error.contains("10-a.conflist"), "{error}");
    }

    #[test]
    fn what_is_no_file_blocks_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let (pipe, mode) = (dir.join("05-pipe.conflist"), rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR);
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).unwrap();
        write(dir, "10-a.conflist", "a");
        let error = load_dir(dir, &wanted(None, 1)).map_err(|error| chain(&error)).unwrap_err();
        assert!(error.contains("05-pipe.conflist") && error.contains("isn't a regular file"), "{error}");
        assert_eq!(names(dir, Some("a"), 1).unwrap(), ["a"]);
    }

    #[test]
    fn as_many_as_are_wanted_are_loaded_in_order_and_none_is_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        for (file, name) in [("30-c.conflist", "c"), ("10-a.conflist", "a"), ("20-b.conflist", "b")] {
            write(dir, file, name);
        }
        assert_eq!(names(dir, None, 2).unwrap(), ["a", "b"]);
        assert_eq!(names(dir, None, 9).unwrap(), ["a", "b", "c"]);
        fs::write(dir.join("20-b.conflist"), "{").unwrap();
        assert_eq!(names(dir, None, 1).unwrap(), ["a"]);
        let error = names(dir, None, 2).unwrap_err();
        assert!(error.contains("20-b.conflist"), "no pod joins c for want of b: {error}");
        write(dir, "20-b.conflist", "a");
        let error = names(dir, None, 2).unwrap_err();
        assert!(error.contains("20-b.conflist") && error.contains("'a'"), "{error}");
    }

    #[test]
    fn a_network_by_name_goes_first_and_others_are_not_looked_at_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        for (file, name) in [("10-a.conflist", "a"), ("20-b.conflist", "b"), ("30-c.conflist", "c")] {
            write(dir, file, name);
        }
        fs::write(dir.join("05-broken.conflist"), "{").unwrap();
        assert_eq!(names(dir, Some("c"), 1).unwrap(), ["c"]);
        assert!(names(dir, Some("c"), 2).unwrap_err().contains("05-broken.conflist"));
        fs::remove_file(dir.join("05-broken.conflist")).unwrap();
        assert_eq!(names(dir, Some("c"), 3).unwrap(), ["c", "a", "b"]);
        fs::write(dir.join("30-c.conflist"), r#"{"cniVersion":"1.0.0","name":"c","plugins":[]}"#).unwrap();
        assert!(names(dir, Some("c"), 1).unwrap_err().contains("'plugins' is empty"));
        fs::write(dir.join("30-c.conflist"), "{").unwrap();
        let error = names(dir, Some("c"), 1).unwrap_err();
        assert!(error.contains("no network 'c'") && error.contains("30-c.conflist"), "{error}");
    }

    #[test]
    fn unknown_fields_are_kept() {
        let conf = parsed(json!({"cniVersion": "1.0.0", "name": "n", "plugins": [
            {"type": "p", "odd": {"x": [1]}, "capabilities": {"portMappings": true, "mac": false}}]}))
        .unwrap();
        assert_eq!(conf.plugins[0].fields["odd"], json!({"x": [1]}));
        assert_eq!(conf.plugins[0].capabilities, BTreeSet::from(["portMappings".to_owned()]));
        assert_eq!(parsed(conf.to_value()).unwrap(), conf);
    }

    #[test]
    fn types_and_capabilities_are_found_in_any_case() {
        let conf = json!({"cniVersion": "1.0.0", "name": "n", "plugins": [
            {"Type": "p", "Capabilities": {"portMappings": true}, "capabilities": null}]});
        let plugin = parsed(conf).unwrap().plugins.remove(0);
        assert_eq!((plugin.kind.as_str(), plugin.capabilities), ("p", ["portMappings".to_owned()].into()));
    }

    #[test]
    fn the_best_known_version_is_spoken() {
        let with = |versions: Value| {
            let mut conf = json!({"name": "n", "plugins": [{"type": "p"}]});
            conf.as_object_mut().unwrap().extend(versions.as_object().unwrap().clone());
            parsed(conf).map(|conf| conf.version.as_str())
        };
        assert_eq!(with(json!({"cniVersion": "0.3.0"})).unwrap(), "0.3.0");
        assert_eq!(with(json!({})).unwrap(), "0.1.0");
        let several = json!({"cniVersion": "0.4.0", "cniVersions": ["1.0.0", "1.1.0", "9.0.0"]});
        assert_eq!(with(several).unwrap(), "1.1.0");
        assert!(with(json!({"cniVersion": "9.0.0"})).is_err());
        assert!(with(json!({"cniVersions": ["9.0.0"]})).is_err());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (conf, word) in [
            (json!([]), "object"),
            (json!({"cniVersion": "1.0.0", "plugins": [{"type": "p"}]}), "'name' is missing"),
            (json!({"cniVersion": "1.0.0", "name": "../n", "plugins": [{"type": "p"}]}), "network name"),
            (json!({"cniVersion": "1.0.0", "name": "n", "plugins": [{}]}), "'type' is missing"),
            (json!({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "../p"}]}), "plugin's name"),
            (json!({"cniVersion": "1.0.0", "name": "n", "plugins": {}}), "isn't a list"),
            (json!({"cniVersion": "2.0.0", "name": "n", "plugins": []}), "2.0.0"),
            (json!({"cniVersion": "1.0.0", "name": "n", "plugins": [], "disableGC": 3}), "disableGC"),
        ] {
            let error = parsed(conf).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("10-x.conflist"), "{error}");
        }
    }

    #[test]
    fn plugins_beside_the_list_are_added_since_1_1() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("n")).unwrap();
        fs::write(dir.path().join("n/50-more.conf"), r#"{"type":"more"}"#).unwrap();
        let write = |version: &str, inlined: bool| {
            let conf = json!({"cniVersion": version, "name": "n", "plugins": [{"type": "p"}],
                "loadOnlyInlinedPlugins": inlined});
            fs::write(dir.path().join("10.conflist"), conf.to_string()).unwrap();
            load_dir(dir.path(), &wanted(None, 1)).unwrap()[0].plugins.len()
        };
        assert_eq!(write("1.1.0", false), 2);
        assert_eq!(write("1.1.0", true), 1);
        assert_eq!(write("1.0.0", false), 1);
    }
}
