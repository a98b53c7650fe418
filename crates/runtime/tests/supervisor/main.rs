//! The built supervisor with real containers, driven over its socket as a daemon does. Needs root and
//! /bin/busybox (Debian's busybox-static).
//!
//! Each test has its own supervisor, cgroups and directories, and they run in parallel.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "a test program"
)]

mod attach;
mod births;
mod client;
mod descriptors;
mod exec;
mod external;
mod hooks;
mod life;
mod limits;
mod log_trouble;
mod logs;
#[path = "../common/patience.rs"]
mod patience;
mod rig;
mod session;
mod throughput;
