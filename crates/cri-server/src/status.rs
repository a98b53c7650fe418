//! **The** table of errors: which gRPC code an error of the domain becomes, and nothing else.
//!
//! | what went wrong | code |
//! |---|---|
//! | unknown id on a read or a start, an image that is not there | NotFound |
//! | a name held by another live pod or container | AlreadyExists |
//! | wrong state | FailedPrecondition |
//! | a field that is refused, an ambiguous id | InvalidArgument |
//! | registry or network not ready, the daemon going down | Unavailable |
//! | credentials refused | Unauthenticated, PermissionDenied |
//! | a deadline of ours | DeadlineExceeded |
//! | mailbox, disk, processes exhausted | ResourceExhausted |
//! | the rest | Internal |
//!
//! The message is the whole chain, from the outside in. There is no wildcard arm: a new error must choose.

use image_service::ErrorKind;
use sandbox::Error;
use tonic::{Code, Status};

use crate::chain;

/// The answer to a call that failed.
pub(crate) fn of_sandbox(error: &Error) -> Status {
    let code = match error {
        Error::NotFound { .. } | Error::NoImage { .. } => Code::NotFound,
        Error::NameTaken { .. } => Code::AlreadyExists,
        Error::WrongState { .. } => Code::FailedPrecondition,
        Error::Refused { .. } | Error::Ambiguous { .. } => Code::InvalidArgument,
        Error::NetworkNotReady { .. } | Error::OutOfTouch { .. } | Error::ShuttingDown => Code::Unavailable,
        Error::Deadline { .. } => Code::DeadlineExceeded,
        Error::Exhausted { .. } => Code::ResourceExhausted,
        Error::Start { .. } | Error::Step { .. } | Error::Undone { .. } => Code::Internal,
    };
    Status::new(code, chain(error))
}

/// The answer to a call about images that failed.
pub(crate) fn of_images(error: &image_service::Error) -> Status {
    let code = match error.kind() {
        ErrorKind::InvalidRequest => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Unauthenticated => Code::Unauthenticated,
        ErrorKind::PermissionDenied => Code::PermissionDenied,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorKind::NoSpace => Code::ResourceExhausted,
        ErrorKind::Conflict => Code::FailedPrecondition,
        ErrorKind::Corrupt | ErrorKind::Internal => Code::Internal,
    };
    let message = chain(error);
    // kubelet tells its user about a registry that is down by this word.
    let word = if code == Code::Unavailable { "RegistryUnavailable: " } else { "" };
    Status::new(code, format!("{word}{message}"))
}
