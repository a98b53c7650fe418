//! Images at hand: each method parses its request, calls the image service, converts the answer. What uses an image, the pods know.

use std::path::Path;

use image_service::{LoadRequest, PruneRequest, PullRequest};
use sandbox::{ContainerFilter, Pods};
use tonic::{Request, Response, Status, Streaming};

use super::convert::Users;
use super::v1::images_server::Images;
use super::{bytes, convert, pulling, removal, v1};
use crate::runtime_service::stream::Streamed;
use crate::status::of_images;

/// The service.
#[derive(Clone)]
pub(crate) struct ImagesAtHand {
    /// The domain.
    pub(crate) images: image_service::Images,
    /// Who has an image.
    pub(crate) pods: Pods,
}

type Answer<T> = Result<Response<T>, Status>;

impl ImagesAtHand {
    pub(super) fn users(&self) -> Users {
        let containers = self.pods.containers(&ContainerFilter::default());
        convert::users(&containers, |pod| self.pods.pod(pod).ok())
    }

    /// Removes images that nothing uses, if the disk is too full.
    ///
    /// # Errors
    /// The image service's.
    pub(crate) async fn collect_unused(&self) -> Result<(), image_service::Error> {
        self.images.collect_unused(self.users().images().collect()).await.map(drop)
    }
}

#[tonic::async_trait]
impl Images for ImagesAtHand {
    async fn list(&self, request: Request<v1::ListImagesRequest>) -> Answer<v1::ListImagesResponse> {
        let name = Some(request.into_inner().image).filter(|name| !name.is_empty());
        let (disk, users) = (self.images.disk(), self.users());
        let shown = |image| convert::image(image, disk.get(&image.id).copied().unwrap_or_default(), &users);
        let found = match name {
            Some(name) => self.images.status(&name).map_err(|error| of_images(&error))?.into_iter().collect(),
            None => self.images.list(None),
        };
        let images = found.iter().map(|image| shown(image)).collect();
        Ok(Response::new(v1::ListImagesResponse { images }))
    }

    async fn inspect(&self, request: Request<v1::InspectImageRequest>) -> Answer<v1::InspectImageResponse> {
        let name = request.into_inner().image;
        let inspection = self.images.inspect(&name).await.map_err(|error| of_images(&error))?;
        let disk = self.images.disk().get(&inspection.image.id).copied().unwrap_or_default();
        let image = convert::image(&inspection.image, disk, &self.users());
        Ok(Response::new(convert::inspection(image, inspection)))
    }

    type PullStream = Streamed<v1::PullImageEvent>;

    async fn pull(&self, request: Request<v1::PullImageRequest>) -> Answer<Self::PullStream> {
        let v1::PullImageRequest { image, username, password } = request.into_inner();
        let credentials = convert::credentials(username, password);
        let wanted = PullRequest { reference: image, credentials };
        let watch = self.images.watch_pull(wanted).map_err(|error| of_images(&error))?;
        Ok(Response::new(pulling::events(watch)))
    }

    async fn remove(&self, request: Request<v1::RemoveImageRequest>) -> Answer<v1::RemoveImageResponse> {
        let v1::RemoveImageRequest { images, force } = request.into_inner();
        let mut removals = Vec::with_capacity(images.len());
        for asked in images {
            removals.push(removal::remove(self, asked, force).await);
        }
        Ok(Response::new(v1::RemoveImageResponse { removals }))
    }

    async fn prune(&self, request: Request<v1::PruneImagesRequest>) -> Answer<v1::PruneImagesResponse> {
        let v1::PruneImagesRequest { all, dry_run } = request.into_inner();
        let users = self.users();
        let in_use = users.images().collect();
        let (request, disk) = (PruneRequest { all, dry_run, in_use }, self.images.disk());
        let pruned = self.images.prune(request).await.map_err(|error| of_images(&error))?;
        let shown = |image| convert::image(image, disk.get(&image.id).copied().unwrap_or_default(), &users);
        let images = pruned.images.iter().map(|image| shown(image)).collect();
        Ok(Response::new(v1::PruneImagesResponse { images, freed_bytes: pruned.freed_bytes }))
    }

    async fn check(&self, request: Request<v1::CheckImageRequest>) -> Answer<v1::CheckImageResponse> {
        let checked =
            self.images.check(&request.into_inner().image).await.map_err(|error| of_images(&error))?;
        Ok(Response::new(convert::checked(checked)))
    }

    type SaveStream = Streamed<v1::Bytes>;

    async fn save(&self, request: Request<v1::SaveImagesRequest>) -> Answer<Self::SaveStream> {
        let wanted = convert::save(request.into_inner())?;
        let images = self.images.clone();
        let archive = bytes::outgoing(|out| async move {
            images.save(wanted, Box::new(out)).await.map_err(|error| of_images(&error))
        });
        Ok(Response::new(archive))
    }

    async fn load(
        &self,
        request: Request<Streaming<v1::LoadImagesRequest>>,
    ) -> Answer<v1::LoadImagesResponse> {
        let mut messages = request.into_inner();
        let first = messages.message().await?.unwrap_or_default();
        let name = Some(first.name.clone()).filter(|name| !name.is_empty());
        let (feed, archive) = bytes::incoming();
        let load = self.images.load(LoadRequest { name }, Box::new(archive));
        tokio::pin!(load);
        // Refused early, the archive needn't come to its end.
        let loaded = tokio::select! {
            loaded = &mut load => loaded,
            () = feed.forward(first, messages) => load.await,
        };
        let images = loaded.map_err(|error| of_images(&error))?.into_iter().map(convert::loaded).collect();
        Ok(Response::new(v1::LoadImagesResponse { images }))
    }

    async fn mount(&self, request: Request<v1::MountImageRequest>) -> Answer<v1::MountImageResponse> {
        let v1::MountImageRequest { image, target } = request.into_inner();
        self.images.mount(&image, Path::new(&target)).await.map_err(|error| of_images(&error))?;
        Ok(Response::new(v1::MountImageResponse {}))
    }

    async fn unmount(&self, request: Request<v1::UnmountImageRequest>) -> Answer<v1::UnmountImageResponse> {
        let target = request.into_inner().target;
        self.images.unmount(Path::new(&target)).await.map_err(|error| of_images(&error))?;
        Ok(Response::new(v1::UnmountImageResponse {}))
    }

    async fn list_mounts(&self, _: Request<v1::ListMountsRequest>) -> Answer<v1::ListMountsResponse> {
        let mounts = self.images.mounts().await.map_err(|error| of_images(&error))?;
        let shown = |mount: image_service::ImageMount| v1::ImageMount {
            image: mount.image.to_string(),
            target: mount.target.display().to_string(),
        };
        Ok(Response::new(v1::ListMountsResponse { mounts: mounts.into_iter().map(shown).collect() }))
    }
}
