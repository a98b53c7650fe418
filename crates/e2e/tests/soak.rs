//! The long run in its short form: everything is asked for at once, the daemon is killed twice, and nothing is wrong or left.

use std::process::Command;

/// Rows of the table that a minute is too short for: what the allocator and its threads keep grows for longer than that.
const TAKES_LONGER: [&str; 4] = ["daemon, RSS", "daemon, PSS", "daemon, anonymous memory", "daemon, threads"];

#[test]
fn a_busy_node_does_nothing_wrong_and_leaves_nothing() {
    let figures = tempfile::tempdir().unwrap();
    let mut soak = Command::new(env!("CARGO_BIN_EXE_soak"));
    let ended = soak.arg("short").env("KNARR_SOAK_OUT", figures.path()).output().unwrap();
    let (tables, told) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    // 0: well. 1: something is wrong, which the tables say. Else it has found something left over, or nobody to ask.
    assert!(matches!(ended.status.code(), Some(0 | 1)), "{}\n{told}", ended.status);
    assert!(!tables.contains("What went wrong"), "{tables}\n{told}");
    let grown: Vec<&str> = tables.lines().filter(|row| row.ends_with("| **grows** |")).collect();
    let is_early = |row: &&str| TAKES_LONGER.iter().any(|name| row.starts_with(&format!("| {name} |")));
    assert!(grown.iter().all(is_early), "{}", grown.join("\n"));
    // Figures there were.
    assert!(tables.lines().filter(|row| row.ends_with("| flat |")).count() > TAKES_LONGER.len(), "{tables}");
    assert!(figures.path().join("soak.svg").exists());
}
