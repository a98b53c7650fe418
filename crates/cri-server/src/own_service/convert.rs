//! Images, what uses them, and wishes for archives, between the image service's words and the protocol's.

use std::collections::HashMap;
use std::sync::Arc;

use image_service::layers::Condition;
use image_service::{
    ArchiveForm, Checked, Compression, Credentials, Digest, Image, ImageDisk, ImageId, Inspection,
    LayerInspection, LoadedImage, SaveRequest,
};
use sandbox::{ContainerStatus, PodStatus};
use tonic::Status;

use super::v1;

/// The containers that use each image.
#[derive(Debug, Default)]
pub(super) struct Users(HashMap<ImageId, Vec<v1::User>>);

impl Users {
    /// Those of one image.
    pub(super) fn of(&self, image: &ImageId) -> &[v1::User] {
        self.0.get(image).map(Vec::as_slice).unwrap_or_default()
    }

    /// All images that have any.
    pub(super) fn images(&self) -> impl Iterator<Item = ImageId> {
        self.0.keys().cloned()
    }
}

/// Who uses which image, as its root or as a volume.
pub(super) fn users(
    containers: &[Arc<ContainerStatus>],
    pod: impl Fn(&str) -> Option<Arc<PodStatus>>,
) -> Users {
    let mut users = Users::default();
    for container in containers {
        let pod = pod(container.pod.as_str()).map(|pod| pod.config.metadata.clone());
        let (pod, namespace) = pod.map(|pod| (pod.name, pod.namespace)).unwrap_or_default();
        let user = v1::User {
            container_id: container.id.to_string(),
            container: container.config.metadata.name.clone(),
            pod,
            namespace,
        };
        let mut images: Vec<ImageId> = std::iter::once(&container.image_id)
            .chain(container.image_volumes.values())
            .filter_map(|id| id.parse().ok())
            .collect();
        images.sort();
        images.dedup();
        for image in images {
            users.0.entry(image).or_default().push(user.clone());
        }
    }
    users
}

/// An image as answers show it.
pub(super) fn image(image: &Image, disk: ImageDisk, users: &Users) -> v1::Image {
    v1::Image {
        id: image.id.to_string(),
        tags: image.repo_tags.clone(),
        digests: image.repo_digests.clone(),
        size: image.size_bytes,
        disk_bytes: disk.bytes,
        unique_bytes: disk.unique_bytes,
        created: image.created.clone().unwrap_or_default(),
        architecture: image.architecture.clone(),
        pinned: image.pinned,
        users: users.of(&image.id).to_vec(),
    }
}

/// All there is to tell of an image.
pub(super) fn inspection(image: v1::Image, inspection: Inspection) -> v1::InspectImageResponse {
    let Inspection { config, manifest, layers, .. } = inspection;
    let manifest = manifest.map(|manifest| v1::Manifest {
        media_type: manifest.media_type,
        digest: manifest.digest.to_string(),
        text: manifest.text,
    });
    let layers = layers.into_iter().map(layer).collect();
    v1::InspectImageResponse { image: Some(image), config, manifest, layers }
}

fn layer(layer: LayerInspection) -> v1::Layer {
    let (blob, blob_bytes) = layer.blob.map(|(digest, size)| (digest.to_string(), size)).unwrap_or_default();
    v1::Layer {
        diff_id: layer.diff_id.to_string(),
        form: layer.form,
        disk_bytes: layer.disk.bytes,
        inodes: layer.disk.inodes,
        blob,
        blob_bytes,
        images: u32::try_from(layer.images).unwrap_or(u32::MAX),
        has_recipe: layer.has_recipe,
    }
}

/// What a check of an image found.
pub(super) fn checked(checked: Checked) -> v1::CheckImageResponse {
    let error = match &checked.repaired {
        Some(Err(error)) => crate::chain(&**error),
        Some(Ok(())) | None => String::new(),
    };
    let repaired = matches!(checked.repaired, Some(Ok(())));
    let layers = checked.layers.into_iter().map(checked_layer).collect();
    v1::CheckImageResponse { id: checked.id.to_string(), layers, repaired, error }
}

fn checked_layer((diff_id, condition): (Digest, Condition)) -> v1::CheckedLayer {
    let (condition, why) = match condition {
        Condition::Whole => (v1::Condition::Whole, String::new()),
        Condition::Damaged(why) => (v1::Condition::Damaged, why),
        Condition::Unknown => (v1::Condition::NotCompared, String::new()),
        Condition::Unseen(why) => (v1::Condition::Unseen, why),
    };
    v1::CheckedLayer { diff_id: diff_id.to_string(), condition: condition.into(), why }
}

/// Credentials of a pull, if any were given.
pub(super) fn credentials(username: String, password: String) -> Option<Credentials> {
    let given = !username.is_empty() || !password.is_empty();
    given.then(|| Credentials { username, password, ..Credentials::default() })
}

/// A wish for an archive.
///
/// # Errors
/// InvalidArgument for what a newer client may ask for.
pub(super) fn save(request: v1::SaveImagesRequest) -> Result<SaveRequest, Status> {
    let form = match request.form() {
        v1::ArchiveForm::Oci => ArchiveForm::Oci,
        v1::ArchiveForm::Docker => ArchiveForm::Docker,
    };
    let compression = match request.compression() {
        v1::Compression::None => Compression::None,
        v1::Compression::Gzip => Compression::Gzip,
        v1::Compression::Zstd => Compression::Zstd,
    };
    let is_known = v1::ArchiveForm::try_from(request.form).is_ok()
        && v1::Compression::try_from(request.compression).is_ok();
    match (is_known, request.images.is_empty()) {
        (true, false) => Ok(SaveRequest { images: request.images, form, compression }),
        (true, true) => Err(Status::invalid_argument("images: is empty")),
        (false, _) => {
            Err(Status::invalid_argument("form, compression: this daemon doesn't know what is asked for"))
        }
    }
}

/// An image that was loaded.
pub(super) fn loaded(image: LoadedImage) -> v1::LoadedImage {
    v1::LoadedImage { id: image.id.to_string(), names: image.names }
}
