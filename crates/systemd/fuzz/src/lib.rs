//! Messages of the bus by themselves, for the fuzz target.
#![allow(dead_code, reason = "what is needed by connections alone")]

#[path = "../../src/error.rs"]
mod error;
#[path = "../../src/message.rs"]
mod message;

pub use error::Error;
use message::{Body, PREAMBLE, Reader};

/// Reads bytes as one message, with its values as those of each answer that is awaited. Nothing is read beyond it.
pub fn read(bytes: &[u8]) {
    let Some(preamble) = bytes.first_chunk::<PREAMBLE>() else { return };
    let Ok(lengths) = message::lengths(preamble) else { return };
    let Some(end) = lengths.header.checked_add(PREAMBLE).filter(|end| *end <= bytes.len()) else { return };
    let Ok(header) = message::header(&bytes[..end]) else { return };
    let values = bytes[end..].iter().copied().take(lengths.body).collect();
    let body = Body { signature: header.signature, bytes: values };
    assert!(body.text().len() <= body.bytes.len());
    // A list of units, and the end of a job.
    if let Ok(mut reader) = body.read("a(ssssssouso)") {
        let _ = units(&mut reader);
    }
    if let Ok(mut reader) = body.read("uoss") {
        let _ = reader.uint32().and_then(|_| reader.string()).and_then(|_| reader.string());
    }
}

fn units(reader: &mut Reader<'_>) -> Result<usize, Error> {
    let end = reader.array(8)?;
    let mut found = 0;
    while reader.is_before(end) {
        reader.align(8)?;
        for kind in ["s", "s", "s", "s", "s", "s", "o", "u", "s", "o"] {
            reader.skip(kind)?;
        }
        found += 1;
    }
    Ok(found)
}
