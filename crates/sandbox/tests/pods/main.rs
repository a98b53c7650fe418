//! Pods with the real supervisor, real namespaces and cgroups; network and images are stand-ins.
//!
//! Needs root, Debian's busybox-static, and the supervisor that `make build` leaves in `target/release` (or `KNARR_BIN_DIR`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests are no test functions to clippy"
)]

mod contact;
mod death;
mod faults;
mod forward;
mod hanging;
mod lifecycle;
mod probes;
mod recovery;
mod speed;
mod stand_ins;
mod streams;
mod systemd;
mod upgrade;
mod volumes;
mod world;
