//! The tables, one for each plugin and purpose.

mod bridge;
mod bridge_life;
mod bridge_refusals;
mod host_local;
mod loopback;
mod masquerade;
mod newest;
mod portmap;
