//! What a machine finds on its disk after a power cut, and what it must not find.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use image_service::{ImageId, Images, PullRequest};

use crate::store::{Mounted, Node, snapshot};
use crate::work::{Allowed, World, open, tags};

/// All nodes of an image.
pub(crate) type Tree = BTreeMap<Vec<u8>, Node>;

/// The files of an image as a container sees them.
pub(crate) async fn tree(images: &Images, id: &ImageId) -> Tree {
    images.prepare_rootfs("look", &id.to_string(), None).await.unwrap();
    let root = Mounted::from(images.mount_rootfs("look", None, None).await.unwrap());
    let tree = snapshot(&root.path());
    drop(root);
    images.release_rootfs("look").await.unwrap();
    tree
}

/// Opens the store in `root` after a cut and looks at all of it: first as it is, then as it is after everything has been
/// pulled again, lastly as it is when everything has been removed.
pub(crate) async fn examine(
    root: &Path,
    world: &World,
    (allowed, expected): (&[Allowed], &BTreeMap<ImageId, Tree>),
) {
    let images = open(root);
    nothing_unfinished(root);
    for (tag, allowed) in allowed.iter().enumerate() {
        let is = images.status(&world.name(tag)).unwrap().map(|image| image.id.clone());
        assert!(allowed.0.contains(&is), "tag {tag} is {is:?}, not one of {allowed:?}");
    }
    all_are_whole(&images, expected).await;
    for tag in tags() {
        let request = PullRequest { reference: world.name(tag), credentials: None };
        assert_eq!(images.pull(request).await.unwrap(), world.now(tag));
    }
    all_are_whole(&images, expected).await;
    images.retain_rootfs(&[]).await.unwrap();
    for image in images.list(None) {
        images.remove(&image.id.to_string()).await.unwrap();
    }
    let left: Vec<_> = std::fs::read_dir(root.join("root/images/layers/sha256")).unwrap().collect();
    assert!(left.is_empty(), "layers that nobody knows of: {left:?}");
}

async fn all_are_whole(images: &Images, expected: &BTreeMap<ImageId, Tree>) {
    for image in images.list(None) {
        let (found, expected) = (tree(images, &image.id).await, &expected[&image.id]);
        let differs = |path: &&Vec<u8>| found.get(*path) != expected.get(*path);
        let differing: Vec<_> = found.keys().chain(expected.keys()).filter(differs).collect();
        let names: Vec<_> = differing.iter().map(|path| String::from_utf8_lossy(path)).collect();
        assert!(names.is_empty(), "image {} is visible and damaged: {names:?}", image.id);
    }
}

/// Nothing that was being made is left in any place where it could be taken for something.
fn nothing_unfinished(root: &Path) {
    let names = |dir: &str| -> Vec<String> {
        let entries = std::fs::read_dir(root.join("root").join(dir)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    // Bytes of pulls that may go on.
    let ingest: Vec<String> = names("images/ingest").into_iter().filter(|name| name != "blobs").collect();
    assert!(ingest.is_empty(), "half-made layers: {ingest:?}");
    let catalog = [names("images/catalog"), names("images/catalog/images")].concat();
    let odd = |name: &&String| name.ends_with(".tmp") || name.ends_with(".broken");
    assert!(!catalog.iter().any(|name| odd(&name)), "in the catalogue: {catalog:?}");
    let containers = names("containers");
    assert!(!containers.iter().any(|name| name.starts_with(".new-")), "half-made containers: {containers:?}");
    let started = Instant::now();
    while !names("images/trash").is_empty() || !names("containers/.trash").is_empty() {
        assert!(started.elapsed() < Duration::from_secs(20), "the trash isn't emptied");
        std::thread::yield_now();
    }
}
