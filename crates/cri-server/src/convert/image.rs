//! Images and credentials, both ways.

use image_service::{Credentials, FilesystemUsage, Image, ImageUser};
use proto::runtime::v1 as cri;
use sandbox::{Error, Pods};
use tonic::Status;

use crate::status::of_sandbox;

/// The name in a request.
///
/// # Errors
/// InvalidArgument where there is none, or a runtime handler that there isn't.
pub(crate) fn name(spec: Option<cri::ImageSpec>, pods: &Pods) -> Result<String, Status> {
    let spec = spec.unwrap_or_default();
    pods.check_image_handler("image", &spec.runtime_handler).map_err(|error| of_sandbox(&error))?;
    let name = Some(spec.image).filter(|name| !name.is_empty());
    name.ok_or_else(|| of_sandbox(&Error::refused("image.image", "is empty")))
}

/// Credentials of a pull.
pub(crate) fn credentials(auth: cri::AuthConfig) -> Credentials {
    Credentials {
        username: auth.username,
        password: auth.password,
        auth: auth.auth,
        server_address: auth.server_address,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
    }
}

/// An image as answers show it. Of no handler, and so are images of containers: kubelet takes an image for unused whose handler is not
/// that of the containers that use it.
pub(crate) fn shown(image: &Image) -> cri::Image {
    let (uid, username) = match &image.user {
        // An image that doesn't say runs as root; kubelet tells the two apart by the number.
        ImageUser::Unspecified => (Some(0), String::new()),
        ImageUser::Uid(uid) => (Some(*uid), String::new()),
        ImageUser::Name(name) => (None, name.clone()),
    };
    cri::Image {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size_bytes,
        uid: uid.map(|value| cri::Int64Value { value }),
        username,
        spec: Some(cri::ImageSpec { image: image.reference(), ..Default::default() }),
        pinned: image.pinned,
    }
}

/// Use of a filesystem.
pub(crate) fn filesystem(usage: &FilesystemUsage) -> cri::FilesystemUsage {
    cri::FilesystemUsage {
        timestamp: crate::nanoseconds(usage.at),
        fs_id: Some(cri::FilesystemIdentifier { mountpoint: usage.path.display().to_string() }),
        used_bytes: Some(cri::UInt64Value { value: usage.used_bytes }),
        inodes_used: Some(cri::UInt64Value { value: usage.inodes_used }),
    }
}
