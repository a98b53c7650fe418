//! Plugins that go wrong, at every place of a chain and at every verb: the error says what, nothing is left over, the
//! next try works and removal isn't blocked for ever.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod cases;
mod collection;
#[path = "../support/daemon.rs"]
mod daemon;
mod disk;
mod gone;
mod kills;
mod orphans;
mod plugins;
mod power;
mod rig;
mod said;
#[path = "../support/mod.rs"]
mod support;
