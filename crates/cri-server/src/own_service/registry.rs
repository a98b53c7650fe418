//! Registries: what a pull would do.

use image_service::PullRequest;
use tonic::{Request, Response, Status};

use super::v1;
use crate::status::of_images;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    /// The domain.
    pub(crate) images: image_service::Images,
}

#[tonic::async_trait]
impl v1::registry_server::Registry for Registry {
    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        let wanted = PullRequest { reference: request.into_inner().image, credentials: None };
        let explanation = self.images.explain(wanted).await.map_err(|error| of_images(&error))?;
        let json =
            serde_json::to_string(&explanation).map_err(|cause| Status::internal(cause.to_string()))?;
        Ok(Response::new(v1::ExplainResponse { json }))
    }
}
