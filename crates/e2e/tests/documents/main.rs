//! Documents that name tests: each test is there.

mod fields;

use e2e::documents::{has_test, tests_of, with_long_paths};

/// The documents, and how many tests they name at least.
const DOCUMENTS: [(&str, usize); 3] =
    [("SPECIFICATION.md", 100), ("docs/complaints.md", 50), ("docs/threats.md", 30)];

/// What they call directories.
const SHORT: [(&str, &str); 7] = [
    ("A/", "e2e/tests/attacks/"),
    ("E/", "e2e/tests/"),
    ("S/", "sandbox/"),
    ("I/", "image-service/"),
    ("R/", "runtime/"),
    ("C/", "cni/"),
    ("T/", "streaming/"),
];

#[test]
fn every_test_that_a_document_names_is_there() {
    for (document, least) in DOCUMENTS {
        let tests = tests_of(document);
        assert!(tests.len() >= least, "{document} names {} tests", tests.len());
        let is_missing = |test: &&String| !has_test(&with_long_paths(test, &SHORT));
        let missing: Vec<&String> = tests.iter().filter(is_missing).collect();
        assert!(missing.is_empty(), "{document} names tests that aren't there: {missing:#?}");
    }
}
