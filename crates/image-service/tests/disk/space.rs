//! What images and containers take, against `du`.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use image_service::layers::{LayerForm, LayerSettings};
use image_service::{Config, FilesystemUsage, Images, PullRequest};
use rustix::fs::inotify;

use crate::breaking::{Breaking, Manner};
use crate::image::{Content, ImageBytes, LayerBytes};

/// Bytes and inodes of a tree, as `du` counts them.
fn du(path: &Path) -> (u64, u64) {
    let count = |how: &[&str]| -> u64 {
        let output = Command::new("du").arg("-s").args(how).arg(path).output().unwrap();
        String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap().parse().unwrap()
    };
    (count(&["--block-size=1"]), count(&["--inodes"]))
}

fn told(usage: &FilesystemUsage) -> (u64, u64) {
    (usage.used_bytes, usage.inodes_used)
}

/// Waits until both say the same: what was removed is being deleted.
async fn agrees(images: &Images, root: &Path, but: u64) {
    let begun = Instant::now();
    loop {
        let (before, told) = (du(&root.join("images")), told(&images.filesystem_usage().await.unwrap()));
        if before.0.abs_diff(told.0) <= but && before.1 == told.1 {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "du says {before:?}, we {told:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Two images with a layer in common, and a third of which not all comes.
async fn registry() -> Breaking {
    let mut content = Content::default();
    let base = LayerBytes::new("base", 1 << 20);
    for (name, own) in [("one", 700_000), ("two", 900_000), ("stuck", 6 << 20)] {
        let mut layers = vec![LayerBytes::new(name, own)];
        if name != "stuck" {
            layers.push(base.clone());
        }
        ImageBytes::new(layers).publish(&mut content, name, "1");
    }
    Breaking::start(content, Manner { gives: 5 << 20, ..Manner::default() }).await
}

async fn images_are_measured(form: LayerForm, but: u64) {
    let dir = tempfile::tempdir().unwrap();
    let registry = registry().await;
    let mut config = Config::new(dir.path().join("root"), dir.path().join("certs.d"));
    config.layers = LayerSettings { form, ..LayerSettings::default() };
    config.usage_age = Duration::ZERO;
    config.limits.spool_leaves = 0;
    let open = || Images::open(config.clone()).unwrap();
    let (root, mut images) = (config.root.clone(), open());
    let name = |name: &str| format!("{}/{name}:1", registry.address);
    let pull = |name: String| PullRequest { reference: name, credentials: None };
    agrees(&images, &root, 0).await;
    for image in ["one", "two"] {
        images.pull(pull(name(image))).await.unwrap();
        agrees(&images, &root, but).await;
    }
    drop(images);
    images = open();
    agrees(&images, &root, but).await;
    // A layer in the making, and what is kept of it.
    let mut watch = images.watch_pull(pull(name("stuck"))).unwrap();
    while watch.now().statistics.bytes_fetched < 3 << 20 {
        watch.changed().await.unwrap();
    }
    agrees(&images, &root, but).await;
    images.remove(&name("one")).await.unwrap();
    agrees(&images, &root, but).await;
    images.remove(&name("two")).await.unwrap();
    agrees(&images, &root, but).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_take_what_du_says() {
    images_are_measured(LayerForm::Auto, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_of_directories_take_what_du_says() {
    // Sizes of directories are counted as one block while unpacking.
    images_are_measured(LayerForm::Directory, 16 << 10).await;
}

/// How often the directory was opened since `watch` was looked at last.
fn opened(watch: &std::os::fd::OwnedFd) -> usize {
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(watch, &mut buffer);
    std::iter::from_fn(|| reader.next().ok().map(drop)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_take_what_du_says_and_are_walked_over_once() {
    let dir = tempfile::tempdir().unwrap();
    let registry = registry().await;
    let config = Config::new(dir.path().join("root"), dir.path().join("certs.d"));
    let images = Images::open(config.clone()).unwrap();
    let one = format!("{}/one:1", registry.address);
    images.pull(PullRequest { reference: one.clone(), credentials: None }).await.unwrap();
    let mut uppers = Vec::new();
    for container in ["a", "b"] {
        images.prepare_rootfs(container, &one, None).await.unwrap();
        let upper = config.root.join("containers").join(container).join("upper");
        std::fs::create_dir(upper.join("d")).unwrap();
        std::fs::write(upper.join("d/f"), vec![1; 300_000]).unwrap();
        std::fs::File::open(upper.join("d/f")).unwrap().sync_all().unwrap();
        uppers.push(upper);
    }
    let [a, b] = [&uppers[0], &uppers[1]].map(|upper| du(upper));
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&watch, &uppers[0], inotify::WatchFlags::OPEN | inotify::WatchFlags::ONLYDIR).unwrap();
    let of_a = images.rootfs_usage("a").await.unwrap();
    let all = images.container_filesystem_usage().await.unwrap();
    assert_eq!((told(&of_a), told(&all)), (a, (a.0 + b.0, a.1 + b.1)));
    assert_eq!(images.container_filesystem_usage().await.unwrap(), all);
    assert_eq!(images.rootfs_usage("a").await.unwrap(), of_a);
    // The directory itself and the one in it, once each.
    assert_eq!(opened(&watch), 2, "times that directories were opened");
    images.release_rootfs("a").await.unwrap();
    assert_eq!(told(&images.container_filesystem_usage().await.unwrap()), b);
    assert!(images.rootfs_usage("a").await.is_err());
}
