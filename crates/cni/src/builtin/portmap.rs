//! Host ports: the plugin `portmap`.

use serde_json::{Map, Value};

use super::Unserved;
use crate::error::Error;
use crate::request::Request;

/// Whether all that the configuration asks for is served.
pub(super) fn serves(_config: &Map<String, Value>) -> Result<(), Unserved> {
    Ok(())
}

/// Carries out a call.
pub(super) fn run(request: &Request) -> Result<Option<Value>, Error> {
    Ok(request.config.get("prevResult").cloned())
}

/// Withdraws the host ports.
pub(super) fn cut(_request: &Request) -> Result<(), Error> {
    Ok(())
}
