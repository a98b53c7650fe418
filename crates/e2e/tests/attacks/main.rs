//! The attacks that runtimes of others were open to, mounted against the built binaries through the CRI socket, with hostile
//! images, volumes, requests and workloads. docs/attacks.md has the table: which attack, which test, and how the test was shown to
//! notice (`prove.sh`, with the defences that it switches off in naive/).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod capabilities;
mod cgroups;
mod checkpoints;
mod confinement;
mod descriptors;
mod document;
mod host_binary;
mod identity;
mod images;
mod links;
mod neighbours;
mod procfs;
mod races;
mod registries;
mod requests;
mod rig;
mod sockets;
mod streams;
