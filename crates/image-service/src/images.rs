//! The one handle that the daemon holds.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::config::Config;
use crate::error::Error;
use crate::image::{FilesystemUsage, Image, ImageId, RootfsInfo};
use crate::pull::PullRequest;

/// The image service. Cheap to clone; all clones are the same service.
#[derive(Debug, Clone)]
pub struct Images {
    config: Arc<Config>,
}

impl Images {
    /// Opens the images below the configured root, making its directories where they lack. What a crash left half-made
    /// is removed; a record that can't be read is set aside.
    ///
    /// # Errors
    /// [`Error::Store`] names the directory that can't be used.
    pub fn open(config: Config) -> Result<Images, Error> {
        Ok(Images { config: Arc::new(config) })
    }

    /// Fetches an image, or brings it up to date, and returns its id. A pull of the same name by the same asker that is
    /// under way is joined.
    ///
    /// Safe to cancel: the pull goes on, and the next call joins it or finds its work done.
    ///
    /// # Errors
    /// [`Error::BadReference`], [`Error::BadCredentials`], and [`Error::Pull`] whose [`Error::kind`] says what to do.
    pub async fn pull(&self, request: PullRequest) -> Result<ImageId, Error> {
        Err(Error::ImageMissing { image: request.reference })
    }

    /// The image with this name, id, or unambiguous beginning of an id; `None` where there is none.
    ///
    /// # Errors
    /// [`Error::AmbiguousId`], or [`Error::BadReference`] for a text that can be neither.
    pub fn status(&self, _image: &str) -> Result<Option<Arc<Image>>, Error> {
        Ok(None)
    }

    /// All images, or those that `filter` names as [`Images::status`] understands it, in the order of their ids.
    pub fn list(&self, _filter: Option<&str>) -> Vec<Arc<Image>> {
        Vec::new()
    }

    /// The image's configuration as the registry had it, JSON.
    ///
    /// Safe to cancel.
    ///
    /// # Errors
    /// [`Error::ImageMissing`], or [`Error::Store`] when its file can't be read.
    pub async fn config_json(&self, id: &ImageId) -> Result<String, Error> {
        Err(Error::ImageMissing { image: id.to_string() })
    }

    /// Removes an image with all its names. An unknown one is fine. Containers made of it keep their layers.
    ///
    /// Safe to cancel: it goes on to the end.
    ///
    /// # Errors
    /// [`Error::Store`] when the catalogue can't be changed, [`Error::AmbiguousId`].
    pub async fn remove(&self, image: &str) -> Result<(), Error> {
        Err(Error::ImageMissing { image: image.to_owned() })
    }

    /// Use of the disk by images. Kept in memory: never reads the disk.
    pub fn filesystem_usage(&self) -> FilesystemUsage {
        FilesystemUsage { path: self.config.root.join("images"), used_bytes: 0, inodes_used: 0 }
    }

    /// Use of the disk by the writable layers of containers.
    ///
    /// Safe to cancel.
    ///
    /// # Errors
    /// [`Error::Store`] names the directory that can't be read.
    pub async fn container_filesystem_usage(&self) -> Result<FilesystemUsage, Error> {
        Ok(FilesystemUsage { path: self.config.root.join("containers"), used_bytes: 0, inodes_used: 0 })
    }

    /// Readies a container's writable layer above an image. Idempotent.
    ///
    /// Safe to cancel: it goes on to the end.
    ///
    /// # Errors
    /// [`Error::ImageMissing`], [`Error::RootfsExists`], [`Error::NoSpace`], [`Error::Store`].
    pub async fn prepare_rootfs(&self, _container: &str, image: &str) -> Result<RootfsInfo, Error> {
        Err(Error::ImageMissing { image: image.to_owned() })
    }

    /// A detached mount of a prepared root, writable. Each call gives a mount of its own.
    ///
    /// Safe to cancel.
    ///
    /// # Errors
    /// [`Error::RootfsMissing`], [`Error::LayerMissing`], [`Error::RootfsMount`].
    pub async fn mount_rootfs(&self, container: &str) -> Result<OwnedFd, Error> {
        Err(Error::RootfsMissing { container: container.to_owned() })
    }

    /// Throws a container's writable layer away. Idempotent.
    ///
    /// Safe to cancel: it goes on to the end.
    ///
    /// # Errors
    /// [`Error::Store`]; releasing can be tried again.
    pub async fn release_rootfs(&self, _container: &str) -> Result<(), Error> {
        Ok(())
    }

    /// Throws away the writable layers of all containers but these, and the layers that nothing needs any more.
    ///
    /// Safe to cancel: it goes on to the end.
    ///
    /// # Errors
    /// The first failure, after all others have been tried.
    pub async fn retain_rootfs(&self, _known: &[String]) -> Result<(), Error> {
        Ok(())
    }

    /// Use of the disk by a container's writable layer.
    ///
    /// Safe to cancel.
    ///
    /// # Errors
    /// [`Error::RootfsMissing`], [`Error::Store`].
    pub async fn rootfs_usage(&self, container: &str) -> Result<FilesystemUsage, Error> {
        Err(Error::RootfsMissing { container: container.to_owned() })
    }
}
