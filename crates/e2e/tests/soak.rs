//! The long run in its short form: everything is asked for at once, the daemon is killed twice, nothing is wrong and nothing left.
//! Whether a figure grows takes longer than a test has: that is for `make soak` to say.

use std::process::Command;

/// What the program ends with when something went wrong or a figure grew; with others when something is left over.
const SAYS_WHAT: i32 = 1;

#[test]
fn a_busy_node_does_nothing_wrong_and_leaves_nothing() {
    let figures = tempfile::tempdir().unwrap();
    let mut soak = Command::new(env!("CARGO_BIN_EXE_soak"));
    let ended = soak.arg("short").env("KNARR_SOAK_OUT", figures.path()).output().unwrap();
    let (tables, told) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(matches!(ended.status.code(), Some(0 | SAYS_WHAT)), "{}\n{told}", ended.status);
    assert!(tables.contains("| pods stopped and removed |"), "{tables}\n{told}");
    assert!(!tables.contains("What went wrong"), "{tables}\n{told}");
    assert!(figures.path().join("soak.svg").exists());
}
