//! knarr's own gRPC services (`proto/*.proto`, package `knarr.v1`), on the daemon's socket beside CRI: what its client commands need
//! and CRI has no call for. As with CRI, a method parses its request, makes one call, and converts the answer.
//!
//! Not here: the client commands (`cli`). Daemon and client of different versions meet: fields are added, never given another meaning.

mod registry;

use tonic::{Request, Response, Status};

/// What is made from the protocol files.
pub(crate) mod v1 {
    #![allow(missing_docs, unreachable_pub, rust_2018_idioms, clippy::all, reason = "generated code")]
    tonic::include_proto!("knarr.v1");
}

pub(crate) use registry::Registry;

/// The daemon as such.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Node;

#[tonic::async_trait]
impl v1::node_server::Node for Node {
    async fn version(&self, _: Request<v1::VersionRequest>) -> Result<Response<v1::VersionResponse>, Status> {
        Ok(Response::new(v1::VersionResponse { version: env!("CARGO_PKG_VERSION").to_owned() }))
    }
}
