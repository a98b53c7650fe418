//! What the image service is made to do while its disk is recorded: pulls of tags that move, of images that share layers,
//! several at once; removals; containers that come and go; a restart in the middle of pulls.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use image_service::{Config, ImageId, Images, Limits, PullRequest};

use crate::archive::{Tar, dir, file, gzip, hard_link, item, symlink, zstd};
use crate::disk::{Disk, Random, Step};
use crate::image::{Content, ImageBytes, LayerBytes};
use crate::registry::Registry;

/// Tags, each with images of its own, so that removing one never takes another's name.
const TAGS: usize = 4;
/// Images that a tag means one after the other.
const VERSIONS: usize = 3;
/// Things done to each tag.
const ROUNDS: usize = 6;

/// Something done to a tag: nothing, or an image, is what it means afterwards.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    Began { tag: usize, becomes: Option<ImageId> },
    Succeeded { tag: usize, is: Option<ImageId> },
}

/// What a tag may mean after a cut.
#[derive(Debug, Clone, Default)]
pub(crate) struct Allowed(pub(crate) Vec<Option<ImageId>>);

/// For each tag, what it may mean when all of `log` has happened and nothing more: what the last call that succeeded made
/// of it, or what a call that hasn't succeeded is making of it.
pub(crate) fn allowed(log: &[Step]) -> Vec<Allowed> {
    let mut tags = vec![Allowed(vec![None]); TAGS];
    for step in log {
        match step {
            Step::Event(Event::Began { tag, becomes }) => tags[*tag].0.push(becomes.clone()),
            Step::Event(Event::Succeeded { tag, is }) => tags[*tag].0 = vec![is.clone()],
            Step::Write { .. } | Step::Flush => {}
        }
    }
    tags
}

/// Images and the registry that has them.
pub(crate) struct World {
    pub(crate) registry: Registry,
    /// Of each tag, the images that it means one after the other.
    pub(crate) images: Vec<Vec<ImageBytes>>,
    /// Which of them each means now.
    current: Arc<Vec<AtomicUsize>>,
}

impl World {
    pub(crate) async fn start() -> World {
        let shared: Vec<LayerBytes> = (0..3).map(|n| layer(&format!("shared{n}"), 60, n % 2 == 0)).collect();
        let image = |tag: usize, version: usize| {
            let own = layer(&format!("own{tag}-{version}"), 25, version.is_multiple_of(2));
            ImageBytes::new(vec![shared[0].clone(), shared[1 + (tag + version) % 2].clone(), own])
        };
        let images: Vec<Vec<ImageBytes>> =
            (0..TAGS).map(|tag| (0..VERSIONS).map(|version| image(tag, version)).collect()).collect();
        let current: Arc<Vec<AtomicUsize>> = Arc::new((0..TAGS).map(|_| AtomicUsize::new(0)).collect());
        let content = |version: usize| {
            let mut content = Content::default();
            for (tag, images) in images.iter().enumerate() {
                images.iter().for_each(|image| image.publish_untagged(&mut content, "app"));
                images[version].publish(&mut content, "app", &tag.to_string());
            }
            content
        };
        let contents: Vec<Content> = (0..VERSIONS).map(content).collect();
        let versions = Arc::clone(&current);
        let registry = Registry::start(move |request| {
            let tag =
                request.path.strip_prefix("/v2/app/manifests/").and_then(|tag| tag.parse::<usize>().ok());
            let version = tag.map_or(0, |tag| versions[tag].load(Ordering::Relaxed));
            contents[version].reply(request)
        })
        .await;
        World { registry, images, current }
    }

    pub(crate) fn name(&self, tag: usize) -> String {
        format!("{}/app:{tag}", self.registry.host())
    }

    /// What each tag means now.
    pub(crate) fn now(&self, tag: usize) -> ImageId {
        self.images[tag][self.current[tag].load(Ordering::Relaxed)].id.clone()
    }
}

/// A layer of small files, one larger one, links, a whiteout and an opaque directory.
fn layer(name: &str, files: usize, zstd_compressed: bool) -> LayerBytes {
    let mut random = Random(name.bytes().fold(7, |seed, byte| seed * 131 + u64::from(byte)));
    let mut noise = |size: usize| -> Vec<u8> { (0..size).map(|_| random.below(256) as u8).collect() };
    let mut tar = Tar::new()
        .with(dir("d/"))
        .with(dir(&format!("d/{name}/")))
        .with(dir("d/opaque/"))
        .with(item("d/opaque/.wh..wh..opq", b'0'));
    for n in 0..files {
        let size = 1 + noise(2).into_iter().fold(0, |sum, byte| sum * 40 + usize::from(byte));
        tar.add(file(&format!("d/{name}/{n}"), noise(size)).mode(0o640).owner(n as u64, 7));
    }
    tar.add(file(&format!("d/opaque/{name}"), noise(300_000)));
    tar.add(symlink(&format!("d/{name}/link"), "../opaque"));
    tar.add(hard_link(&format!("d/{name}/hard"), &format!("d/{name}/0")));
    tar.add(file(&format!("d/{name}/attr"), "x").pax("SCHILY.xattr.user.name", name));
    tar.add(item("d/.wh.gone", b'0'));
    let plain = tar.bytes();
    let blob = if zstd_compressed { zstd(&plain) } else { gzip(&plain) };
    LayerBytes { diff_id: image_service::Digest::of(&plain), digest: image_service::Digest::of(&blob), blob }
}

/// The service on a mounted disk.
pub(crate) fn open(root: &Path) -> Images {
    let mut config = Config::new(root.join("root"), root.join("certs.d"));
    config.limits = Limits { backoff: Duration::from_millis(1), ..Limits::default() };
    Images::open(config).unwrap()
}

/// What one run of the service does: all tags at once, and at its end pulls that don't get to theirs. When each call began
/// and succeeded is put down in the disk's record.
pub(crate) async fn work(root: &Path, world: &Arc<World>, disk: &Arc<Disk>, seed: u64) {
    let images = open(root);
    let job =
        |tag: usize| Job { images: images.clone(), world: Arc::clone(world), disk: Arc::clone(disk), tag };
    let mut tasks = tokio::task::JoinSet::new();
    for tag in tags() {
        tasks.spawn(job(tag).run(Random(seed + tag as u64)));
    }
    let syncs = somebody_syncs(root);
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    syncs.abort();
    let mut last = tokio::task::JoinSet::new();
    for tag in tags() {
        let job = job(tag);
        job.move_tag(&mut Random(seed ^ tag as u64));
        last.spawn(async move { job.pull().await });
    }
    // With the first of them the service ends, whatever the others have come to.
    let _ = last.join_next().await;
    last.shutdown().await;
}

/// Another program of the machine, which lets half-made things reach the disk.
fn somebody_syncs(root: &Path) -> tokio::task::JoinHandle<()> {
    let dir = std::fs::File::open(root).unwrap();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(30)).await;
            rustix::fs::syncfs(&dir).unwrap();
        }
    })
}

/// What is done to one tag.
struct Job {
    images: Images,
    world: Arc<World>,
    disk: Arc<Disk>,
    tag: usize,
}

impl Job {
    async fn run(self, mut random: Random) {
        for _ in 0..ROUNDS {
            match random.below(6) {
                0 => self.remove().await,
                1 => self.container(&format!("c{}-{}", self.tag, random.below(1 << 30))).await,
                _ => {
                    self.move_tag(&mut random);
                    self.pull().await;
                }
            }
        }
    }

    fn move_tag(&self, random: &mut Random) {
        self.world.current[self.tag].store(random.below(VERSIONS), Ordering::Relaxed);
    }

    async fn pull(&self) {
        let becomes = Some(self.world.now(self.tag));
        self.disk.note(Event::Began { tag: self.tag, becomes });
        let request = PullRequest { reference: self.world.name(self.tag), credentials: None };
        let is = Some(self.images.pull(request).await.unwrap());
        self.disk.note(Event::Succeeded { tag: self.tag, is });
    }

    async fn remove(&self) {
        self.disk.note(Event::Began { tag: self.tag, becomes: None });
        self.images.remove(&self.world.name(self.tag)).await.unwrap();
        self.disk.note(Event::Succeeded { tag: self.tag, is: None });
    }

    async fn container(&self, container: &str) {
        let name = self.world.name(self.tag);
        if self.images.status(&name).unwrap().is_none() {
            return;
        }
        self.images.prepare_rootfs(container, &name, None).await.unwrap();
        let root =
            crate::store::Mounted::from(self.images.mount_rootfs(container, None, None).await.unwrap());
        std::fs::write(root.at("written"), "x").unwrap();
        drop(root);
        if container.len().is_multiple_of(2) {
            self.images.release_rootfs(container).await.unwrap();
        }
    }
}

/// What each image looks like, from a store whose power is never cut.
pub(crate) async fn expected(root: &Path, world: &World) -> BTreeMap<ImageId, crate::examine::Tree> {
    let images = open(root);
    let mut trees = BTreeMap::new();
    for (tag, version) in (0..TAGS).flat_map(|tag| (0..VERSIONS).map(move |version| (tag, version))) {
        world.current[tag].store(version, Ordering::Relaxed);
        let request = PullRequest { reference: world.name(tag), credentials: None };
        let id = images.pull(request).await.unwrap();
        trees.insert(id.clone(), crate::examine::tree(&images, &id).await);
    }
    world.current.iter().for_each(|current| current.store(0, Ordering::Relaxed));
    trees
}

/// The tags that there are.
pub(crate) fn tags() -> std::ops::Range<usize> {
    0..TAGS
}
