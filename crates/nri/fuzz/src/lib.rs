//! The pure parts by themselves, for the fuzz targets: the trunk with ttrpc, and what becomes of plugins' answers.
#![allow(dead_code, unused_imports, reason = "what is needed by connections and plugins alone")]

#[path = "../../src/api.rs"]
mod api;
#[path = "../../src/bounds.rs"]
mod bounds;
#[path = "../../src/error.rs"]
mod error;
#[path = "../../src/merge/mod.rs"]
mod merge;
#[path = "../../src/spec/mod.rs"]
mod spec;
#[path = "../../src/trunk.rs"]
mod trunk;
#[path = "../../src/ttrpc.rs"]
mod ttrpc;

use std::collections::BTreeMap;

use prost::Message;

/// Reads bytes as a plugin's, in pieces of a length. What is understood can be written, and read again, as it was.
pub fn read(piece: usize, bytes: &[u8]) {
    let (mut trunk, mut connections) = (trunk::Reader::default(), BTreeMap::new());
    for mut part in bytes.chunks(piece.max(1)) {
        loop {
            let Ok(found) = trunk.next(&mut part) else { return };
            let Some((connection, mut body)) = found else { break };
            if ![trunk::PLUGIN, trunk::RUNTIME].contains(&connection) {
                continue;
            }
            let assembler = connections.entry(connection).or_insert_with(ttrpc::Assembler::default);
            loop {
                let Ok(frame) = assembler.next(&mut body) else { return };
                let Some(frame) = frame else { break };
                again(&frame);
            }
        }
    }
}

fn again(frame: &ttrpc::Frame) {
    let message = frame.encode().expect("what was read fits");
    let mut wire = Vec::new();
    trunk::wrap(trunk::PLUGIN, &message, &mut wire);
    let (mut trunk, mut assembler, mut rest) = (trunk::Reader::default(), ttrpc::Assembler::default(), &wire[..]);
    let mut read = None;
    while let Some((_, mut body)) = trunk.next(&mut rest).expect("a frame of ours") {
        read = assembler.next(&mut body).expect("a message of ours").or(read);
    }
    assert_eq!(read.as_ref(), Some(frame));
}

/// Takes bytes for the answers of as many plugins to CreateContainer, each behind its length (two bytes), puts them together, and lays what
/// comes of it over a specification.
pub fn answer(mut bytes: &[u8]) {
    let container = api::Container { id: "c".into(), env: vec!["A=1".into()], ..api::Container::default() };
    let mut creation = merge::Creation::new(container);
    let mut plugin = 0;
    while let [high, low, rest @ ..] = bytes {
        let (message, left) = rest.split_at(rest.len().min(usize::from(u16::from_be_bytes([*high, *low]))));
        bytes = left;
        let Ok(answer) = api::CreateContainerResponse::decode(message) else { continue };
        bounds::check("CreateContainer", message).expect("short messages have few parts");
        plugin += 1;
        if creation.add(&format!("{plugin:02}-p"), answer).is_err() {
            break;
        }
    }
    let mut spec = oci_spec::runtime::Spec::default();
    let described = |spec: &oci_spec::runtime::Spec| {
        let mut told = api::Container::default();
        spec::container(spec, &mut told);
        told
    };
    if spec::adjust(&mut spec, &creation.adjust).is_ok() {
        let mounts = &described(&spec).mounts;
        for mount in creation.adjust.mounts.iter().filter(|mount| api::removed(&mount.destination).is_none()) {
            assert!(mounts.iter().any(|told| told.destination == mount.destination), "{mount:?}");
        }
    }
    for update in creation.others.updates.iter().filter_map(|update| update.linux.as_ref()?.resources.as_ref()) {
        let _may_be_refused = spec::limits(update);
    }
}
