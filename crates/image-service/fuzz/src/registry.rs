//! What the parsers need of registries, and the two parsers that are there.

#[path = "../../src/registry/challenge.rs"]
pub(crate) mod challenge;
#[path = "../../src/registry/hosts.rs"]
pub(crate) mod hosts;

use crate::digest::Digest;

#[derive(Debug)]
pub(crate) struct RawDocument {
    pub(crate) digest: Digest,
    pub(crate) content_type: Option<String>,
    pub(crate) bytes: Vec<u8>,
}
