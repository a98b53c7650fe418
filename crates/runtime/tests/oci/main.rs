//! The example `oci`, an OCI runtime's command line over the crate, run for real. Needs root and /bin/busybox (Debian's
//! busybox-static), and the example: `cargo test` builds it, `cargo test --test oci` alone doesn't (`cargo build -p runtime
//! --example oci` does).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "a test program"
)]

mod life;
#[path = "../common/patience.rs"]
mod patience;
mod refusals;
mod rig;
mod settings;
