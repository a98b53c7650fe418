//! Client commands of `knarr` that ask a running daemon over its own service: images at hand, versions.
//!
//! Not here: what CRI has calls for (`images`), layers and their files (`image-service`'s own tests).

mod command;
mod version;
