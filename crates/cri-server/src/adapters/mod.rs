//! The plugs: `cni` and `image-service` behind the traits that `sandbox` states.

pub(crate) mod network;
pub(crate) mod rootfs;
