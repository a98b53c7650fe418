//! The last word to a client: how its command ended, as version 4 and later have it (a `Status` of Kubernetes' API in JSON) or
//! as text.

use serde::Serialize;

use super::Version;
use crate::backend::Ended;

/// What a session was for; the message names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A command.
    Exec,
    /// A container's streams.
    Attach,
}

/// `k8s.io/apimachinery/pkg/apis/meta/v1`, `Status`: what clients read of it.
#[derive(Debug, Serialize)]
struct Status {
    metadata: Metadata,
    status: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
}

#[derive(Debug, Serialize)]
struct Metadata {}

#[derive(Debug, Serialize)]
struct Details {
    causes: [Cause; 1],
}

/// `StatusCause`; its type is called reason on the wire.
#[derive(Debug, Serialize)]
struct Cause {
    reason: &'static str,
    message: String,
}

/// How a session ended, as the client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Well.
    Success,
    /// The command's exit status.
    Exit(i32),
    /// Something went wrong around it.
    Failure(String),
}

impl Outcome {
    /// What is told of an end.
    pub(crate) fn of(ended: Ended) -> Self {
        match ended {
            Ended::Exited(0) | Ended::Detached(None) => Self::Success,
            Ended::Exited(code) => Self::Exit(code),
            Ended::Detached(Some(why)) => Self::Failure(why),
        }
    }

    /// The bytes of the error stream; before version 4 there are none when all went well.
    pub(crate) fn encode(&self, version: Version, purpose: Purpose) -> Vec<u8> {
        let status = self.status(purpose);
        if version < Version::V4 {
            return status.message.into_bytes();
        }
        // A structure of strings and numbers: writing it can't fail.
        serde_json::to_vec(&status).unwrap_or_default()
    }

    fn status(&self, purpose: Purpose) -> Status {
        let metadata = Metadata {};
        match self {
            Self::Success => {
                let message = String::new();
                Status { metadata, status: "Success", message, reason: None, details: None, code: None }
            }
            Self::Exit(code) => Status {
                metadata,
                status: "Failure",
                message: format!("command terminated with non-zero exit code: {code}"),
                reason: Some("NonZeroExitCode"),
                details: Some(Details { causes: [Cause { reason: "ExitCode", message: code.to_string() }] }),
                code: None,
            },
            Self::Failure(why) => {
                // The words that scripts around kubectl look for.
                let doing = match purpose {
                    Purpose::Exec => "error executing command in container",
                    Purpose::Attach => "error attaching to container",
                };
                let message = format!("Internal error occurred: {doing}: {why}");
                let reason = Some("InternalError");
                Status { metadata, status: "Failure", message, reason, details: None, code: Some(500) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(outcome: &Outcome, version: Version) -> String {
        String::from_utf8(outcome.encode(version, Purpose::Exec)).unwrap()
    }

    #[test]
    fn the_end_is_told_as_kubernetes_has_it() {
        assert_eq!(text(&Outcome::Success, Version::V4), r#"{"metadata":{},"status":"Success"}"#);
        assert_eq!(
            text(&Outcome::Exit(7), Version::V5),
            r#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code: 7","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#
        );
        assert_eq!(
            text(&Outcome::Failure("no \"sh\"".into()), Version::V4),
            r#"{"metadata":{},"status":"Failure","message":"Internal error occurred: error executing command in container: no \"sh\"","reason":"InternalError","code":500}"#
        );
    }

    #[test]
    fn old_clients_are_told_in_words_and_nothing_when_all_went_well() {
        for version in [Version::V1, Version::V2, Version::V3] {
            assert_eq!(text(&Outcome::Success, version), "");
            assert_eq!(text(&Outcome::Exit(7), version), "command terminated with non-zero exit code: 7");
        }
    }

    #[test]
    fn who_is_cut_off_is_told_why() {
        assert_eq!(Outcome::of(Ended::Detached(None)), Outcome::Success);
        assert_eq!(
            Outcome::of(Ended::Detached(Some("too slow".into()))),
            Outcome::Failure("too slow".into())
        );
    }
}
