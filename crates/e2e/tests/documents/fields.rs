//! docs/fields.md against the compiled contract and the tests in the tree: no field is forgotten, and no row makes things up.

use std::collections::{BTreeMap, BTreeSet};

use e2e::documents::{has_test, read};
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
            assert!(has_test(test), "`{}` names {test}, which is no test there", row.path);
        }
    }
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
