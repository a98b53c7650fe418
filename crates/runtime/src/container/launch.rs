//! A container's first process.
use super::{LaunchRequest, Launched};
use crate::thread::SingleThread;
use crate::{FailedStep, Failure, FailureKind};

/// Starts a container's first process.
///
/// # Errors
/// What failed before the child ran; later failures come through the handshake.
pub fn launch(_proof: &SingleThread, _request: &LaunchRequest<'_>) -> Result<Launched, Failure> {
    Err(Failure { kind: FailureKind::Unsupported, step: FailedStep::Clone, errno: None, subject: String::new() })
}
