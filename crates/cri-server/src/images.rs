//! ImageService: each method parses its request, calls the image service, converts the answer.

use std::collections::HashMap;

use image_service::PullRequest;
use proto::runtime::v1 as cri;
use proto::runtime::v1::image_service_server::ImageService;
use sandbox::Pods;
use tonic::{Request, Response, Status};

use crate::call_log;
use crate::convert::image;
use crate::runtime_service::stream::{self, Streamed};
use crate::status::{of_images, of_sandbox};

/// The service.
#[derive(Clone)]
pub(crate) struct Images {
    /// The domain.
    pub(crate) images: image_service::Images,
    /// Which runtime handlers there are.
    pub(crate) pods: Pods,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl ImageService for Images {
    async fn list_images(&self, request: Request<cri::ListImagesRequest>) -> Answer<cri::ListImagesResponse> {
        let images = self.list(request.into_inner().filter)?;
        Ok(Response::new(cri::ListImagesResponse { images }))
    }

    type StreamImagesStream = Streamed<cri::StreamImagesResponse>;

    async fn stream_images(
        &self,
        request: Request<cri::StreamImagesRequest>,
    ) -> Answer<Self::StreamImagesStream> {
        let items = self.list(request.into_inner().filter)?;
        Ok(stream::batches(items, |images| cri::StreamImagesResponse { images }))
    }

    async fn image_status(
        &self,
        request: Request<cri::ImageStatusRequest>,
    ) -> Answer<cri::ImageStatusResponse> {
        let request = request.into_inner();
        let name = image::name(request.image, &self.pods)?;
        call_log::about_image(&name);
        let Some(found) = self.images.status(&name).map_err(|error| of_images(&error))? else {
            return Ok(Response::new(cri::ImageStatusResponse::default()));
        };
        let info = if request.verbose { self.info(&found).await? } else { HashMap::new() };
        Ok(Response::new(cri::ImageStatusResponse { image: Some(image::shown(&found)), info }))
    }

    async fn pull_image(&self, request: Request<cri::PullImageRequest>) -> Answer<cri::PullImageResponse> {
        let request = request.into_inner();
        let reference = image::name(request.image, &self.pods)?;
        call_log::about_image(&reference);
        let wanted = PullRequest { reference, credentials: request.auth.map(image::credentials) };
        let id = self.images.pull(wanted).await.map_err(|error| of_images(&error))?;
        Ok(Response::new(cri::PullImageResponse { image_ref: id.to_string() }))
    }

    async fn remove_image(
        &self,
        request: Request<cri::RemoveImageRequest>,
    ) -> Answer<cri::RemoveImageResponse> {
        let name = image::name(request.into_inner().image, &self.pods)?;
        call_log::about_image(&name);
        self.images.remove(&name).await.map_err(|error| of_images(&error))?;
        Ok(Response::new(cri::RemoveImageResponse {}))
    }

    async fn image_fs_info(&self, _: Request<cri::ImageFsInfoRequest>) -> Answer<cri::ImageFsInfoResponse> {
        let images = self.images.filesystem_usage().await.map_err(|error| of_images(&error))?;
        let containers = self.images.container_filesystem_usage().await.map_err(|error| of_images(&error))?;
        Ok(Response::new(cri::ImageFsInfoResponse {
            image_filesystems: vec![image::filesystem(&images)],
            container_filesystems: vec![image::filesystem(&containers)],
        }))
    }
}

impl Images {
    fn list(&self, filter: Option<cri::ImageFilter>) -> Result<Vec<cri::Image>, Status> {
        let wanted = filter.and_then(|filter| filter.image).unwrap_or_default();
        let checked = self.pods.check_image_handler("filter.image", &wanted.runtime_handler);
        checked.map_err(|error| of_sandbox(&error))?;
        let name = Some(wanted.image).filter(|name| !name.is_empty());
        Ok(self.images.list(name.as_deref()).iter().map(|image| image::shown(image)).collect())
    }

    /// The image's own configuration under the keys that crictl prints.
    async fn info(&self, found: &image_service::Image) -> Result<HashMap<String, String>, Status> {
        let config = self.images.config_json(&found.id).await.map_err(|error| of_images(&error))?;
        let info = format!("{{\"imageSpec\":{config}}}");
        Ok(HashMap::from([("info".to_owned(), info)]))
    }
}
