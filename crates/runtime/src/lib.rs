//! The internal OCI runtime: runs the processes of one pod.
//!
//! What lives here: the way from an OCI specification to a running process (`plan`, `container`, `init`,
//! `handshake`), what a process needs around it (`namespaces`, `cgroup`, `mount`, `identity`), and the one
//! process per pod that owns all of it (`supervisor`, spoken to over `wire`). The only crate with `unsafe`,
//! and that only in `sys`.
//!
//! What does not: CRI, images, networks, async. A caller hands in descriptors of detached mounts and an OCI
//! specification; nothing here looks for a path on the host that it was not given.

pub mod cgroup;
pub mod confinement;
pub mod container;
mod error;
pub mod external;
mod failure;
pub mod features;
pub mod handshake;
pub mod hooks;
pub mod identity;
mod init;
pub mod loop_device;
pub mod mount;
pub mod namespaces;
mod open_files;
pub mod plan;
pub mod project_quota;
pub mod record;
mod regular;
pub mod seccomp;
pub mod spec;
pub mod supervisor;
mod sys;
pub mod thread;
pub mod verity;
pub mod wire;

pub use error::Error;
pub use failure::{FailedStep, Failure, FailureKind};
pub use sys::{allocate_frugally, close_on_exec_above_stdio, give_back_memory, give_back_program};
