//! What a caller can do about each error: one table without a wildcard.

use std::io;

use super::Error;

/// What a caller can do about an error. The daemon's table turns it into a gRPC code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request itself is wrong: a reference, an id, credentials that can't be read.
    InvalidRequest,
    /// No such image, here or at the registry, or none for this machine.
    NotFound,
    /// The registry wants other credentials.
    Unauthenticated,
    /// The registry knows who asks, and refuses.
    PermissionDenied,
    /// The registry is down, overloaded or out of reach: another try may work.
    Unavailable,
    /// The registry went silent for longer than we wait.
    DeadlineExceeded,
    /// What the registry sent isn't what its digest says, or breaks its format.
    Corrupt,
    /// The disk is full.
    NoSpace,
    /// The machine has no more of something else: memory, open files, processes.
    Exhausted,
    /// As much of this is being done as may be: another try may work.
    Busy,
    /// It is in the way of what exists already.
    Conflict,
    /// The rest: the machine failed us, or we did.
    Internal,
}

impl Error {
    /// What a caller can do about it. Without a wildcard arm: a new error must choose.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Store { cause, .. } | Error::Thread { cause, .. } if is_exhausted(cause) => {
                ErrorKind::Exhausted
            }
            Error::BadReference { .. }
            | Error::BadCredentials { .. }
            | Error::AmbiguousId { .. }
            | Error::BadDigest { .. }
            | Error::BadContainerId { .. }
            | Error::ArchiveRefused { .. }
            | Error::MountTarget { .. }
            | Error::ArchiveRead { .. }
            | Error::ImagePath { .. } => ErrorKind::InvalidRequest,
            Error::ImageMissing { .. }
            | Error::NoOrigin { .. }
            | Error::NoPlatform { .. }
            | Error::NotMounted { .. }
            | Error::RootfsMissing { .. } => ErrorKind::NotFound,
            Error::Pull { cause, .. } => cause.kind(),
            Error::Mirrors { cause, .. } | Error::Attempts { cause, .. } | Error::Denied { cause, .. } => {
                cause.kind()
            }
            Error::Answer { status, .. } => of_status(*status),
            Error::Challenge { .. } => ErrorKind::Unauthenticated,
            Error::Request { .. } | Error::BrokenOff { .. } | Error::ShuttingDown => ErrorKind::Unavailable,
            Error::Stalled { .. } | Error::TooSlow { .. } | Error::HelperTimedOut { .. } => {
                ErrorKind::DeadlineExceeded
            }
            Error::TooLarge { .. }
            | Error::DigestMismatch { .. }
            | Error::Document { .. }
            | Error::DocumentRefused { .. }
            | Error::LayerDigest { .. }
            | Error::LayerStream { .. }
            | Error::LayerArchive { .. }
            | Error::EntryRefused { .. } => ErrorKind::Corrupt,
            Error::NoSpace { .. } => ErrorKind::NoSpace,
            Error::TooManyPulls { .. } => ErrorKind::Busy,
            Error::RootfsExists { .. } | Error::NoRecipe { .. } | Error::ImageInUse { .. } => {
                ErrorKind::Conflict
            }
            Error::Store { .. }
            | Error::Thread { .. }
            | Error::Output { .. }
            | Error::RegistryConfig { .. }
            | Error::CredentialHelper { .. }
            | Error::Client { .. }
            | Error::NoEndpoint { .. }
            | Error::Redirect { .. }
            | Error::LayerMissing { .. }
            | Error::EntryUnpack { .. }
            | Error::Volume { .. }
            | Error::RootfsMount { .. } => ErrorKind::Internal,
        }
    }
}

/// Whether the kernel had no more of something: of what mmap(2), clone(2), and whatever makes a descriptor need.
fn is_exhausted(cause: &io::Error) -> bool {
    use rustix::io::Errno;
    let number = cause.raw_os_error().map(Errno::from_raw_os_error);
    matches!(number, Some(Errno::NOMEM | Errno::AGAIN | Errno::MFILE | Errno::NFILE))
}

/// HTTP statuses in the sense of the distribution specification ("Error codes").
fn of_status(status: reqwest::StatusCode) -> ErrorKind {
    match status.as_u16() {
        401 => ErrorKind::Unauthenticated,
        403 => ErrorKind::PermissionDenied,
        404 => ErrorKind::NotFound,
        408 | 429 | 500..=599 => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    }
}
