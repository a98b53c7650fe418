//! Layers as EROFS images, seen through the kernel's own file system: needs root, and a kernel that mounts an image from
//! a file (Linux 6.12).

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test fails by panicking")]

mod agreement;
#[path = "../layers/archive.rs"]
#[allow(dead_code, reason = "shared with the tests of the store")]
mod archive;
mod bounds;
mod generated;
mod image;
mod measure;
mod shapes;
mod tree;

/// Ends the test with a reason where this machine lacks what it needs.
macro_rules! needs {
    (mounting) => {
        if let Err(reason) = crate::image::can_mount() {
            println!("skipped: {reason}");
            return;
        }
    };
}

use needs;
