//! Which files count, and what is read in them.

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
