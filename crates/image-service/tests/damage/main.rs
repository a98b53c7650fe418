//! Layers that are damaged or lost: found, set aside, fetched again, and nothing else touched. Needs root.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test fails by panicking")]

#[path = "../layers/archive.rs"]
#[allow(dead_code, reason = "shared with the tests of layers")]
mod archive;
#[path = "../pulls/image.rs"]
#[allow(dead_code, reason = "shared with the tests of pulls")]
mod image;
#[path = "../pulls/registry.rs"]
#[allow(dead_code, reason = "shared with the tests of pulls")]
mod registry;

mod repair;

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use image::{Content, ImageBytes, LayerBytes};
use image_service::layers::LayerForm;
use image_service::{CareSettings, Config, Digest, Error, Images, Limits, PullRequest};
use registry::{Registry, Reply};

/// Bytes of each layer's only file.
const SIZE: usize = 3_000_000;

/// Two images that share their lowest layer, and a registry that has them unless it is told to be away.
struct World {
    dir: tempfile::TempDir,
    registry: Registry,
    away: Arc<AtomicBool>,
    images: [ImageBytes; 2],
    service: Images,
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: needs root");
    }
    root
}

impl World {
    /// Both images pulled; cared for only when asked.
    async fn new() -> World {
        World::in_form(LayerForm::Auto).await
    }

    /// Both images pulled, their layers kept in this form; cared for only when asked.
    async fn in_form(form: LayerForm) -> World {
        let world = World::with((form, CareSettings { period: None, ..CareSettings::default() })).await;
        for name in ["a", "b"] {
            world.pull(name).await.unwrap();
        }
        world
    }

    async fn with((form, care): (LayerForm, CareSettings)) -> World {
        let layers = ["shared", "own-a", "own-b"].map(|name| LayerBytes::new(name, SIZE));
        let image = |own: usize| ImageBytes::new(vec![layers[0].clone(), layers[own].clone()]);
        let images = [image(1), image(2)];
        let mut content = Content::default();
        images[0].publish(&mut content, "a", "1");
        images[1].publish(&mut content, "b", "1");
        let away = Arc::new(AtomicBool::new(false));
        let is_away = Arc::clone(&away);
        let registry = Registry::start(move |request| match is_away.load(Ordering::Relaxed) {
            true => Reply::status(404),
            false => content.reply(request),
        })
        .await;
        let dir = tempfile::tempdir().unwrap();
        let service = open(&dir, (form, care));
        World { dir, registry, away, images, service }
    }

    /// The service after a restart.
    fn reopened(self, care: CareSettings) -> World {
        let World { dir, registry, away, images, service } = self;
        drop(service);
        let service = open(&dir, (LayerForm::Auto, care));
        World { dir, registry, away, images, service }
    }

    fn name(&self, image: &str) -> String {
        format!("{}/{image}:1", self.registry.host())
    }

    async fn pull(&self, image: &str) -> Result<Digest, Error> {
        self.service.pull(PullRequest { reference: self.name(image), credentials: None }).await
    }

    fn has(&self, image: &str) -> bool {
        self.service.status(&self.name(image)).unwrap().is_some()
    }

    /// The layer's directory in the store.
    fn layer(&self, layer: &LayerBytes) -> PathBuf {
        self.dir.path().join("root/images/layers/sha256").join(layer.diff_id.hex())
    }

    /// Changes one bit of the layer's file where it lies.
    fn damage(&self, layer: &LayerBytes) {
        let dir = self.layer(layer);
        let file = [dir.join("layer.erofs"), dir.join("fs").join(name_of(layer))];
        let file = file.into_iter().find(|file| file.exists()).unwrap();
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[SIZE / 2] ^= 4;
        // In place: another file would not be seen by those who have this one open.
        std::os::unix::fs::FileExt::write_all_at(
            &std::fs::File::options().write(true).open(&file).unwrap(),
            &bytes,
            0,
        )
        .unwrap();
    }

    /// How often the layer was asked for.
    fn fetched(&self, layer: &LayerBytes) -> usize {
        self.registry.requests_for(layer.digest.hex()).len()
    }

    async fn mount(&self, container: &str) -> Result<Mounted, Error> {
        self.service.mount_rootfs(container, None, None).await.map(Mounted)
    }

    /// Mounts an image for a new container and compares its files with what they should be.
    async fn is_good(&self, image: usize, container: &str) {
        let name = self.name(["a", "b"][image]);
        self.service.prepare_rootfs(container, &name, None).await.unwrap();
        let root = self.mount(container).await.unwrap();
        for layer in &self.images[image].layers {
            assert_eq!(root.read(&name_of(layer)), image::noise(&name_of(layer), SIZE));
        }
    }
}

/// Name of a layer's only file.
fn name_of(layer: &LayerBytes) -> String {
    let mut names = ["shared", "own-a", "own-b"].into_iter();
    names.find(|name| LayerBytes::new(name, SIZE).digest == layer.digest).unwrap().to_owned()
}

struct Mounted(OwnedFd);

impl Mounted {
    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd())).unwrap()
    }
}

fn open(dir: &tempfile::TempDir, (form, care): (LayerForm, CareSettings)) -> Images {
    let mut config = Config::new(dir.path().join("root"), dir.path().join("certs.d"));
    config.limits = Limits { backoff: Duration::from_millis(1), ..Limits::default() };
    (config.layers.form, config.care) = (form, care);
    Images::open(config).unwrap()
}

/// Waits for something that is done behind one's back.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
