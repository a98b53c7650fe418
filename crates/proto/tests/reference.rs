//! Our transcription against the published module k8s.io/cri-api, where Go is at hand to fetch it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use prost_reflect::{DescriptorPool, EnumDescriptor, FieldDescriptor, MessageDescriptor, MethodDescriptor};

const MODULE: &str = "k8s.io/cri-api@v0.37.2";

#[test]
fn nothing_differs_from_the_published_contract() {
    let directory = match published() {
        Ok(directory) => directory,
        Err(why) => return println!("skipped: {MODULE} can't be had: {why}"),
    };
    let files = protox::compile([directory.join("api.proto")], [&directory])
        .expect("the published contract compiles");
    let theirs = facts(&DescriptorPool::from_file_descriptor_set(files).unwrap());
    let ours = facts(&DescriptorPool::decode(proto::FILE_DESCRIPTOR_SET).unwrap());
    assert!(theirs.len() > 800, "the walk found only {} facts", theirs.len());
    let missing: Vec<_> = theirs.difference(&ours).collect();
    let surplus: Vec<_> = ours.difference(&theirs).collect();
    assert!(missing.is_empty() && surplus.is_empty(), "missing: {missing:#?}\nsurplus: {surplus:#?}");
}

fn published() -> Result<PathBuf, String> {
    let output = Command::new("go")
        .args(["mod", "download", "-json", MODULE])
        .output()
        .map_err(|error| format!("running go: {error}"))?;
    let answer: serde_json::Value =
        serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
    let directory = answer["Dir"].as_str().ok_or_else(|| answer["Error"].to_string())?;
    Ok(Path::new(directory).join("pkg/apis/runtime/v1"))
}

/// Everything that the wire depends on, a line each.
fn facts(pool: &DescriptorPool) -> BTreeSet<String> {
    let ours = |name: &str| name.starts_with("runtime.v1.");
    let messages = pool.all_messages().filter(|message| ours(message.full_name()));
    let enums = pool.all_enums().filter(|kind| ours(kind.full_name()));
    let methods = pool
        .services()
        .filter(|service| ours(service.full_name()))
        .flat_map(|service| service.methods().map(|method| method_fact(&method)).collect::<Vec<_>>());
    messages
        .flat_map(|message| message_facts(&message))
        .chain(enums.flat_map(|e| enum_facts(&e)))
        .chain(methods)
        .collect()
}

fn message_facts(message: &MessageDescriptor) -> Vec<String> {
    let fields = message.fields().map(|field| field_fact(&field));
    std::iter::once(format!("message {}", message.full_name())).chain(fields).collect()
}

fn field_fact(field: &FieldDescriptor) -> String {
    let (name, number, label) = (field.full_name(), field.number(), field.cardinality());
    format!(
        "field {name} = {number}: {label:?} {:?}, packed {}, presence {}",
        field.kind(),
        field.is_packed(),
        field.supports_presence()
    )
}

fn enum_facts(kind: &EnumDescriptor) -> Vec<String> {
    kind.values().map(|value| format!("value {} = {}", value.full_name(), value.number())).collect()
}

fn method_fact(method: &MethodDescriptor) -> String {
    let (input, output) = (method.input(), method.output());
    let streams = (method.is_client_streaming(), method.is_server_streaming());
    format!(
        "method {}({}) -> {}, streams {streams:?}",
        method.full_name(),
        input.full_name(),
        output.full_name()
    )
}
