//! A whole node under test, from outside: the built binaries, a real registry, real CNI plugins, a client of its own.
//!
//! Here live the parts that system tests are made of: [`Node`] (a daemon on directories of its own), [`registry`] (Debian's
//! docker-registry with images packed here), [`Client`] (the k8s-cri crate's, so that not our own transcription of the
//! contract answers for itself), [`until()`] and the leak check that every node makes when it goes. Nothing here knows what
//! is inside of the daemon; `E2E_ENDPOINT` points the same tests at a peer.

pub mod archive;
pub mod bench;
pub mod client;
pub mod collector;
pub mod config;
mod dead_mount;
mod dice;
mod disk;
pub mod documents;
mod driver;
mod ended;
pub mod image;
pub mod kube;
pub mod leaks;
pub mod needs;
mod netns;
pub mod newest;
pub mod node;
pub mod pod;
pub mod registry;
pub mod scripted;
pub mod soak;
pub mod streams;
mod stuck_mount;
mod until;

pub use client::Client;
pub use dead_mount::DeadMount;
pub use dice::Dice;
pub use disk::Disk;
pub use driver::CgroupDriver;
pub use ended::ended;
pub use netns::Netns;
pub use node::{Network, Node, Setup};
pub use pod::Pod;
pub use registry::Registry;
pub use scripted::Scripted;
pub use stuck_mount::StuckMount;
pub use until::{patience, until, until_each};

/// Messages and enums of the contract, as the independent client has them.
pub use k8s_cri::v1 as cri;
