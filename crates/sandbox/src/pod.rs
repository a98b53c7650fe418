//! Pods: what was asked for, their states, the work of making and taking them down, and the actor that owns a pod.

pub(crate) mod actor;
pub(crate) mod check;
pub mod config;
pub(crate) mod contact;
pub(crate) mod dismantle;
pub mod limits;
pub(crate) mod make;
pub(crate) mod members;
pub(crate) mod namespace;
pub(crate) mod state;
pub mod status;
pub(crate) mod told;
pub(crate) mod wish;
pub(crate) mod work;
