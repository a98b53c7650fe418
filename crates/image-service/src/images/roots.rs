//! Calls about root filesystems of containers and what is mounted in them. Failures that damage may be the reason for are told to
//! those who care.
//!
//! Not here: how any of it is mounted (`rootfs`).

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Images;
use crate::blocking::blocking;
use crate::digest::Digest;
use crate::error::Error;
use crate::image::{Image, ImageId, RootfsInfo};
use crate::rootfs::{IdMap, MountAs, RootFilesystems};

impl Images {
    /// Readies a container's writable layer above an image. Idempotent.
    ///
    /// Safe to cancel: it goes on to the end.
    ///
    /// # Errors
    /// [`Error::ImageMissing`], [`Error::RootfsExists`], [`Error::NoSpace`], [`Error::Store`]; [`Error::RootfsMount`]
    /// when ids can't be mapped.
    pub async fn prepare_rootfs(
        &self,
        container: &str,
        image: &str,
        ids: Option<IdMap>,
    ) -> Result<RootfsInfo, Error> {
        self.ready_and(container, image, move |rootfs, container, layers| {
            rootfs.prepare_as(container, layers, ids.as_ref())
        })
        .await
        .map(|(info, ())| info)
    }

    /// Does as [`prepare_rootfs`](Self::prepare_rootfs) and [`mount_rootfs`](Self::mount_rootfs), on one way to a thread that may block:
    /// a container's start waits for each of them.
    ///
    /// Safe to cancel: it goes on to the end.
    ///
    /// # Errors
    /// As for both.
    pub async fn make_rootfs(
        &self,
        container: &str,
        image: &str,
        (ids, label): (Option<IdMap>, Option<String>),
    ) -> Result<(RootfsInfo, OwnedFd), Error> {
        self.ready_and(container, image, move |rootfs, container, layers| {
            rootfs.prepare_as(container, layers, ids.as_ref())?;
            rootfs.mount_as(container, &MountAs { ids: ids.as_ref(), label: label.as_deref() })
        })
        .await
    }

    /// Does something for a container with the layers of an image, which counts as its use.
    async fn ready_and<T: Send + 'static>(
        &self,
        container: &str,
        image: &str,
        work: impl FnOnce(&RootFilesystems, &str, &[Digest]) -> Result<T, Error> + Send + 'static,
    ) -> Result<(RootfsInfo, T), Error> {
        let found = self.status(image)?.ok_or_else(|| Error::ImageMissing { image: image.to_owned() })?;
        let info = RootfsInfo {
            image_id: found.id.clone(),
            image_ref: found.reference(),
            config: found.config.clone(),
        };
        let (inner, container, image) = (Arc::clone(&self.inner), container.to_owned(), Arc::clone(&found));
        let work = move || {
            inner.catalog.used(&image.id);
            work(&inner.rootfs, &container, &image.layers)
        };
        let done = blocking("preparing a root filesystem", work).await;
        self.heard(About::Image(&found), done).map(|done| (info, done))
    }

    /// A detached mount of a prepared root, writable, whose files have the SELinux context `label`. Each call gives a mount of its own.
    ///
    /// Safe to cancel.
    ///
    /// # Errors
    /// [`Error::RootfsMissing`], [`Error::LayerMissing`], [`Error::RootfsMount`].
    pub async fn mount_rootfs(
        &self,
        container: &str,
        ids: Option<IdMap>,
        label: Option<String>,
    ) -> Result<OwnedFd, Error> {
        let (rootfs, id) = (self.inner.rootfs.clone(), container.to_owned());
        let mount = move || rootfs.mount_as(&id, &MountAs { ids: ids.as_ref(), label: label.as_deref() });
        self.heard(About::Container(container), blocking("mounting a root filesystem", mount).await)
    }

    /// Tries out whether root filesystems can have their ids mapped here.
    ///
    /// Safe to cancel.
    ///
    /// # Errors
    /// [`Error::RootfsMount`] says what can't be done; [`Error::Store`].
    pub async fn try_mapping(&self, ids: IdMap) -> Result<(), Error> {
        let rootfs = self.inner.rootfs.clone();
        blocking("trying to map ids", move || rootfs.try_mapping(&ids)).await
    }

    /// Keeps images for a container with a prepared root, so that they can be mounted as its volumes: their layers stay
    /// until its root is released. The answer has the id of each.
    ///
    /// Safe to cancel: it goes on to the end.
    ///
    /// # Errors
    /// [`Error::ImageMissing`], [`Error::RootfsMissing`], [`Error::LayerMissing`], [`Error::NoSpace`], [`Error::Store`].
    pub async fn hold_images(&self, container: &str, images: &[String]) -> Result<Vec<ImageId>, Error> {
        let found = |image: &String| {
            self.status(image)?.ok_or_else(|| Error::ImageMissing { image: image.to_owned() })
        };
        let found: Vec<Arc<Image>> = images.iter().map(found).collect::<Result<_, _>>()?;
        let ids: Vec<ImageId> = found.iter().map(|image| image.id.clone()).collect();
        let mut held: Vec<(ImageId, Vec<Digest>)> = Vec::new();
        for image in found {
            if !held.iter().any(|(id, _)| *id == image.id) {
                held.push((image.id.clone(), image.layers.clone()));
            }
        }
        let (inner, id) = (Arc::clone(&self.inner), container.to_owned());
        let hold = move || {
            held.iter().for_each(|(image, _)| inner.catalog.used(image));
            inner.rootfs.hold_images(&id, &held)
        };
        let outcome = blocking("keeping the layers of image volumes", hold).await;
        self.heard(About::Container(container), outcome).map(|()| ids)
    }

    /// A detached, read-only mount of an image that is kept for a container, or of what is at a path of it, with the ids
    /// that `ids` maps.
    ///
    /// Safe to cancel.
    ///
    /// # Errors
    /// [`Error::ImagePath`], [`Error::ImageMissing`], [`Error::RootfsMissing`], [`Error::LayerMissing`],
    /// [`Error::RootfsMount`].
    pub async fn mount_image(
        &self,
        container: &str,
        (id, path): (&ImageId, &Path),
        (ids, label): (Option<IdMap>, Option<String>),
    ) -> Result<OwnedFd, Error> {
        let (rootfs, user) = (self.inner.rootfs.clone(), container.to_owned());
        let (id, path) = (id.clone(), path.to_owned());
        let mount = move || rootfs.mount_image(&user, (&id, &path), (ids.as_ref(), label.as_deref()));
        self.heard(About::Container(container), blocking("mounting an image", mount).await)
    }

    /// Makes a directory for each of these paths of a container with a prepared root, filled with what the image has
    /// there. They go with the root.
    ///
    /// Safe to cancel: it goes on to the end.
    ///
    /// # Errors
    /// [`Error::Volume`], [`Error::RootfsMissing`], [`Error::LayerMissing`], [`Error::RootfsMount`], [`Error::NoSpace`],
    /// [`Error::Store`].
    pub async fn make_volumes(&self, container: &str, paths: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
        let (rootfs, id) = (self.inner.rootfs.clone(), container.to_owned());
        let paths = paths.to_vec();
        let made = blocking("making volumes", move || rootfs.make_volumes(&id, &paths)).await;
        self.heard(About::Container(container), made)
    }

    /// The same outcome; a failure that damage may be the reason for has been told to those who care.
    fn heard<T>(&self, about: About<'_>, outcome: Result<T, Error>) -> Result<T, Error> {
        let layers = || match about {
            About::Image(image) => image.layers.clone(),
            About::Container(id) => self.inner.rootfs.layers_of(id),
        };
        outcome.inspect_err(|error| self.inner.care.hear(error, layers))
    }
}

/// What failed.
#[derive(Clone, Copy)]
enum About<'a> {
    /// Something with this image.
    Image(&'a Image),
    /// Something with this container.
    Container(&'a str),
}
