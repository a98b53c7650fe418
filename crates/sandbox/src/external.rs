//! External OCI runtimes, the daemon's part: what they can do, the bundle that they make a container from, what is cleared away after it.
//!
//! | | who |
//! |---|---|
//! | asking a program what it can do; what was answered | `features`; `runtimes` |
//! | `config.json`, from the specification that every container has | `spec` (pure) |
//! | bundle and mounts, cgroup, the word to the supervisor | `start` |
//! | taking away what is left, also after a crash | `clear` |
//!
//! Such a container's root and image volumes are mounted by path below its own directory, for a program can't be handed a mount. That
//! is the one exception from the rule that nothing of ours is in the host's mount table.
//!
//! Not here: calling the program for a container that runs (the supervisor).

mod call;
mod clear;
mod features;
mod runtimes;
mod spec;
mod start;

use std::path::{Path, PathBuf};

pub(crate) use clear::{clear, detach_pod};
pub use features::ask;
pub(crate) use runtimes::Runtimes;
pub(crate) use start::start;

/// Where a container's bundle is.
fn bundle(container_dir: &Path) -> PathBuf {
    container_dir.join("bundle")
}

/// Where what containers of a pod have as /dev/shm is mounted.
fn shared_memory(pod_dir: &Path) -> PathBuf {
    pod_dir.join("shm")
}
