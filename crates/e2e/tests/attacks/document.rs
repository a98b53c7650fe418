//! docs/attacks.md against the tests and patches in the tree.

use std::collections::BTreeSet;

use e2e::documents::{has_test, names, read, with_long_paths};

/// What the document calls directories that it names often.
const SHORT: [(&str, &str); 3] =
    [("A/", "e2e/tests/attacks/"), ("I/", "image-service/"), ("T/", "streaming/")];

/// A row that names tests.
struct Row {
    tests: Vec<String>,
    proofs: Vec<String>,
}

#[test]
fn every_test_that_is_named_is_there() {
    for test in rows().iter().flat_map(|row| &row.tests) {
        assert!(has_test(&with_long_paths(test, &SHORT)), "{test} is no test there");
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

/// The rows of what is not here, for good.
const NOT_HERE: [&str; 2] = ["2024-1753, 2024-9341", "Docker 2018-15664, 2019-14271"];

#[test]
fn what_is_not_here_has_a_reason() {
    let text = read("docs/attacks.md");
    let not_here = text.split("Not here, and why:").nth(1).unwrap();
    let rows = not_here.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| CVE"));
    let rows: Vec<&str> = rows.map(|line| line.split('|').nth(1).unwrap().trim()).collect();
    assert_eq!(rows, NOT_HERE, "rows in the document and here");
}
