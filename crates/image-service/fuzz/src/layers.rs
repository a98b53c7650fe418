//! What the parsers need of the layer store.

use std::io;

#[path = "../../src/layers/record.rs"]
mod record;

pub(crate) use record::Unpacked;

pub(crate) fn is_no_space(cause: &io::Error) -> bool {
    cause.kind() == io::ErrorKind::StorageFull
}
