//! Plugins over real sockets: what they are asked and told, and what becomes of those that don't behave.
//!
//! [`stub`] speaks the protocol from the plugin's side, written by itself from its description; a plugin in Go, of the interface's own
//! library, is in `e2e/tests/nri`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests are no test functions to clippy"
)]

mod events;
mod launched;
mod order;
mod stub;
mod trouble;
mod world;
