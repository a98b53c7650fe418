//! The plugs: `cni`, `image-service`, `nri` and `systemd` behind the traits that `sandbox` states, and `sandbox` behind those of `nri` and
//! `streaming`.

mod confinement;
mod disk;
pub(crate) mod network;
pub(crate) mod plugins;
mod projects;
pub(crate) mod rootfs;
pub(crate) mod scopes;
pub(crate) mod streaming;

pub(crate) use confinement::confinement;
pub(crate) use disk::{DiskOf, limited};
pub(crate) use projects::Projects;
