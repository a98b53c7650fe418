//! Room on a full disk: whatever is there only because it may be of use later goes before a pull, or a load,
//! fails for want of space.
//!
//! That is what is kept of layers for a later attempt (`spool`), and what was removed but isn't deleted yet. Images that nobody
//! uses are no such thing: whether they go, kubelet decides, or the operator.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::spool::Spools;
use crate::layers::Layers;
use crate::rootfs::RootFilesystems;

/// Longest wait for what was removed to be deleted; kubelet's pulls have minutes.
const DELETING: Duration = Duration::from_secs(30);

/// Bytes that more must be free than at a pull's beginning, for another try to be worth it: directories grow and stay so.
const GAIN: u64 = 256 << 10;

/// What can make room.
#[derive(Debug)]
pub(crate) struct Room {
    images: PathBuf,
    layers: Layers,
    rootfs: RootFilesystems,
    spools: Arc<Spools>,
}

/// What a file system has left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Free {
    bytes: u64,
    inodes: u64,
}

impl Room {
    pub(super) fn new(
        images: &Path,
        (layers, rootfs): (Layers, RootFilesystems),
        spools: Arc<Spools>,
    ) -> Room {
        Room { images: images.to_owned(), layers, rootfs, spools }
    }

    /// What is free now.
    pub(super) fn now(&self) -> Free {
        match rustix::fs::statvfs(&self.images) {
            Ok(disk) => Free { bytes: disk.f_bavail * disk.f_frsize, inodes: disk.f_favail },
            // Then nothing is ever more than it was.
            Err(_) => Free { bytes: u64::MAX - GAIN, inodes: u64::MAX },
        }
    }

    /// Does `work`, and once more where it ran out of space and there can be more of it. Blocks.
    ///
    /// # Errors
    /// Those of the work.
    pub(crate) fn for_work<T, E: fmt::Display>(
        &self,
        ran_out: impl Fn(&E) -> bool,
        mut work: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        let before = self.now();
        match work() {
            Err(error) if ran_out(&error) && self.make(before) => {
                tracing::info!(%error, "tries again, after making room on a full disk");
                work()
            }
            outcome => outcome,
        }
    }

    /// Gives up all that can be, and says whether a pull that ran out of space has more of it when it is tried again, than it
    /// had when it began with `before`. Blocks.
    pub(super) fn make(&self, before: Free) -> bool {
        let kept = self.spools.give_up();
        self.layers.settle(DELETING);
        self.rootfs.settle(DELETING);
        let now = self.now();
        kept > 0 || now.bytes > before.bytes + GAIN || now.inodes > before.inodes
    }
}
