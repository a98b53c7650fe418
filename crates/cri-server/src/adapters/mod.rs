//! The plugs: `cni`, `image-service` and `systemd` behind the traits that `sandbox` states, and `sandbox` behind that of `streaming`.

mod disk;
pub(crate) mod network;
mod projects;
pub(crate) mod rootfs;
pub(crate) mod scopes;
pub(crate) mod streaming;

pub(crate) use disk::{DiskOf, limited};
pub(crate) use projects::Projects;
