//! What the fuzz targets check of the image service's parsers, and the parsers themselves: the rest of the crate draws in
//! TLS, which takes minutes to build instrumented.
//!
//! Each check is a function over any bytes that panics where a promise is broken; `targets/` only calls them.
//!
//! | check | of what | the promises |
//! |---|---|---|
//! | [`tar`] | `unpack::{archive, path}` | the same entries however the bytes arrive; no name leaves the layer; what was read can be written and read again; the digest is that of the bytes |
//! | [`tree`] | the targets | nothing outside the layer changes |
//! | [`framing`] | `unpack::stream` | what was compressed comes out; a cut or damaged stream is told |
//! | [`documents`] | `manifest` | an accepted document means one thing to every reader, and can be written and read again |
//! | [`texts`] | `reference`, `registry::{hosts, challenge}`, `auth` | a name's text is its own fixed point; settings are what the file says |

// The rest of the crate uses what the targets don't.
#![allow(dead_code, unused_imports)]

#[path = "../../src/auth.rs"]
mod auth;
#[path = "../../src/digest.rs"]
mod digest;
#[path = "../../src/error.rs"]
mod error;
#[path = "../../src/image.rs"]
mod image;
#[path = "../../src/manifest/mod.rs"]
mod manifest;
#[path = "../../src/names.rs"]
mod names;
#[path = "../../src/reference.rs"]
mod reference;
#[path = "../../src/unpack/mod.rs"]
mod unpack;
#[path = "../../src/usage.rs"]
mod usage;

mod layers;
mod registry;

mod grammar;
mod json;
mod printer;
mod recorder;

pub mod documents;
pub mod framing;
pub mod tar;
pub mod texts;
pub mod tree;
