//! An image that changes: one version after another is pulled, and the one before it removed.

use std::sync::Arc;

use k8s_cri::v1::{ListImagesRequest, RemoveImageRequest};
use tonic::Status;

use super::{PULLS, every};
use crate::Client;
use crate::client::image_spec;
use crate::soak::latencies::Call;
use crate::soak::place::Place;
use crate::soak::plan::IMAGES;

pub(super) async fn change(place: Arc<Place>) {
    let client = place.client();
    let mut ticks = every(PULLS);
    let mut number = 0;
    while !place.is_over() {
        ticks.tick().await;
        number += 1;
        let (next, last) = (version(&place, number), version(&place, number - 1));
        let pulled = place.clock.timed(Call::Pull, place.insist(|| client.pull(&next))).await;
        let changed = match pulled {
            Ok(_) => place.insist(|| replaced(&client, &last, &next)).await,
            Err(status) => Err(status),
        };
        if let Err(status) = changed {
            place.complain(format!("the changing image {next}: {status}"));
        }
    }
    let last = version(&place, number);
    if let Err(status) = place.insist(|| remove(&client, &last)).await {
        place.complain(format!("removing {last}: {status}"));
    }
}

/// Removes one and looks whether the other is there.
async fn replaced(client: &Client, last: &str, next: &str) -> Result<(), Status> {
    remove(client, last).await?;
    let listed = client.images.clone().list_images(ListImagesRequest::default()).await?.into_inner().images;
    let has = |reference: &str| listed.iter().any(|image| image.repo_tags.iter().any(|tag| tag == reference));
    if has(next) && !has(last) { Ok(()) } else { Err(Status::data_loss(format!("listed: {listed:?}"))) }
}

async fn remove(client: &Client, reference: &str) -> Result<(), Status> {
    let request = RemoveImageRequest { image: Some(image_spec(reference)) };
    client.images.clone().remove_image(request).await.map(drop)
}

fn version(place: &Place, number: usize) -> String {
    format!("{}/changing:v{}", place.registry, number % IMAGES)
}
