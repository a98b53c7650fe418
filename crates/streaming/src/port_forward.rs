//! Ports over SPDY.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Backend, Duplex};
use crate::error::Error;

/// What may be reached, and how.
pub(crate) struct Forward {
    /// Who connects.
    pub(crate) backend: Arc<dyn Backend>,
    /// The pod.
    pub(crate) pod: String,
    /// The ports; empty for all.
    pub(crate) ports: Vec<u16>,
    /// How long nothing may move.
    pub(crate) idle: Duration,
}

/// Serves a connection.
pub(crate) async fn serve(_: Box<dyn Duplex>, _: Forward) -> Result<(), Error> {
    Err(Error::Streams { why: "placeholder until the branches meet".into() })
}
