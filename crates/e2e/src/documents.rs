//! What the project's documents say of its tests, compared with the tree: for documents whose rows name tests.
//!
//! A test is named as `path::name`, the path below `crates/`; a document may have short names for directories.

use std::path::PathBuf;

/// Where tests are made of plain functions: below what, and the file that lists them; without one each has its own list.
const LISTS: [(&str, &str); 5] = [
    ("e2e/tests/networks/", ""),
    ("runtime/tests/containers/", ""),
    ("image-service/tests/layers/", "image-service/tests/layers/main.rs"),
    ("e2e/tests/kube/", "e2e/tests/kube/table.rs"),
    ("e2e/tests/external_runtimes.rs", ""),
];

/// A test's name with the directory that its first word stands for, among `short` names and what they are short for.
pub fn with_long_paths(test: &str, short: &[(&str, &str)]) -> String {
    let long = |(short, long): &(&str, &str)| Some(format!("{long}{}", test.strip_prefix(short)?));
    short.iter().find_map(long).unwrap_or_else(|| test.to_owned())
}

/// Whether there is a test of this name (`path::name`): a function with the attribute above it, a row of a table of tests
/// (`("name", function)`), or one of those that a list makes tests of.
///
/// # Panics
/// When a list can't be read.
pub fn has_test(test: &str) -> bool {
    let Some((file, name)) = test.split_once("::") else { return false };
    let Ok(text) = std::fs::read_to_string(root().join("crates").join(file)) else { return false };
    let is_made = |(below, list): (&str, &str)| {
        let list = if list.is_empty() { text.clone() } else { read(&format!("crates/{list}")) };
        file.starts_with(below) && text.contains(&format!("fn {name}(")) && is_listed(&list, name)
    };
    is_marked(&text, name) || text.contains(&format!("(\"{name}\", ")) || LISTS.into_iter().any(is_made)
}

/// The tests that a document names: what is set as code and has `.rs::` in it, or begins with `::` and is in the file that
/// was named last.
///
/// # Panics
/// When there is no such document.
pub fn tests_of(document: &str) -> Vec<String> {
    let text = read(document);
    let mut file = "";
    let mut tests = Vec::new();
    for code in text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)) {
        match code.split_once("::") {
            Some(("", name)) => tests.push(format!("{file}::{name}")),
            Some((named, _)) if named.ends_with(".rs") => {
                file = named;
                tests.push(code.to_owned());
            }
            _ => {}
        }
    }
    tests
}

/// A file of the project.
///
/// # Panics
/// When it can't be read.
pub fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The names in a directory of the project.
///
/// # Panics
/// When it can't be read.
pub fn names(path: &str) -> Vec<String> {
    let entries = std::fs::read_dir(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
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

#[cfg(test)]
mod tests {
    use super::{is_listed, is_marked};

    #[test]
    fn only_what_is_run_is_a_test() {
        let text = "\
            #[test]\nfn one() {}\n\
            #[tokio::test(flavor = \"multi_thread\")]\n#[allow(x)]\nasync fn two() {}\n\
            fn three() { one(); }\n\n";
        assert_eq!(
            ["one", "two", "three", "four"].map(|name| is_marked(text, name)),
            [true, true, false, false]
        );
        let list = "made!(three, fourth);\nfn three() {}\nfn four() { five(); }\n";
        assert_eq!(["three", "four", "five"].map(|name| is_listed(list, name)), [true, false, false]);
    }
}
