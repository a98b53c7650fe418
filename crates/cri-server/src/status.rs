//! **The** table of errors: which gRPC code an error of the domain becomes, and nothing else.
//!
//! | what went wrong | code |
//! |---|---|
//! | unknown id on a read or a start, an image that is not there | NotFound |
//! | a name held by another live pod or container | AlreadyExists |
//! | wrong state, a start that was called off, a host port that another pod has | FailedPrecondition |
//! | a field that is refused, an ambiguous id | InvalidArgument |
//! | network not ready, the daemon going down | Unavailable |
//! | an error that kubelet knows by a fixed word: `RegistryUnavailable` | Unknown |
//! | credentials refused | Unauthenticated, PermissionDenied |
//! | a deadline of ours | DeadlineExceeded |
//! | mailbox, disk, memory, open files, processes, addresses, tokens for streams exhausted | ResourceExhausted |
//! | the rest | Internal |
//!
//! kubelet compares the beginning of a pull's message with its fixed words (`pkg/kubelet/images`), and its client takes the words
//! "rpc error: code = …" off that beginning for Unknown alone (`cri-client`, `PullImage`). With any other code the word that says
//! what happened would be without effect.
//!
//! An error with leftovers has the code of what failed first. The message is the whole chain, from the outside in. There is no wildcard arm: a new error must choose.

use image_service::ErrorKind;
use sandbox::Error;
use tonic::{Code, Status};

use crate::chain;

/// kubelet's word for a registry that can't be asked (`pkg/kubelet/images/types.go`, `ErrRegistryUnavailable`).
const REGISTRY: &str = "RegistryUnavailable";

/// The answer to a call that failed.
pub(crate) fn of_sandbox(error: &Error) -> Status {
    answer(code(error), &chain(error))
}

/// What a message may have before and after what is left out of it, in bytes. gRPC sends it as a header, in which a byte may
/// take three; a client that bounds its headers (Rust's h2: 16 KiB in all) would drop the connection, and all calls on it.
const BEGINNING: usize = 3 << 10;
const END: usize = 1 << 10;

/// A request may have brought a text of any length that the message repeats.
fn answer(code: Code, message: &str) -> Status {
    if message.len() <= BEGINNING + END {
        return Status::new(code, message);
    }
    let beginning = message.get(..message.floor_char_boundary(BEGINNING)).unwrap_or_default();
    let end = message.get(message.ceil_char_boundary(message.len() - END)..).unwrap_or_default();
    Status::new(code, format!("{beginning} […] {end}"))
}

fn code(error: &Error) -> Code {
    match error {
        Error::NotFound { .. } | Error::NoImage { .. } => Code::NotFound,
        Error::NameTaken { .. } => Code::AlreadyExists,
        Error::WrongState { .. } | Error::CalledOff { .. } | Error::Taken { .. } => Code::FailedPrecondition,
        Error::Refused { .. } | Error::Ambiguous { .. } | Error::RecursiveReadOnly { .. } => {
            Code::InvalidArgument
        }
        Error::NetworkNotReady { .. }
        | Error::OutOfTouch { .. }
        | Error::SupervisorGone { .. }
        | Error::ShuttingDown => Code::Unavailable,
        Error::Deadline { .. } | Error::TimedOut { .. } => Code::DeadlineExceeded,
        Error::Exhausted { .. } => Code::ResourceExhausted,
        Error::Undone { cause, .. } | Error::ImageVolume { cause } => code(cause),
        Error::Start { .. } | Error::Exec { .. } | Error::Unreachable { .. } | Error::Step { .. } => {
            Code::Internal
        }
    }
}

/// The answer to a request for a stream that failed.
pub(crate) fn of_streaming(error: &streaming::Error) -> Status {
    use streaming::Error::{Listen, Random, TlsClientCa, TlsFile, TlsPair, TlsPem, TooLong, TooManyTokens};
    let code = match error {
        TooManyTokens { .. } | TooLong { .. } => Code::ResourceExhausted,
        Listen { .. } | Random { .. } => Code::Internal,
        TlsClientCa { .. } | TlsFile { .. } | TlsPair { .. } | TlsPem { .. } => Code::Internal,
    };
    answer(code, &chain(error))
}

/// The answer to a call about images that failed.
pub(crate) fn of_images(error: &image_service::Error) -> Status {
    let code = match error.kind() {
        ErrorKind::InvalidRequest => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Unauthenticated => Code::Unauthenticated,
        ErrorKind::PermissionDenied => Code::PermissionDenied,
        ErrorKind::Unavailable => return answer(Code::Unknown, &format!("{REGISTRY}: {}", chain(error))),
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorKind::NoSpace | ErrorKind::Exhausted => Code::ResourceExhausted,
        ErrorKind::Busy => {
            return answer(Code::ResourceExhausted, &format!("{} (images.max_pulls)", chain(error)));
        }
        ErrorKind::Conflict => Code::FailedPrecondition,
        ErrorKind::Corrupt | ErrorKind::Internal => Code::Internal,
    };
    answer(code, &chain(error))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_message_fits_into_a_header() {
        let long = "ä".repeat(70_000);
        let refused = of_sandbox(&Error::refused("hostname", format!("\"{long}\" is longer than 64 bytes")));
        assert!(refused.message().len() < 5 << 10, "{}", refused.message().len());
        assert!(refused.message().starts_with("hostname: ") && refused.message().ends_with(" than 64 bytes"));
    }

    #[test]
    fn too_many_requests_for_streams_exhaust_something() {
        let status = of_streaming(&streaming::Error::TooManyTokens { limit: 1_000 });
        assert_eq!(status.code(), Code::ResourceExhausted);
    }

    #[test]
    fn leftovers_do_not_hide_what_failed() {
        let late = Error::TimedOut {
            step: "attaching the network",
            subject: "p".into(),
            cause: Arc::new(std::io::Error::other("the plugin hangs")),
        };
        let undone = Error::Undone { left: vec!["the network".into()], cause: Arc::new(late) };
        let status = of_sandbox(&undone);
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert!(status.message().ends_with("took too long: the plugin hangs"), "{status}");
    }

    #[test]
    fn what_kubelet_knows_by_a_word_begins_with_it() {
        let missing = Error::NoImage { image: "i".into() };
        let status = of_sandbox(&Error::ImageVolume { cause: Arc::new(missing) });
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(status.message(), "ImageVolumeMountFailed: image \"i\" does not exist");
        let status = of_sandbox(&Error::RecursiveReadOnly { field: "mounts[0].recursive_read_only".into() });
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with("RROUnsupported: mounts[0]."), "{status}");
    }
}
