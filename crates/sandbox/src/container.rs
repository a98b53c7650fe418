//! Containers: what was asked for, their states, and the work of making, starting, ending and removing them.
//!
//! Not here: who does that work and when (see `pod::actor`).

pub(crate) mod adjust;
pub(crate) mod check;
pub mod config;
pub(crate) mod end;
pub(crate) mod lengths;
pub(crate) mod make;
pub(crate) mod start;
pub(crate) mod state;
pub mod status;
pub(crate) mod volumes;
