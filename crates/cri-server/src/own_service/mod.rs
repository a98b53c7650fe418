//! knarr's own gRPC services (`proto/*.proto`, package `knarr.v1`), on the daemon's socket beside CRI: what its client commands need
//! and CRI has no call for. As with CRI, a method parses its request, makes one call, and converts the answer.
//!
//! Not here: the client commands (`cli`). Daemon and client of different versions meet: fields are added, never given another meaning.

mod bytes;
mod convert;
mod images;
pub(crate) mod inside;
mod pulling;
mod registry;
mod removal;

pub(crate) use images::ImagesAtHand;

use tonic::{Code, Request, Response, Status};

use crate::reload::{ReloadError, Reloaded, Reloader};

/// What is made from the protocol files.
pub(crate) mod v1 {
    #![allow(missing_docs, unreachable_pub, rust_2018_idioms, clippy::all, reason = "generated code")]
    tonic::include_proto!("knarr.v1");
}

pub(crate) use registry::Registry;

/// The daemon as such.
#[derive(Clone)]
pub(crate) struct Node {
    /// What takes another configuration over.
    pub(crate) reloader: Reloader,
    /// What is looked into.
    pub(crate) inside: inside::Inside,
}

#[tonic::async_trait]
impl v1::node_server::Node for Node {
    async fn version(&self, _: Request<v1::VersionRequest>) -> Result<Response<v1::VersionResponse>, Status> {
        Ok(Response::new(v1::VersionResponse { version: env!("CARGO_PKG_VERSION").to_owned() }))
    }

    async fn inspect(&self, _: Request<v1::InspectRequest>) -> Result<Response<v1::InspectResponse>, Status> {
        let json = self.inside.look(&self.reloader.running()).to_string();
        Ok(Response::new(v1::InspectResponse { json }))
    }

    async fn reload(&self, _: Request<v1::ReloadRequest>) -> Result<Response<v1::ReloadResponse>, Status> {
        let Reloaded { applied, waiting } = self.reloader.reload().await.map_err(|error| refused(&error))?;
        let waiting =
            waiting.into_iter().map(|(key, why)| v1::Waiting { key: key.to_owned(), why: why.to_owned() });
        Ok(Response::new(v1::ReloadResponse {
            applied: applied.into_iter().map(str::to_owned).collect(),
            waiting: waiting.collect(),
        }))
    }
}

/// Nothing has changed.
fn refused(error: &ReloadError) -> Status {
    let code = match error {
        ReloadError::Config(_) | ReloadError::Mixed(_) => Code::FailedPrecondition,
        ReloadError::Networks(_) | ReloadError::Images(_) | ReloadError::CutShort(_) => Code::Internal,
    };
    Status::new(code, crate::chain(error))
}
