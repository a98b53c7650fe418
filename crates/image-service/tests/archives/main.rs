//! Images in archives, both ways, and with the tools of others: needs root, as layers do; skopeo and umoci where they are named.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test fails by panicking")]

#[path = "../layers/archive.rs"]
#[allow(dead_code, reason = "shared with the tests of layers")]
mod archive;
mod at_hand;
mod hostile;
mod others;
mod packed;
mod round_trip;
mod store;

/// Leaves a test that needs root, with a word about it.
#[macro_export]
macro_rules! needs_root {
    () => {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
    };
}

/// Leaves a test that needs a program, with a word about it.
#[macro_export]
macro_rules! needs_program {
    ($name:literal) => {
        if std::process::Command::new($name).arg("--version").output().is_err() {
            println!("skipped: needs {}", $name);
            return;
        }
    };
}
