//! What images and containers take on the disk, as `du` would count it, without walking over it each time.
//!
//! A whole layer never changes: it is measured once by this process. All else below `images/` (layers in the making, what is
//! kept of them, what is being deleted, damaged directories, the catalogue) is little or short-lived, and walked over, as are
//! the writable layers; `measured` says how often.
//! Not here: what a single image takes (`inspect`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Mutex;

use crate::blocking::blocking_in_turn;
use crate::error::Error;
use crate::image::FilesystemUsage;
use crate::layers::{Layers, store};
use crate::measured::{Measured, Measurement};
use crate::rootfs::RootFilesystems;
use crate::usage::{self, Usage};

/// Age up to which the usage of images is told again: who has just removed one wants to see it.
const IMAGES: Duration = Duration::from_secs(1);

/// The measurements. What isn't async here, blocks.
#[derive(Debug)]
pub(crate) struct Space {
    images: PathBuf,
    layers: Layers,
    rootfs: RootFilesystems,
    of_images: Measured,
    of_containers: Measured,
    /// Of whoever sums up images, and writable layers.
    turns: [Arc<Mutex<()>>; 2],
}

impl Space {
    /// For the store of images in `images`. The usage of a writable layer is told again up to the age `keep`, if that isn't zero.
    pub(crate) fn new(images: &Path, layers: Layers, rootfs: RootFilesystems, keep: Duration) -> Space {
        let of_images = Measured::new(IMAGES.min(keep));
        Space {
            images: images.to_owned(),
            layers,
            rootfs,
            of_images,
            of_containers: Measured::new(keep),
            turns: Default::default(),
        }
    }

    /// As [`Space::images`], on a thread of its own. Safe to cancel.
    ///
    /// # Errors
    /// Likewise.
    pub(crate) async fn sum_images(self: &Arc<Self>) -> Result<FilesystemUsage, Error> {
        let space = Arc::clone(self);
        blocking_in_turn(&self.turns[0], "measuring images", move || space.images()).await
    }

    /// As [`Space::containers`], likewise.
    ///
    /// # Errors
    /// Likewise.
    pub(crate) async fn sum_containers(self: &Arc<Self>) -> Result<FilesystemUsage, Error> {
        let space = Arc::clone(self);
        blocking_in_turn(&self.turns[1], "measuring writable layers", move || space.containers()).await
    }

    /// Use of the disk by everything below `images/`.
    ///
    /// # Errors
    /// [`Error::Store`].
    fn images(&self) -> Result<FilesystemUsage, Error> {
        let all = || {
            let read = |cause| store("read", &self.images, cause);
            let dirs = ["", "sha256", "sha512"].map(|name| self.images.join("layers").join(name));
            let mut sum = usage::of_tree_but(&self.images, "layers").map_err(read)?;
            for dir in dirs {
                sum += usage::of_node(&dir).map_err(read)?;
            }
            Ok(sum + self.layers.disk()?)
        };
        Ok(told(&self.images, self.of_images.get("", all)?))
    }

    /// Use of the disk by all writable layers; as old as the oldest measurement.
    ///
    /// # Errors
    /// [`Error::Store`].
    fn containers(&self) -> Result<FilesystemUsage, Error> {
        let (mut sum, mut oldest) = (Usage::default(), SystemTime::now());
        for container in self.rootfs.containers() {
            let found = self.of_containers.at_hand(&container, || self.rootfs.usage(&container));
            match found {
                Ok(Some(Measurement { usage, at, .. })) => (sum, oldest) = (sum + usage, oldest.min(at)),
                // Its first measurement is under way.
                Ok(None) => {}
                // Removed since the list was made.
                Err(Error::RootfsMissing { .. }) => {}
                Err(_) if self.rootfs.usage(&container).is_err_and(is_gone) => {}
                Err(error) => return Err(error),
            }
        }
        let Usage { bytes: used_bytes, inodes: inodes_used } = sum;
        Ok(FilesystemUsage { path: self.rootfs.path().to_owned(), used_bytes, inodes_used, at: oldest })
    }

    /// Use of the disk by a writable layer.
    ///
    /// # Errors
    /// [`Error::RootfsMissing`], [`Error::Store`].
    pub(crate) fn container(&self, container: &str) -> Result<FilesystemUsage, Error> {
        let found = self.of_containers.get(container, || self.rootfs.usage(container))?;
        Ok(told(&self.rootfs.path().join(container), found))
    }

    /// The same, if nothing has to be measured for it. Doesn't block.
    pub(crate) fn container_kept(&self, container: &str) -> Option<FilesystemUsage> {
        let found = self.of_containers.kept(container)?;
        Some(told(&self.rootfs.path().join(container), found))
    }

    /// The container is no more.
    pub(crate) fn forget(&self, container: &str) {
        self.of_containers.forget(container);
    }
}

fn is_gone(error: Error) -> bool {
    matches!(error, Error::RootfsMissing { .. })
}

fn told(path: &Path, found: Measurement) -> FilesystemUsage {
    let Usage { bytes: used_bytes, inodes: inodes_used } = found.usage;
    FilesystemUsage { path: path.to_owned(), used_bytes, inodes_used, at: found.at }
}
