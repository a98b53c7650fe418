//! The trunk and ttrpc by themselves, for the fuzz target.

#[path = "../../src/trunk.rs"]
mod trunk;
#[path = "../../src/ttrpc.rs"]
#[allow(dead_code, reason = "what only calls need")]
mod ttrpc;

use std::collections::BTreeMap;

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
