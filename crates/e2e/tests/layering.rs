//! Which crate may know which: the edges of the crate graph, held against `cargo metadata`; so are lists that have to name all of
//! something.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::{Value, json};

/// Every edge between crates of ours that there may be.
const EDGES: [(&str, &str); 9] = [
    ("cri-server", "cni"),
    ("cri-server", "image-service"),
    ("cri-server", "nri"),
    ("cri-server", "proto"),
    ("cri-server", "sandbox"),
    ("cri-server", "streaming"),
    ("cri-server", "systemd"),
    ("e2e", "proto"),
    ("sandbox", "runtime"),
];

#[test]
fn crates_depend_in_one_direction() {
    let found: BTreeSet<(String, String)> = edges(&metadata());
    let allowed: BTreeSet<(String, String)> = EDGES.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect();
    assert_eq!(found, allowed, "the crate graph of ARCHITECTURE.md and this table change together");
}

#[test]
fn runtime_stays_free_of_an_async_runtime() {
    let metadata = metadata();
    let reached = reachable(&metadata, "runtime");
    assert!(reached.contains("nix"), "the walk reaches dependencies at all: {reached:?}");
    for heavy in ["tokio", "hyper", "tonic", "futures"] {
        assert!(!reached.contains(heavy), "\"runtime\" reaches \"{heavy}\"");
    }
}

/// Without its feature `std` zlib-rs never asks the processor what it can, and nothing else tells: pulls are just slower.
#[test]
fn decompression_asks_the_processor_what_it_can() {
    let metadata = metadata();
    let nodes = metadata["resolve"]["nodes"].as_array().expect("nodes");
    let found: Vec<&Value> =
        nodes.iter().filter(|node| node["id"].as_str().is_some_and(|id| id.contains("zlib-rs@"))).collect();
    assert_eq!(found.len(), 1, "one zlib-rs is linked: {found:?}");
    let features = found[0]["features"].as_array().expect("features");
    assert!(features.contains(&json!("std")), "{features:?}");
}

/// Told before a guest is booted, which takes minutes.
#[test]
fn every_test_that_a_kind_of_host_may_matter_to_is_named_in_the_guests_selection() {
    let selection = include_str!("../guest/selection");
    let named: BTreeSet<&str> = selection
        .lines()
        .filter(|line| line.starts_with("run ") || line.starts_with("not "))
        .filter_map(|line| line.split_whitespace().nth(1))
        .collect();
    let metadata = metadata();
    let mut found = 0;
    for package in metadata["packages"].as_array().expect("packages") {
        if !["cni", "e2e", "runtime", "sandbox"].contains(&name(package).as_str()) {
            continue;
        }
        for target in package["targets"].as_array().expect("targets") {
            if target["kind"] == json!(["test"]) {
                let target = format!("{}/{}", name(package), name(target));
                assert!(named.contains(target.as_str()), "the selection says nothing of {target}");
                found += 1;
            }
        }
    }
    assert!(found > 40, "{found}");
}

#[test]
fn crates_that_log_are_named_where_lines_are_filtered() {
    let filter = include_str!("../../cri-server/src/logging.rs");
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    let logs = |package: &&Value| {
        let dependencies = package["dependencies"].as_array().expect("dependencies");
        let is_tracing = |dependency: &Value| dependency["name"] == "tracing" && dependency["kind"].is_null();
        package["source"].is_null() && dependencies.iter().any(is_tracing)
    };
    let mut found = 0;
    for package in packages.iter().filter(logs) {
        let targets = package["targets"].as_array().expect("targets").iter();
        for target in
            targets.filter(|target| target["kind"] == json!(["lib"]) || target["kind"] == json!(["bin"]))
        {
            let target = name(target).replace('-', "_");
            assert!(filter.contains(&format!("\"{target}\"")), "nobody sees what \"{target}\" logs");
            found += 1;
        }
    }
    assert!(found > 3, "{found}");
}

fn metadata() -> Value {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--manifest-path", manifest])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

fn edges(metadata: &Value) -> BTreeSet<(String, String)> {
    let packages = metadata["packages"].as_array().expect("packages");
    let ours = packages.iter().filter(|package| package["source"].is_null());
    let names: BTreeSet<String> = ours.clone().map(name).collect();
    ours.flat_map(|package| {
        let dependencies = package["dependencies"].as_array().expect("dependencies").iter().map(name);
        dependencies.map(|dependency| (name(package), dependency)).collect::<Vec<_>>()
    })
    .filter(|(_, dependency)| names.contains(dependency))
    .collect()
}

/// The names of all packages that `from` links, build and test dependencies left out.
fn reachable(metadata: &Value, from: &str) -> BTreeSet<String> {
    let nodes = metadata["resolve"]["nodes"].as_array().expect("a resolved graph");
    let packages = metadata["packages"].as_array().expect("packages");
    let name_of =
        |id: &Value| packages.iter().find(|package| package["id"] == *id).map(name).expect("a package");
    let start = packages.iter().find(|package| name(package) == from).expect("the package")["id"].clone();
    let mut todo = vec![start];
    let mut found = BTreeSet::new();
    while let Some(id) = todo.pop() {
        if !found.insert(name_of(&id)) {
            continue;
        }
        let node = nodes.iter().find(|node| node["id"] == id).expect("a node");
        let normal = |dependency: &&Value| {
            let kinds = dependency["dep_kinds"].as_array().expect("kinds");
            kinds.iter().any(|kind| kind["kind"].is_null())
        };
        let dependencies = node["deps"].as_array().expect("deps").iter().filter(normal);
        todo.extend(dependencies.map(|dependency| dependency["pkg"].clone()));
    }
    found
}

fn name(package: &Value) -> String {
    package["name"].as_str().expect("a name").to_owned()
}
