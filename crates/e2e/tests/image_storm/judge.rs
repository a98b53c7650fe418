//! What has to be so while a storm rages and after it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use e2e::{Node, cri, leaks, node, until};

use crate::place::{IMAGES, Place, STUCK, files};

pub struct Judge {
    place: Arc<Place>,
    /// A container of the first image, which nobody removes.
    witness: String,
    /// Descriptors of a daemon that has done something already.
    descriptors: usize,
}

impl Judge {
    pub async fn new(node: &Node, place: &Arc<Place>) -> Self {
        let client = node.client();
        client.pull(&place.reference(0)).await.unwrap();
        let wanted =
            e2e::config::container("witness", &place.reference(0), &["/bin/busybox", "sleep", "100000"]);
        let witness = client.create(&place.pod, wanted, &place.sandbox).await.unwrap();
        client.start(&witness).await.unwrap();
        Self { place: Arc::clone(place), witness, descriptors: leaks::descriptors(node.pid()) }
    }

    /// The image that nobody removes is there, and its container runs and sees it.
    pub async fn keeps_what_was_there(&self) {
        let client = self.place.client();
        let image = Some(e2e::client::image_spec(&self.place.reference(0)));
        let request = cri::ImageStatusRequest { image, verbose: false };
        let status = client.images.clone().image_status(request).await.unwrap().into_inner();
        assert!(status.image.is_some(), "an image is lost");
        let command = ["/bin/busybox", "sha256sum", "-c", "/sums"];
        let seen = client.exec(&self.witness, &command, 30).await.unwrap();
        assert_eq!(seen.exit_code, 0, "{seen:?}");
    }

    /// Every image can be pulled, and each that is listed runs.
    pub async fn all_are_good(&self) {
        let client = self.place.client();
        let listed = ids(self.place.client()).await;
        for (at, id) in listed.iter().enumerate() {
            self.place.looked_at(id, &format!("listed-{at}")).await.unwrap();
        }
        for number in 0..IMAGES {
            let reference = self.place.reference(number);
            client.pull(&reference).await.unwrap();
            self.place.looked_at(&reference, &format!("judged-{number}")).await.unwrap();
        }
        self.keeps_what_was_there().await;
    }

    /// Containers whose worker was told of no end, because the daemon was killed, are there like others.
    pub async fn containers_can_be_removed(&self) {
        let client = self.place.client();
        for container in client.containers().await.unwrap() {
            if container.id != self.witness {
                client.remove(&container.id).await.unwrap();
            }
        }
    }

    /// The store has images and nothing else, and the daemon holds nothing beyond them.
    pub async fn nothing_is_left_beside_images(&self, node: &Node) {
        let mounted = self.place.knarr(&["image", "mount", "--json"], STUCK).await.unwrap();
        assert_eq!(mounted.trim(), "[]", "nothing is mounted any more");
        until(node::PATIENCE, "a store of images alone", || async {
            let below = |name: &str| files(&node.path("root/images").join(name));
            let left: Vec<PathBuf> =
                ["ingest", "trash", "damaged", "mounts"].iter().flat_map(|name| below(name)).collect();
            if left.is_empty() { Ok(()) } else { Err(left) }
        })
        .await;
        until(node::PATIENCE, "no loop device and no descriptor more", || async {
            let (loops, open) = (loop_devices(&node.path("")), leaks::descriptors(node.pid()));
            // A layer in use is a descriptor; those of the last container may still be held.
            if loops.is_empty() && open <= self.descriptors + 64 { Ok(()) } else { Err((loops, open)) }
        })
        .await;
    }

    /// Images go when they are removed, with all they have.
    pub async fn all_can_be_removed(&self, node: &Node) {
        let client = self.place.client();
        client.remove(&self.witness).await.unwrap();
        for id in ids(self.place.client()).await {
            self.place.knarr(&["image", "rm", &id], STUCK).await.unwrap();
        }
        assert!(ids(client).await.is_empty());
        until(node::PATIENCE, "an empty store", || async {
            let left: Vec<PathBuf> = files(&node.path("root/images"))
                .into_iter()
                .filter(|path| !is_of_an_empty_store(path))
                .collect();
            if left.is_empty() { Ok(()) } else { Err(left) }
        })
        .await;
    }
}

fn is_of_an_empty_store(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "references.json" || name == "check.json")
}

async fn ids(client: e2e::Client) -> Vec<String> {
    let request = cri::ListImagesRequest { filter: None };
    let listed = client.images.clone().list_images(request).await.unwrap().into_inner().images;
    listed.into_iter().map(|image| image.id).collect()
}

/// Loop devices of files below a directory.
fn loop_devices(directory: &Path) -> Vec<String> {
    let devices = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let files =
        devices.filter_map(|device| std::fs::read_to_string(device.path().join("loop/backing_file")).ok());
    files.filter(|file| Path::new(file.trim()).starts_with(directory)).collect()
}
