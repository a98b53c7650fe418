//! `image-service` as the root filesystems that `sandbox` asks for.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use image_service::rootfs::IdMap;
use image_service::{ErrorKind, Images};
use sandbox::{
    ContainerId, ImageConfig, LayerUsage, MountFor, Prepared, RootFilesystems, RootfsError, UserMap,
};

/// Makes containers' roots from the node's images.
pub(crate) struct ImageRootfs(pub(crate) Images);

#[async_trait]
impl RootFilesystems for ImageRootfs {
    async fn prepare(
        &self,
        container: &ContainerId,
        image: &str,
        users: Option<UserMap>,
    ) -> Result<Prepared, RootfsError> {
        let info = self.0.prepare_rootfs(container.as_str(), image, users.map(ids)).await;
        info.map(prepared).map_err(|error| of_image(image, error))
    }

    async fn make(
        &self,
        container: &ContainerId,
        image: &str,
        to: MountFor,
    ) -> Result<(Prepared, OwnedFd), RootfsError> {
        let made = self.0.make_rootfs(container.as_str(), image, (to.users.map(ids), to.label)).await;
        made.map(|(info, root)| (prepared(info), root)).map_err(|error| of_image(image, error))
    }

    async fn mount(&self, container: &ContainerId, to: MountFor) -> Result<OwnedFd, RootfsError> {
        self.0.mount_rootfs(container.as_str(), to.users.map(ids), to.label).await.map_err(failure)
    }

    async fn try_mapping(&self, users: UserMap) -> Result<(), RootfsError> {
        self.0.try_mapping(ids(users)).await.map_err(failure)
    }

    async fn hold_images(
        &self,
        container: &ContainerId,
        images: &[String],
    ) -> Result<Vec<String>, RootfsError> {
        let ids = self.0.hold_images(container.as_str(), images).await.map_err(|error| match error {
            image_service::Error::ImageMissing { image } => RootfsError::NoImage { image },
            image_service::Error::BadReference { ref text, .. } => bad_reference(text.clone(), error),
            error => failure(error),
        })?;
        Ok(ids.iter().map(ToString::to_string).collect())
    }

    async fn mount_image(
        &self,
        container: &ContainerId,
        (image_id, path): (&str, &Path),
        to: MountFor,
    ) -> Result<OwnedFd, RootfsError> {
        let id = image_id.parse().map_err(failure)?;
        let mounted =
            self.0.mount_image(container.as_str(), (&id, path), (to.users.map(ids), to.label)).await;
        mounted.map_err(|error| match error {
            image_service::Error::ImagePath { .. } => RootfsError::NoPath(Arc::new(error)),
            error => failure(error),
        })
    }

    async fn make_volumes(
        &self,
        container: &ContainerId,
        paths: &[PathBuf],
    ) -> Result<Vec<PathBuf>, RootfsError> {
        self.0.make_volumes(container.as_str(), paths).await.map_err(failure)
    }

    async fn release(&self, container: &ContainerId) -> Result<(), RootfsError> {
        self.0.release_rootfs(container.as_str()).await.map_err(failure)
    }

    async fn retain(&self, known: &[ContainerId]) {
        let known: Vec<String> = known.iter().map(ToString::to_string).collect();
        if let Err(error) = self.0.retain_rootfs(&known).await {
            tracing::warn!("removing writable layers of unknown containers: {}", crate::chain(&error));
        }
    }

    async fn usage(&self, container: &ContainerId) -> Result<LayerUsage, RootfsError> {
        let usage = self.0.rootfs_usage(container.as_str()).await.map_err(failure)?;
        let at = crate::nanoseconds(usage.at);
        Ok(LayerUsage { bytes: usage.used_bytes, inodes: usage.inodes_used, at })
    }
}

fn prepared(info: image_service::RootfsInfo) -> Prepared {
    Prepared { image_id: info.image_id.to_string(), image_ref: info.image_ref, config: config(info.config) }
}

/// Of a root that is being made.
fn of_image(image: &str, error: image_service::Error) -> RootfsError {
    match error {
        image_service::Error::ImageMissing { .. } => RootfsError::NoImage { image: image.to_owned() },
        error @ image_service::Error::BadReference { .. } => bad_reference(image.to_owned(), error),
        error => failure(error),
    }
}

fn ids(users: UserMap) -> IdMap {
    IdMap::new(move |mount| users.map_ids(mount))
}

fn bad_reference(image: String, error: image_service::Error) -> RootfsError {
    RootfsError::BadReference { image, cause: Arc::new(error) }
}

/// Of a root that was prepared. That its image has vanished since then is not the request's doing.
fn failure(error: image_service::Error) -> RootfsError {
    match error.kind() {
        ErrorKind::NoSpace => RootfsError::Full(Arc::new(error)),
        _ => RootfsError::Failed(Arc::new(error)),
    }
}

fn config(config: image_service::ImageConfig) -> ImageConfig {
    let image_service::ImageConfig { user, env, entrypoint, cmd, working_dir, stop_signal, volumes, labels } =
        config;
    ImageConfig { user, env, entrypoint, cmd, working_dir, stop_signal, volumes, labels }
}
