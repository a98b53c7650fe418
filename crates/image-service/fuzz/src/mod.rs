//! What the fuzz targets check of the parsers: a function over any bytes for each, which panics where a promise is broken. The
//! targets (`fuzz/targets/`) only call them; nothing else builds this.
//!
//! | check | of what | the promises |
//! |---|---|---|
//! | [`tar`] | `unpack::{archive, path}` | the same entries however the bytes arrive; no name leaves the layer; what was read can be written and read again; the digest is that of the bytes |
//! | [`tree`] | the targets | nothing outside the layer changes |
//! | [`erofs`] | the EROFS writer | the kernel shows what it shows of a directory; the same bytes for the same archive; fsck is content |
//! | [`framing`] | `unpack::stream` | what was compressed comes out; a cut or damaged stream is told |
//! | [`documents`] | `manifest` | an accepted document means one thing to every reader, and can be written and read again |
//! | [`texts`] | `reference`, `registry::{hosts, challenge}`, `auth` | a name's text is its own fixed point; settings are what the file says |

mod grammar;
mod json;
mod printer;
mod recorder;

pub mod documents;
pub mod erofs;
pub mod framing;
pub mod tar;
pub mod texts;
pub mod tree;

/// What a stream needs beside its bytes; windows of zstd frames as large as formats recommend (RFC 8878, section 3.1.1.1.2).
fn tools() -> crate::unpack::Tools {
    crate::unpack::Tools::alone(8 << 20).expect("a thread")
}
