//! What this crate needs of images: root filesystems for containers. The server plugs them in.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use crate::error::Cause;
use crate::id::ContainerId;
use crate::users::UserMap;

/// Makes root filesystems from images.
#[async_trait]
pub trait RootFilesystems: Send + Sync + 'static {
    /// Readies a container's writable layer above an image, for users who are mapped when `users` says how. Idempotent.
    ///
    /// # Errors
    /// [`RootfsError::NoImage`] when the image is not on this node.
    async fn prepare(
        &self,
        container: &ContainerId,
        image: &str,
        users: Option<UserMap>,
    ) -> Result<Prepared, RootfsError>;

    /// A detached mount of a prepared root, writable, for the users that it was prepared for. Each call gives a mount of
    /// its own.
    ///
    /// # Errors
    /// Those of the filesystem.
    async fn mount(&self, container: &ContainerId, to: MountFor) -> Result<OwnedFd, RootfsError>;

    /// Readies a container's writable layer, and mounts its root: one after the other, or both on one way.
    ///
    /// # Errors
    /// As for both.
    async fn make(
        &self,
        container: &ContainerId,
        image: &str,
        to: MountFor,
    ) -> Result<(Prepared, OwnedFd), RootfsError> {
        let prepared = self.prepare(container, image, to.users.clone()).await?;
        Ok((prepared, self.mount(container, to).await?))
    }

    /// Tries out whether roots can be made for users who are mapped.
    ///
    /// # Errors
    /// What can't be done.
    async fn try_mapping(&self, users: UserMap) -> Result<(), RootfsError>;

    /// Keeps images on the node for a container whose root is prepared, so that they can be mounted as its volumes, also after a
    /// restart; released with the root. The answer has the id of each.
    ///
    /// # Errors
    /// [`RootfsError::NoImage`] when one is not on this node.
    async fn hold_images(
        &self,
        container: &ContainerId,
        images: &[String],
    ) -> Result<Vec<String>, RootfsError>;

    /// A detached read-only mount of an image that is kept for a container, or of what is at a path of it when that is not empty; links
    /// are followed inside the image. Each call gives a mount of its own; its files belong to whom and have the SELinux context that `to` says.
    ///
    /// # Errors
    /// [`RootfsError::NoPath`] when nothing can be found at the path.
    async fn mount_image(
        &self,
        container: &ContainerId,
        (image_id, path): (&str, &Path),
        to: MountFor,
    ) -> Result<OwnedFd, RootfsError>;

    /// Makes a directory on the host for each of these paths of a prepared root, filled with what the image has there, owners and all.
    /// Released with the root; their space counts in [`RootFilesystems::usage`].
    ///
    /// # Errors
    /// [`RootfsError::Failed`] for a path that is something else than a directory.
    async fn make_volumes(
        &self,
        container: &ContainerId,
        paths: &[PathBuf],
    ) -> Result<Vec<PathBuf>, RootfsError>;

    /// Throws the writable layer away. Idempotent.
    ///
    /// # Errors
    /// Those of the filesystem; releasing can be tried again.
    async fn release(&self, container: &ContainerId) -> Result<(), RootfsError>;

    /// Throws away the writable layers of all containers but these. Called once, at start.
    async fn retain(&self, known: &[ContainerId]);

    /// Space and inodes that a container's writable layer uses.
    ///
    /// # Errors
    /// Those of the filesystem.
    async fn usage(&self, container: &ContainerId) -> Result<LayerUsage, RootfsError>;
}

/// Whom a root filesystem is mounted for.
#[derive(Debug, Clone, Default)]
pub struct MountFor {
    /// Users, when they are mapped.
    pub users: Option<UserMap>,
    /// The SELinux context that all its files have.
    pub label: Option<String>,
}

/// A prepared root and what its image says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prepared {
    /// Id of the image, `sha256:…` of its configuration.
    pub image_id: String,
    /// What statuses call the image: a repo digest, or the id where there is none.
    pub image_ref: String,
    /// The image's own configuration.
    pub config: ImageConfig,
}

/// The parts of an image's configuration that shape a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// `user`, `uid`, `user:group` or empty.
    pub user: String,
    /// `KEY=value`.
    pub env: Vec<String>,
    /// The entry point.
    pub entrypoint: Vec<String>,
    /// Its default arguments.
    pub cmd: Vec<String>,
    /// The working directory; empty for `/`.
    pub working_dir: String,
    /// The signal that asks the process to end, by name or number.
    pub stop_signal: Option<String>,
    /// Paths that the image declares as volumes.
    pub volumes: Vec<String>,
    /// The image's labels.
    pub labels: std::collections::BTreeMap<String, String>,
}

/// What a writable layer uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LayerUsage {
    /// Bytes on disk.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
    /// When that was measured, in nanoseconds since the epoch.
    pub at: i64,
}

/// What goes wrong with root filesystems.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RootfsError {
    /// The image is not on this node.
    #[error("image \"{image}\" does not exist")]
    NoImage {
        /// The reference that was asked for.
        image: String,
    },
    /// What was asked for is no reference to an image.
    #[error("\"{image}\" is not an image reference")]
    BadReference {
        /// What was asked for.
        image: String,
        /// What is wrong with it.
        #[source]
        cause: Cause,
    },
    /// The filesystem is full.
    #[error("the filesystem of writable layers is full")]
    Full(#[source] Cause),
    /// An image has nothing at the path that was asked for.
    #[error("the path cannot be found in the image")]
    NoPath(#[source] Cause),
    /// Anything else.
    #[error("the root filesystem failed")]
    Failed(#[source] Cause),
}
