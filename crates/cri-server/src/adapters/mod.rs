//! The plugs: `cni`, `image-service` and `systemd` behind the traits that `sandbox` states.

pub(crate) mod network;
pub(crate) mod rootfs;
pub(crate) mod scopes;
