//! Downloads that break off: what is here isn't fetched again, within a pull, by the next one, and after a restart.

use std::path::PathBuf;
use std::time::Duration;

use image_service::{ErrorKind, Images, LayerState, Limits, PullRequest, PullStage};

use crate::breaking::{Breaking, Manner};
use crate::image::{Content, ImageBytes, LayerBytes};
use crate::{Service, config};

const MIB: usize = 1 << 20;
/// What may be lost of a layer that arrives when the daemon ends: what is in memory, a read buffer (408 KiB, hyper's largest) and four
/// chunks: one that is being filled, two on their way to the thread that keeps them, and one that it is just keeping.
const IN_MEMORY: u64 = (408 << 10) + 4 * (256 << 10);

fn image(sizes: &[usize]) -> (ImageBytes, Content) {
    let layers = sizes.iter().enumerate().map(|(n, size)| LayerBytes::new(&format!("l{n}"), *size));
    let image = ImageBytes::new(layers.collect());
    let mut content = Content::default();
    image.publish(&mut content, "a", "x");
    (image, content)
}

impl Service {
    /// What is kept of layers for a later attempt.
    fn kept(&self) -> Vec<(PathBuf, u64)> {
        let dir = self.dir.path().join("root/images/ingest/blobs");
        let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
        entries.map(|entry| (entry.path(), entry.metadata().unwrap().len())).collect()
    }

    fn request(registry: &Breaking) -> PullRequest {
        PullRequest { reference: format!("{}/a:x", registry.address), credentials: None }
    }

    /// Pulls until so many bytes of all layers have been kept, and goes away in the middle; with the bytes that had arrived by
    /// then, which is fewer than were given.
    async fn pull_until_kept(self, registry: &Breaking, bytes: u64) -> (Service, u64) {
        let mut watch = self.images.watch_pull(Service::request(registry)).unwrap();
        let begun = std::time::Instant::now();
        while self.kept().iter().map(|(_, length)| length).sum::<u64>() < bytes {
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}, {:?}", self.kept(), watch.now());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let Service { dir, images } = self;
        drop(images);
        // Only when its task has ended nothing more is counted.
        while watch.changed().await.is_some() {}
        let images = Images::open(config(&dir)).unwrap();
        (Service { dir, images }, watch.now().statistics.bytes_fetched)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_always_breaks_off_gives_the_image_in_the_end() {
    let (image, content) = image(&[30 * MIB, 12 * MIB]);
    let manner = Manner { breaks_after: MIB, ..Manner::default() };
    let registry = Breaking::start(content, manner).await;
    let service = Service::new();
    let mut watch = service.images.watch_pull(Service::request(&registry)).unwrap();
    while watch.changed().await.is_some() {}
    let statistics = watch.now().statistics;
    assert_eq!(watch.outcome().await.unwrap(), image.id);
    // It is asked for the next MiB each time, and gives none twice, as all that it gave has arrived.
    for layer in &image.layers {
        assert_eq!(registry.given_again(&layer.path("a")), 0);
    }
    assert!(registry.answers() >= 42, "{}", registry.answers());
    let size: u64 = image.layers.iter().map(|layer| layer.blob.len() as u64).sum();
    assert_eq!((registry.given(), statistics.bytes_fetched), (size, size));
    assert_eq!(statistics.retries as usize, registry.answers() - image.layers.len());
    assert!(service.kept().is_empty(), "{:?}", service.kept());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_daemon_goes_on() {
    let (image, content) = image(&[24 * MIB]);
    let size = image.layers[0].blob.len() as u64;
    let registry = Breaking::start(content, Manner::default()).await;
    let (service, first) = Service::new().pull_until_kept(&registry, 6 << 20).await;
    let (service, second) = service.pull_until_kept(&registry, 12 << 20).await;
    let mut watch = service.images.watch_pull(Service::request(&registry)).unwrap();
    while watch.changed().await.is_some() {}
    let last = watch.now().statistics;
    assert_eq!(watch.outcome().await.unwrap(), image.id);
    assert!(last.bytes_resumed >= 12 << 20, "{last:?}");
    assert_eq!(last.bytes_resumed + last.bytes_fetched, size, "{last:?}");
    let again = first + second + last.bytes_fetched - size;
    assert!(
        again <= 2 * IN_MEMORY,
        "{again} bytes arrived again after two breaks: {first}, {second}, {last:?}"
    );
    assert!(service.kept().is_empty(), "{:?}", service.kept());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_restarted_is_waited_for() {
    let (image, content) = image(&[16 * MIB]);
    let mut registry = Breaking::start(content, Manner { gives: 6 << 20, ..Manner::default() }).await;
    let service = Service::patient();
    let mut watch = service.images.watch_pull(Service::request(&registry)).unwrap();
    while watch.now().statistics.bytes_fetched < 6 << 20 {
        watch.changed().await.unwrap();
    }
    registry.stop().await;
    while watch.now().statistics.retries < 3 {
        watch.changed().await.unwrap();
    }
    registry.change(Manner::default());
    registry.restart().await;
    assert_eq!(watch.outcome().await.unwrap(), image.id);
    assert_eq!(registry.given_again(&image.layers[0].path("a")), 0, "all that was given had arrived");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_pull_is_gone_on_with_by_the_next() {
    let (image, content) = image(&[10 * MIB]);
    let mut registry = Breaking::start(content, Manner { gives: 4 << 20, ..Manner::default() }).await;
    let service = Service::new();
    let (kind, text) = service.refusal(&format!("{}/a:x", registry.address)).await;
    assert_eq!(kind, ErrorKind::DeadlineExceeded, "{text}");
    assert!(text.contains("tried ") && text.contains(" times, and lastly: no byte of"), "{text}");
    assert_eq!(service.kept().iter().map(|(_, length)| *length).collect::<Vec<_>>(), [4 << 20]);
    registry.stop().await;
    assert_eq!(service.refusal(&format!("{}/a:x", registry.address)).await.0, ErrorKind::Unavailable);
    registry.change(Manner::default());
    registry.restart().await;
    assert_eq!(service.pull(&format!("{}/a:x", registry.address)).await.unwrap(), image.id);
    assert_eq!(registry.given_again(&image.layers[0].path("a")), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_whole_is_not_asked_for_again() {
    let (image, content) = image(&[2 * MIB]);
    let registry = Breaking::start(content, Manner::default()).await;
    let service = Service::new();
    let blob = &image.layers[0];
    let kept = service.dir.path().join("root/images/ingest/blobs");
    std::fs::write(kept.join(format!("sha256-{}", blob.digest.hex())), &blob.blob).unwrap();
    assert_eq!(service.pull(&format!("{}/a:x", registry.address)).await.unwrap(), image.id);
    assert_eq!(registry.answers(), 0);
    assert!(service.kept().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_ranges_is_read_over() {
    let (image, content) = image(&[6 * MIB]);
    let manner = Manner { gives: 3 << 20, knows_ranges: false, ..Manner::default() };
    let registry = Breaking::start(content, manner).await;
    let (service, _) = Service::new().pull_until_kept(&registry, 2 << 20).await;
    registry.change(Manner { knows_ranges: false, ..Manner::default() });
    assert_eq!(service.pull(&format!("{}/a:x", registry.address)).await.unwrap(), image.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_power_cut_made_of_a_kept_layer_is_thrown_away_once() {
    let (image, content) = image(&[6 * MIB]);
    let size = image.layers[0].blob.len();
    // Zeros where the beginning, the middle and the end should be; too long; and whole but wrong.
    for (zeros, length) in [
        (0..4096, 3 * MIB),
        (MIB..2 * MIB, 3 * MIB),
        (2 * MIB..3 * MIB, 3 * MIB),
        (0..0, size + 1),
        (MIB..2 * MIB, size),
    ] {
        let registry = Breaking::start(content.clone(), Manner::default()).await;
        let service = Service::new();
        let mut kept = image.layers[0].blob.clone();
        kept.resize(length, 0);
        kept[zeros.clone()].fill(0);
        let path = service.dir.path().join("root/images/ingest/blobs");
        std::fs::write(path.join(format!("sha256-{}", image.layers[0].digest.hex())), kept).unwrap();
        assert_eq!(service.pull(&format!("{}/a:x", registry.address)).await.unwrap(), image.id);
        assert!(registry.answers() <= 2, "{zeros:?}: {} answers", registry.answers());
        assert!(service.kept().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_seen_as_it_is_made() {
    let (image, content) = image(&[8 * MIB, 2 * MIB]);
    let registry = Breaking::start(content, Manner { gives: 3 << 20, ..Manner::default() }).await;
    let service = Service::patient();
    let mut watch = service.images.watch_pull(Service::request(&registry)).unwrap();
    // The last piece of the small layer is no whole one.
    while watch.now().statistics.bytes_fetched < (3 << 20) - (64 << 10) {
        watch.changed().await.unwrap();
    }
    let seen = watch.now();
    assert_eq!((seen.stage, seen.layers.len()), (PullStage::Fetching, 2));
    assert_eq!(seen.layers[0].digest, image.layers[0].digest);
    assert!(seen.layers.iter().map(|layer| layer.fetched).sum::<u64>() > 2 << 20);
    assert_eq!(service.images.pulls().len(), 1);
    registry.change(Manner::default());
    let mut last = seen;
    while let Some(next) = watch.changed().await {
        assert!(next.layers.iter().zip(&last.layers).all(|(next, last)| next.fetched >= last.fetched));
        last = next;
    }
    let end = watch.now();
    assert_eq!(end.stage, PullStage::Done);
    assert!(end.layers.iter().all(|layer| layer.state == LayerState::Done && layer.fetched == layer.size));
    assert!(end.statistics.bytes_unpacked > 10 << 20);
    assert!(service.images.pulls().is_empty());
    let mut again = service.images.watch_pull(Service::request(&registry)).unwrap();
    while again.changed().await.is_some() {}
    assert!(again.now().layers.iter().all(|layer| layer.state == LayerState::AlreadyHere));
    let totals = service.images.pull_totals();
    assert_eq!((totals.succeeded, totals.failed), (2, 0));
    assert_eq!((totals.layers_fetched, totals.layers_reused), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_trickles_is_borne_with_above_a_bound_only() {
    // 8 KiB every 20 ms is 120 KiB in the 300 ms of these tests, in which 16 KiB have to come.
    let (image, content) = image(&[MIB + 100_000]);
    let pieces = (8 << 10, Duration::from_millis(20));
    let registry = Breaking::start(content.clone(), Manner { pieces, ..Manner::default() }).await;
    assert_eq!(Service::new().pull(&format!("{}/a:x", registry.address)).await.unwrap(), image.id);
    assert_eq!(registry.answers(), 1);
    let pieces = (1 << 10, Duration::from_millis(100));
    let registry = Breaking::start(content, Manner { pieces, ..Manner::default() }).await;
    let (kind, text) = Service::new().refusal(&format!("{}/a:x", registry.address)).await;
    assert_eq!(kind, ErrorKind::DeadlineExceeded, "{text}");
    assert!(
        text.contains("tried 3 times, and lastly: only ") && text.contains(" bytes of \"http://"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_unpacks_to_too_much_is_refused() {
    // Zeros, of which gzip makes a thousandth.
    let content = vec![0; 8 * MIB];
    let image = ImageBytes::new(vec![LayerBytes::of("zeros", &content)]);
    let mut published = Content::default();
    image.publish(&mut published, "a", "x");
    let registry = crate::registry::Registry::start(move |request| published.reply(request)).await;
    let name = format!("{}/a:x", registry.host());
    let bounded =
        |unpacked_floor, expansion| Service::limited(|limits| Limits { unpacked_floor, expansion, ..limits });
    let (kind, text) = bounded(1 << 20, 10).refusal(&name).await;
    assert_eq!(kind, ErrorKind::Corrupt, "{text}");
    let most = (1 << 20) + 10 * image.layers[0].blob.len();
    assert!(text.ends_with(&format!("\": it unpacks to more than {most} bytes")), "{text}");
    assert_eq!(bounded(9 << 20, 0).pull(&name).await.unwrap(), image.id);
    assert_eq!(bounded(0, 1500).pull(&name).await.unwrap(), image.id);
}
