//! docs/attacks.md against the tests and patches in the tree.

use std::collections::BTreeSet;
use std::path::PathBuf;

/// What the document calls directories that it names often.
const SHORT: [(&str, &str); 3] =
    [("A/", "e2e/tests/attacks/"), ("I/", "image-service/"), ("T/", "streaming/")];

/// Where tests are made of plain functions: below what, and the file that lists them; without one each has its own list.
const LISTS: [(&str, &str); 1] = [("image-service/tests/layers/", "image-service/tests/layers/main.rs")];

/// A row that names tests.
struct Row {
    tests: Vec<String>,
    proofs: Vec<String>,
}

#[test]
fn every_test_that_is_named_is_there() {
    for test in rows().iter().flat_map(|row| &row.tests) {
        let (file, name) = test.split_once("::").unwrap_or_else(|| panic!("no test: {test}"));
        let file =
            SHORT.iter().find_map(|(short, long)| Some(format!("{long}{}", file.strip_prefix(short)?)));
        let file = file.unwrap_or_else(|| test.split("::").next().unwrap().to_owned());
        assert!(has_test(&file, name), "{test} is no test there");
    }
}

#[test]
fn every_attack_of_the_suite_has_a_row() {
    let named: BTreeSet<String> = rows().into_iter().flat_map(|row| row.tests).collect();
    for file in names("crates/e2e/tests/attacks").into_iter().filter(|name| name.ends_with(".rs")) {
        if ["main.rs", "rig.rs", "document.rs"].contains(&file.as_str()) {
            continue;
        }
        let text = read(&format!("crates/e2e/tests/attacks/{file}"));
        for part in text.split("#[tokio::test]").skip(1) {
            let name = part.split("async fn ").nth(1).and_then(|rest| rest.split('(').next()).unwrap();
            assert!(named.contains(&format!("A/{file}::{name}")), "no row names {file}::{name}");
        }
    }
}

#[test]
fn every_proof_is_there_and_breaks_what_its_row_names() {
    let mut used = BTreeSet::new();
    for row in rows() {
        for proof in row.proofs.iter().filter(|proof| *proof != "before") {
            let patch = read(&format!("crates/e2e/tests/attacks/naive/{proof}.patch"));
            let broken = patch.lines().filter_map(|line| line.strip_prefix("test: "));
            let mut broken = broken.map(|test| format!("A/{}", test.replacen("::", ".rs::", 1)));
            assert!(
                broken.any(|test| row.tests.contains(&test)),
                "{proof} proves no test of {:?}",
                row.tests
            );
            used.insert(format!("{proof}.patch"));
        }
    }
    let patches: BTreeSet<String> = names("crates/e2e/tests/attacks/naive").into_iter().collect();
    assert_eq!(patches, used, "patches in the tree and in the document");
}

/// Whether a file has a test of this name: a function with the attribute above it, or one of those that a list makes tests of.
fn has_test(file: &str, name: &str) -> bool {
    let text = read(&format!("crates/{file}"));
    let is_made = |(below, list): (&str, &str)| {
        let list = if list.is_empty() { text.clone() } else { read(&format!("crates/{list}")) };
        file.starts_with(below) && text.contains(&format!("fn {name}(")) && is_listed(&list, name)
    };
    is_marked(&text, name) || LISTS.into_iter().any(is_made)
}

fn is_marked(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_attribute = |line: &&str| line.starts_with("#[test]") || line.starts_with("#[tokio::test");
    let is_above = |line: &&&str| line.starts_with("#[") || line.starts_with("//");
    let is_named = |line: &str| line.trim_start_matches("async ").starts_with(&format!("fn {name}("));
    let mut named = (0..lines.len()).filter(|at| is_named(lines[*at]));
    named.any(|at| lines[..at].iter().rev().take_while(is_above).any(is_attribute))
}

/// Whether a text has the name elsewhere than where the function is written or called.
fn is_listed(text: &str, name: &str) -> bool {
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    text.match_indices(name).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + name.len()..]);
        !before.ends_with(is_word)
            && !before.ends_with("fn ")
            && !after.starts_with(is_word)
            && !after.starts_with('(')
    })
}

/// The rows of four columns.
fn rows() -> Vec<Row> {
    let text = read("docs/attacks.md");
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    let lines = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| CVE"));
    let rows: Vec<Vec<String>> = lines.map(cells).collect();
    let code = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    let rows: Vec<Row> = rows
        .iter()
        .filter(|cells| cells.len() == 4)
        .map(|cells| Row { tests: code(&cells[2]), proofs: code(&cells[3]) })
        .collect();
    assert!(rows.len() > 30 && rows.iter().all(|row| !row.tests.is_empty()), "{} rows", rows.len());
    rows
}

/// The rows of what is not here, and the words of cri-server's methods that show that they still don't apply. When those are gone
/// the attack may apply, and wants a test. Without words it is for good, or for want of a text.
const NOT_HERE: [(&str, &[&str]); 4] = [
    (
        "2026-50195, 2026-53489, 2026-53492, 2024-8676",
        &[
            r#"unimplemented("CheckpointContainer")"#,
            r#"unimplemented("CheckpointPod")"#,
            r#"unimplemented("RestorePod")"#,
        ],
    ),
    ("2024-1753, 2024-9341", &[]),
    ("Docker 2018-15664, 2019-14271", &[]),
    ("GHSA-rp3h-jf77-q9p4", &[]),
];

#[test]
fn what_is_not_here_still_does_not_apply() {
    let text = read("docs/attacks.md");
    let not_here = text.split("Not here, and why:").nth(1).unwrap();
    let rows = not_here.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| CVE"));
    let rows: Vec<&str> = rows.map(|line| line.split('|').nth(1).unwrap().trim()).collect();
    assert_eq!(rows, NOT_HERE.map(|(attacks, _)| attacks), "rows in the document and reasons here");
    let methods = read("crates/cri-server/src/runtime_service/mod.rs");
    for (attacks, words) in NOT_HERE {
        for word in words {
            assert!(methods.contains(word), "{attacks}: there is no {word} any more");
        }
    }
}

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn names(path: &str) -> Vec<String> {
    let entries = std::fs::read_dir(root().join(path)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}
