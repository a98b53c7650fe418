//! What is published about the network's readiness.
//!
//! How it is found out is `networks`' affair.

/// Whether an ADD would be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// A network is configured and what it needs is there.
    Ready {
        /// The network's name.
        network: String,
    },
    /// No ADD can be served.
    NotReady {
        /// What lacks, for an operator to read.
        reason: String,
    },
}
