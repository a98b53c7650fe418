//! Client commands of `knarr` that ask a running daemon over its own service: images at hand, versions.
//!
//! Not here: what CRI has calls for (`images`), layers and archives and their bad input (`image-service`'s own tests).

mod archives;
mod checking;
mod command;
mod looking;
mod mounting;
mod pulling;
mod removing;
mod version;
