//! docs/fields.md against the compiled contract and the tests in the tree: no field is forgotten, and no row makes things up.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};

/// The messages that the document has a section for each, and how many fields they have at least.
const MESSAGES: [(&str, usize); 4] = [
    ("PodSandboxConfig", 80),
    ("ContainerConfig", 80),
    ("UpdateContainerResourcesRequest", 15),
    ("UpdatePodSandboxResourcesRequest", 25),
];

/// What a row can say first, as the document explains it.
const WORDS: [&str; 6] = ["honoured", "checked", "recorded", "ignored", "refused", "group"];

/// How many rows say that no test would notice. Only ever smaller.
const UNTESTED: usize = 1;

/// Where tests are made of plain functions: below what, and the file that lists them; without one each has its own list.
const LISTS: [(&str, &str); 3] =
    [("e2e/tests/external_runtimes.rs", ""), ("e2e/tests/networks/", ""), ("runtime/tests/containers/", "")];

/// A row of a table.
#[derive(Debug)]
struct Row {
    path: String,
    says: String,
    tests: Vec<String>,
}

#[test]
fn every_field_has_a_row_and_every_row_a_field() {
    let pool = DescriptorPool::decode(proto::FILE_DESCRIPTOR_SET).unwrap();
    let sections = sections();
    assert_eq!(
        sections.keys().map(String::as_str).collect::<BTreeSet<_>>(),
        MESSAGES.map(|(message, _)| message).into()
    );
    for (message, least) in MESSAGES {
        let rows = &sections[message];
        let descriptor = pool.get_message_by_name(&format!("runtime.v1.{message}")).unwrap();
        let mut fields = Vec::new();
        walk(&descriptor, "", &mut fields);
        let fields: BTreeSet<_> = fields.into_iter().collect();
        assert!(fields.len() >= least, "the walk of {message} found only {} fields", fields.len());
        let mut named = BTreeSet::new();
        for row in rows {
            assert!(named.insert(row.path.clone()), "{message} has two rows for `{}`", row.path);
        }
        let missing: Vec<_> = fields.difference(&named).collect();
        let surplus: Vec<_> = named.difference(&fields).collect();
        assert!(
            missing.is_empty() && surplus.is_empty(),
            "{message}: without a row: {missing:#?}\nwithout a field: {surplus:#?}"
        );
    }
}

#[test]
fn every_row_says_what_it_does_in_words_that_are_explained() {
    for row in sections().into_values().flatten() {
        let first = row.says.split([' ', ':', '.']).next().unwrap();
        assert!(WORDS.contains(&first), "`{}` begins with \"{first}\"", row.path);
    }
}

#[test]
fn every_test_that_is_named_is_there() {
    for row in sections().into_values().flatten() {
        for test in &row.tests {
            let (file, name) = test.split_once("::").unwrap_or_else(|| panic!("`{}`: {test}", row.path));
            assert!(has_test(file, name), "`{}` names {test}, which is no test there", row.path);
        }
    }
}

#[test]
fn only_what_is_run_is_a_test() {
    let text = "\
        #[test]\nfn one() {}\n\
        #[tokio::test(flavor = \"multi_thread\")]\n#[allow(x)]\nasync fn two() {}\n\
        fn three() { one(); }\n\n";
    assert_eq!(["one", "two", "three", "four"].map(|name| is_marked(text, name)), [true, true, false, false]);
    let list = "made!(three, fourth);\nfn three() {}\nfn four() { five(); }\n";
    assert_eq!(["three", "four", "five"].map(|name| is_listed(list, name)), [true, false, false]);
}

#[test]
fn fields_without_a_test_become_fewer() {
    let untested: Vec<String> =
        sections().into_values().flatten().filter(|row| row.tests.is_empty()).map(|row| row.path).collect();
    assert_eq!(
        untested.len(),
        UNTESTED,
        "a new field needs a test, and fewer a smaller number: {untested:#?}"
    );
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

/// Every field of a message and of those below it, by its path. What is for another system is one field with all below it.
fn walk(message: &MessageDescriptor, above: &str, fields: &mut Vec<String>) {
    for field in message.fields() {
        let path = format!("{above}{}", field.name());
        fields.push(path.clone());
        if let Some(below) = below(&field) {
            let number = if field.is_list() { "[]" } else { "" };
            walk(&below, &format!("{path}{number}."), fields);
        }
    }
}

fn below(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    let Kind::Message(message) = field.kind() else { return None };
    let is_value = message.full_name() == "runtime.v1.Int64Value";
    (!field.is_map() && !is_value && field.name() != "windows").then_some(message)
}

/// The tables of the document, by the message that their section is about.
fn sections() -> BTreeMap<String, Vec<Row>> {
    let text = read("docs/fields.md");
    let mut sections = BTreeMap::new();
    for section in text.split("\n## ").skip(1) {
        let (title, body) = section.split_once('\n').expect("a section with a table");
        let rows = body.lines().filter(|line| line.starts_with("| `")).map(row).collect();
        assert!(sections.insert(title.to_owned(), rows).is_none(), "two sections for {title}");
    }
    sections
}

fn row(line: &str) -> Row {
    let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
    let [path, says, tests] = cells[..] else { panic!("not three columns: {line}") };
    let plain = |text: &str| text.trim_matches('`').to_owned();
    let tests = if tests == "–" { Vec::new() } else { tests.split(", ").map(plain).collect() };
    Row { path: plain(path), says: says.to_owned(), tests }
}

/// A file of the repository.
fn read(path: &str) -> String {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
