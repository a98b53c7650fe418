//! NRI, the node resource interface: plugins of the node that hear of pods and containers and change what containers are.
//!
//! ```text
//! plugin ── unix socket ── trunk (two connections on one) ── ttrpc (calls) ── Connection ── session ─┐
//!                                                                                                    ▼
//! runtime ── Nri ── one queue ──────────────────────────────────────────────────────────────────► hub: plugins in order, merge
//! ```
//! What lives here: the protocol of version 0.12 (github.com/containerd/nri) from bytes to messages, plugins that connect or are started,
//! their order, time-outs, what several of them change of one container and whose that is, the default validator, and the way from
//! adjustments to the runtime specification. What doesn't: pods and containers themselves ([`Runtime`] says what is needed of whoever
//! has them), and carrying out what a specification says.

pub mod api;
mod bounds;
mod connection;
mod error;
mod gate;
mod hub;
mod launch;
mod listener;
mod merge;
mod parts;
mod plugin;
mod session;
pub mod spec;
mod trunk;
mod ttrpc;
mod validate;

pub use error::Error;
pub use gate::Window;
pub use hub::{About, Adjusted, Config, News, Nri, PluginStatus, Question, Runtime, Snapshot};
pub use validate::Validator;

/// The version of the interface that is spoken here, in the form of Go modules.
pub const VERSION: &str = "v0.12.0";
