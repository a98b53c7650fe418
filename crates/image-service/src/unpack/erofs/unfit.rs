//! What an image can't hold, told apart from what the disk couldn't: the first is the archive's fault.

use std::io;

use crate::unpack::Fault;

/// Why something doesn't fit.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unfit(pub(super) &'static str);

impl From<Unfit> for io::Error {
    fn from(unfit: Unfit) -> io::Error {
        io::Error::other(unfit)
    }
}

/// The fault of an entry that couldn't be written.
pub(super) fn fault(entry: &[u8], cause: io::Error) -> Fault {
    match cause.downcast::<Unfit>() {
        Ok(Unfit(reason)) => Fault::refused(entry, reason),
        Err(cause) => Fault::create(entry, cause),
    }
}
