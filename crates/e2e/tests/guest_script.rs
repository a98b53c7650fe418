//! The script that runs the tests in guests, with guests that do nothing: what it makes of how they end.
//! The guests themselves are not here: `make test` and `make test-guest` boot them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/guest/test");
/// Whether a job is still known when the script ends is a matter of chance.
const TRIES: usize = 20;
/// The first guest outlasts the two that share the other place.
const SUCCEEDS: &str = r#"[[ $* != *cgroupfs* ]] || sleep 0.05"#;
/// Only systemd's guest is booted with -s.
const FAILS: &str = r#"[[ " $* " != *" -s "* ]] || exit 3"#;

/// One test, since a program that is written while another thread forks is busy for a moment.
#[test]
fn a_run_fails_when_a_guest_does_and_only_then() {
    let guest = scripts(SUCCEEDS);
    for attempt in 0..TRIES {
        let output = test(guest.path());
        assert!(output.status.success(), "attempt {attempt}: {output:?}");
    }
    let output = test(scripts(FAILS).path());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("failed: systemd\n"), "{output:?}");
}

/// A directory with the script and, around it, what it calls; `boot` is the text of a guest.
fn scripts(boot: &str) -> TempDir {
    let directory = TempDir::new().unwrap();
    let common = "here=$(dirname \"$(readlink -f \"$0\")\")\nobstacle() { :; }\n";
    for (name, text) in [("common.sh", common), ("build", ""), ("stage", ""), ("boot", boot)] {
        let path = directory.path().join(name);
        fs::write(&path, format!("#!/usr/bin/env bash\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::copy(SCRIPT, directory.path().join("test")).unwrap();
    directory
}

fn test(directory: &Path) -> Output {
    Command::new(directory.join("test")).arg("short").output().unwrap()
}
