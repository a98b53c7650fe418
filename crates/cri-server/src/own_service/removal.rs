//! Removing images as an operator means it: by a tag, the tag, as long as the image has others; else the image, unless something
//! needs it. One wish that fails doesn't keep the others from being fulfilled.

use image_service::{Error, Image};

use super::images::ImagesAtHand;
use super::v1;
use crate::chain;

/// Removes what is asked for; what becomes of it is data, not an error.
pub(super) async fn remove(service: &ImagesAtHand, asked: String, force: bool) -> v1::Removal {
    let removal = v1::Removal { asked, ..Default::default() };
    match attempt(service, &removal.asked, force).await {
        Ok(Gone::Name(untagged)) => v1::Removal { untagged, ..removal },
        Ok(Gone::Image(removed)) => v1::Removal { removed, ..removal },
        Err(error) => v1::Removal { error: chain(&error), ..removal },
    }
}

enum Gone {
    Name(String),
    Image(String),
}

async fn attempt(service: &ImagesAtHand, asked: &str, force: bool) -> Result<Gone, Error> {
    let missing = || Error::ImageMissing { image: asked.to_owned() };
    let image = service.images.kept(asked)?.ok_or_else(missing)?;
    if service.images.untag(asked).await? {
        return Ok(Gone::Name(asked.to_owned()));
    }
    if !force && let Some(reason) = needed(service, &image) {
        return Err(Error::ImageInUse { image: asked.to_owned(), reason });
    }
    service.images.remove(&image.id.to_string()).await?;
    Ok(Gone::Image(image.id.to_string()))
}

/// What an image is needed for.
fn needed(service: &ImagesAtHand, image: &Image) -> Option<String> {
    if image.pinned {
        return Some("it is pinned".to_owned());
    }
    let users = service.users();
    let user = users.of(&image.id).first()?;
    let v1::User { container, pod, namespace, .. } = user;
    Some(format!("container \"{container}\" of pod \"{namespace}/{pod}\" uses it"))
}
