//! From a name to a catalogue entry.

use crate::auth::Credentials;

/// What to pull, and who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullRequest {
    /// The image's name as the user wrote it.
    pub reference: String,
    /// Credentials for the registry, if any were given.
    pub credentials: Option<Credentials>,
}
