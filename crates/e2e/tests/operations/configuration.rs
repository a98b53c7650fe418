//! `knarr config`: files that are laid over each other, and all that is wrong with them at once.

use std::path::Path;

use tempfile::TempDir;

use super::command::knarr;

/// A file with these contents and files beside it, and its path.
fn written(main: &str, drop_ins: &[(&str, &str)]) -> (TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("knarr.toml");
    std::fs::write(&file, main).unwrap();
    let beside = directory.path().join("knarr.toml.d");
    std::fs::create_dir(&beside).unwrap();
    for (name, text) in drop_ins {
        std::fs::write(beside.join(name), text).unwrap();
    }
    let file = file.to_str().unwrap().to_owned();
    (directory, file)
}

#[test]
fn files_are_shown_as_one_configuration() {
    let (_directory, file) = written(
        "log_level = \"warn\"\n[network]\nnetworks = 2\nnative = true",
        &[("10-a.toml", "[network]\nnetworks = 3"), ("20-b.toml", "log_level = \"debug\"")],
    );
    let shown = knarr(&["config", "show", "--config", &file]).well();
    for line in ["log_level = \"debug\"", "networks = 3", "native = true"] {
        assert!(shown.lines().any(|shown| shown == line), "{line}: {shown}");
    }
    assert_eq!(shown.lines().filter(|line| line.starts_with("# /")).count(), 3, "{shown}");
    assert_eq!(knarr(&["config", "check", &file]).well().matches(": ok\n").count(), 3);
    // What is shown is a configuration.
    let again = written(&shown, &[]);
    knarr(&["config", "check", &again.1]).well();
}

#[test]
fn everything_that_is_wrong_is_told_with_file_and_line() {
    let (directory, file) = written(
        "log_levle = \"warn\"\n\n[network]\nnetworks = 99\n",
        &[("10-a.toml", "state = \"relative\"\n[streaming]\nport = \"high\"\n")],
    );
    let complaint = knarr(&["config", "check", &file]).complaint();
    let beside =
        |name: &str| Path::new(directory.path()).join("knarr.toml.d").join(name).display().to_string();
    for expected in [
        format!("{file}:1:1: log_levle: there is no such key; did you mean \"log_level\"?"),
        format!("{file}:4:12: network.networks: must be 1 to 16"),
        format!("{}:1:9: state: must be an absolute path", beside("10-a.toml")),
        format!("{}:3:8: streaming.port: must be a number from 0 to 65535", beside("10-a.toml")),
    ] {
        assert!(complaint.contains(&expected), "{expected}: {complaint}");
    }
    // A daemon doesn't start with it, and says the same.
    assert_eq!(knarr(&["serve", "--config", &file]).complaint(), complaint);
}

#[test]
fn every_command_has_a_manual_page_and_says_how_it_is_used() {
    let directory = tempfile::tempdir().unwrap();
    knarr(&["man", directory.path().to_str().unwrap()]).well();
    for name in ["knarr.1", "knarr-serve.1", "knarr-config-reload.1", "knarr-debug-dump.1", "knarr-doctor.1"]
    {
        let page = std::fs::read_to_string(directory.path().join(name)).unwrap_or_default();
        assert!(page.contains(".SH NAME") && page.contains(".SH OPTIONS"), "{name}: {page}");
    }
    let help = knarr(&["config", "--help"]).well();
    for word in ["default", "show", "check", "keys", "reload"] {
        assert!(help.contains(word), "{help}");
    }
}
