//! Sizes of images that share layers, what nobody needs, and images mounted on the node.

use std::path::Path;

use image_service::{Error, ErrorKind, ImageId, PruneRequest};

use crate::needs_root;
use crate::packed::{docker, image};
use crate::store::Store;

async fn load(store: &Store, content: &str, names: &[&str]) -> ImageId {
    store.load(docker(&image(content), names)).await.unwrap()[0].id.clone()
}

#[tokio::test]
async fn shared_layers_count_once() {
    needs_root!();
    let store = Store::new();
    let one = load(&store, "one", &["r.example/one:1"]).await;
    let alone = store.images.disk()[&one];
    assert_eq!(alone.unique_bytes, alone.bytes);
    assert!(alone.bytes > 300_000, "{alone:?}");
    let two = load(&store, "two", &["r.example/two:1"]).await;
    let disk = store.images.disk();
    assert_eq!((disk[&one].bytes, disk[&two].bytes), (alone.bytes, alone.bytes));
    assert!(disk[&one].unique_bytes < 100_000, "{disk:?}");
    let inspection = store.images.inspect("r.example/one:1").await.unwrap();
    let shared: Vec<usize> = inspection.layers.iter().map(|layer| layer.images).collect();
    assert_eq!(shared, [2, 1]);
    assert!(inspection.layers.iter().all(|layer| layer.has_recipe && layer.blob.is_none()));
    assert!(inspection.manifest.is_none(), "such archives have none");
}

#[tokio::test]
async fn what_nobody_needs_is_removed_and_nothing_else() {
    needs_root!();
    let store = Store::new();
    let used = load(&store, "used", &[]).await;
    let mounted = load(&store, "mounted", &[]).await;
    let tagged = load(&store, "tagged", &["r.example/tagged:1"]).await;
    let nameless = load(&store, "nameless", &[]).await;
    let target = store.path("target");
    std::fs::create_dir(&target).unwrap();
    store.images.mount(&mounted.to_string(), &target).await.unwrap();
    let request = |all, dry_run| PruneRequest { all, dry_run, in_use: [used.clone()].into() };
    let told = store.images.prune(request(false, true)).await.unwrap();
    assert_eq!(told.images.iter().map(|image| &image.id).collect::<Vec<_>>(), [&nameless]);
    assert_eq!(store.images.list(None).len(), 4);
    let done = store.images.prune(request(false, false)).await.unwrap();
    assert_eq!((done.images.len(), done.freed_bytes), (1, told.freed_bytes));
    assert!(told.freed_bytes > 0 && told.freed_bytes < 300_000, "the lower layer is needed: {told:?}");
    let done = store.images.prune(request(true, false)).await.unwrap();
    assert_eq!(done.images[0].id, tagged);
    store.images.unmount(&target).await.unwrap();
    let done = store.images.prune(PruneRequest { all: true, ..PruneRequest::default() }).await.unwrap();
    assert_eq!(done.images.len(), 2);
    assert!(done.freed_bytes > 300_000 && store.layers() == 0, "{done:?}");
}

/// What isn't listed, for it has lost a layer and nobody can fetch it, can be removed all the same.
#[tokio::test]
async fn an_image_that_lost_a_layer_can_be_removed() {
    needs_root!();
    let lossy = async || {
        let store = Store::new();
        load(&store, "lost", &["r.example/lost:1"]).await;
        store.lose(&image("lost").layers[1]);
        let store = store.reopen();
        assert!(store.images.status("r.example/lost:1").unwrap().is_none());
        assert_eq!((store.images.list(None).len(), store.layers()), (0, 1));
        store
    };
    let store = lossy().await;
    let pruned = store.images.prune(PruneRequest::default()).await.unwrap();
    assert!(pruned.images.is_empty(), "it has a tag");
    let pruned = store.images.prune(PruneRequest { all: true, ..PruneRequest::default() }).await.unwrap();
    assert_eq!((pruned.images.len(), store.layers()), (1, 0));
    assert!(pruned.freed_bytes > 0);
    let store = lossy().await;
    store.images.remove("r.example/lost:1").await.unwrap();
    assert!(store.images.kept("r.example/lost:1").unwrap().is_none() && store.layers() == 0);
}

/// Unmounts what a failed test left.
struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[tokio::test]
async fn a_mounted_image_can_be_looked_into_and_keeps_its_layers() {
    needs_root!();
    let store = Store::new();
    load(&store, "looked into", &["r.example/app:1"]).await;
    let target = store.path("target");
    std::fs::create_dir(&target).unwrap();
    let _unmount = Unmount(&target);
    store.images.mount("r.example/app:1", &target).await.unwrap();
    let read = |name: &str| std::fs::read_to_string(target.join(name)).unwrap();
    assert_eq!(read("content"), "looked into");
    assert!(!target.join("gone").exists() && target.join("link").exists());
    let refused = std::fs::write(target.join("new"), "").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    store.images.remove("r.example/app:1").await.unwrap();
    assert_eq!((store.layers(), store.images.mounts().await.unwrap().len()), (2, 1));
    // Another daemon on the same directories, while the mount is there.
    let store = store.reopen();
    store.images.collect().await.unwrap();
    assert_eq!((store.layers(), read("content")), (2, "looked into".to_owned()));
    let mounts = store.images.mounts().await.unwrap();
    assert_eq!(mounts[0].target, target);
    let busy = std::fs::File::open(target.join("content")).unwrap();
    let error = store.images.unmount(&target).await.unwrap_err();
    assert!(matches!(error, Error::MountTarget { action: "unmount", .. }), "{error}");
    drop(busy);
    store.images.unmount(&target).await.unwrap();
    assert_eq!(std::fs::read_dir(&target).unwrap().count(), 0);
    assert!(std::fs::read_dir(store.path("root/images/mounts")).unwrap().next().is_none());
    store.images.collect().await.unwrap();
    assert_eq!(store.layers(), 0);
}

#[tokio::test]
async fn what_somebody_else_unmounted_is_let_go() {
    needs_root!();
    let store = Store::new();
    load(&store, "x", &["r.example/app:1"]).await;
    let target = store.path("target");
    std::fs::create_dir(&target).unwrap();
    store.images.mount("r.example/app:1", &target).await.unwrap();
    store.images.remove("r.example/app:1").await.unwrap();
    rustix::mount::unmount(&target, rustix::mount::UnmountFlags::empty()).unwrap();
    store.images.collect().await.unwrap();
    assert_eq!(store.layers(), 0);
    let error = store.images.unmount(&target).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    // Something else in its place is not taken for it.
    load(&store, "x", &["r.example/app:1"]).await;
    store.images.mount("r.example/app:1", &target).await.unwrap();
    rustix::mount::unmount(&target, rustix::mount::UnmountFlags::empty()).unwrap();
    let other = || rustix::mount::mount("none", &target, "tmpfs", rustix::mount::MountFlags::empty(), None);
    let _unmount = Unmount(&target);
    other().unwrap();
    std::fs::write(target.join("other"), "").unwrap();
    let error = store.images.unmount(&target).await.unwrap_err();
    assert!(error.kind() == ErrorKind::NotFound && target.join("other").exists(), "{error}");
    assert!(store.images.mounts().await.unwrap().is_empty());
    for target in [Path::new("relative"), &store.path("none")] {
        load(&store, "x", &["r.example/app:1"]).await;
        let error = store.images.mount("r.example/app:1", target).await.unwrap_err();
        assert!(matches!(error, Error::MountTarget { .. }), "{error}");
    }
    assert!(std::fs::read_dir(store.path("root/images/mounts")).unwrap().next().is_none());
}
