//! Pulls that are broken off again and again: by the registry, by its end and return, by the daemon's. All end in a good image, and
//! what was fetched once isn't fetched again.
//!
//! What a single request does about an answer that breaks is tested in image-service (`tests/pulls`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use e2e::archive::{Packed, Raw, digest};
use e2e::scripted::{Content, Given, Manner};
use e2e::{Network, Node, Scripted, config};

/// Bytes of each of the two large files, which don't compress.
const LARGE: usize = 12 << 20;

/// Slow enough that the middle of a pull can be met: 16 MB a second for each layer.
const SLOW: Manner = Manner { breaks: None, pause: Some(Duration::from_millis(4)), stops: None };

/// busybox and two large files, with their sums.
struct Image {
    layers: Vec<Packed>,
    sums: String,
}

impl Image {
    fn new() -> Self {
        let busybox = std::fs::read("/bin/busybox").expect("Debian's busybox-static");
        let mut layers = vec![Packed::gzip(&Raw::new().file("bin/busybox", &busybox).done())];
        let mut sums = String::new();
        for number in 1..=2u64 {
            let (name, content) = (format!("large-{number}"), noise(number));
            layers.push(Packed::gzip(&Raw::new().file(&name, &content).done()));
            sums.push_str(&format!("{}  /{name}\n", digest(&content).trim_start_matches("sha256:")));
        }
        Self { layers, sums }
    }

    fn content(&self) -> Content {
        let content = Content::default();
        content.image("broken", "latest", &self.layers);
        content
    }

    /// The pulled image runs, and its files are what they should be.
    async fn is_good(&self, node: &Node, reference: &str) {
        let client = node.client();
        let sandbox = node.pod();
        let pod = client.run_pod(sandbox.clone()).await.unwrap();
        let wanted = config::container("main", reference, &["/bin/busybox", "sleep", "1000"]);
        let container = client.create(&pod, wanted, &sandbox).await.unwrap();
        client.start(&container).await.unwrap();
        let command = ["/bin/busybox", "sha256sum", "/large-1", "/large-2"];
        let shown = client.exec(&container, &command, 30).await.unwrap();
        assert_eq!(shown.stdout, self.sums, "{}", shown.stderr);
    }

    /// No byte of a large layer was given twice, and all were given. What is small is not kept before it is whole.
    fn was_fetched_once(&self, given: &[Given]) {
        for layer in &self.layers[1..] {
            let path = format!("/v2/broken/blobs/{}", digest(&layer.blob));
            let mut end = 0;
            for part in given.iter().filter(|part| part.path == path) {
                assert!(part.from >= end, "{path} again from byte {} after {end}", part.from);
                end = part.from + part.bytes;
            }
            assert_eq!(end, layer.blob.len(), "{path}");
        }
    }
}

/// Always the same bytes for a seed (xorshift).
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut content = Vec::with_capacity(LARGE);
    while content.len() < LARGE {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.extend_from_slice(&state.to_le_bytes());
    }
    content
}

/// Waits until so many bytes of layers were given.
async fn given(registry: &Scripted, bytes: usize) {
    e2e::until(e2e::node::PATIENCE, "the middle of the pull", || async {
        let given: usize = registry.given().iter().map(|part| part.bytes).sum();
        if given >= bytes { Ok(()) } else { Err(given) }
    })
    .await;
}

#[tokio::test]
async fn a_registry_that_breaks_off_every_megabyte_gives_a_good_image() {
    let node = Node::start(Network::None).await;
    let image = Image::new();
    let manner = Manner { breaks: Some(1 << 20), ..Manner::default() };
    let registry = Scripted::start(image.content(), manner).await;
    let reference = registry.image("broken:latest");
    node.client().pull(&reference).await.unwrap();
    let asked = registry.given();
    assert!(asked.len() > (2 * LARGE) >> 20, "{} requests: nothing broke", asked.len());
    image.was_fetched_once(&asked);
    image.is_good(&node, &reference).await;
}

#[tokio::test]
async fn a_registry_that_goes_and_comes_back_is_taken_up_where_it_was() {
    let node = Node::start(Network::None).await;
    let image = Image::new();
    let registry = Scripted::start(image.content(), SLOW).await;
    let (address, reference) = (registry.address(), registry.image("broken:latest"));
    let (client, wanted) = (node.client(), reference.clone());
    let pull = tokio::spawn(async move { client.pull(&wanted).await });
    given(&registry, LARGE).await;
    let before = registry.given();
    drop(registry);
    let registry = Scripted::start_at(address, image.content(), SLOW).await;
    pull.await.unwrap().unwrap();
    image.was_fetched_once(&[before, registry.given()].concat());
    image.is_good(&node, &reference).await;
}

/// The registry stops at a byte of each large layer, and the daemon is killed when it has what there is: all of that is kept, though
/// neither layer nor connection have ended, and none of it is asked for again.
#[tokio::test]
async fn a_daemon_that_is_killed_goes_on_where_it_was() {
    let mut node = Node::start(Network::None).await;
    if let Err(reason) = has_room(&node) {
        println!("skipped: {reason}");
        return;
    }
    let image = Image::new();
    let registry = Scripted::start(image.content(), Manner::default()).await;
    let reference = registry.image("broken:latest");
    // No whole number of anything, and the last so near the end that nothing but sums lacks.
    let sizes = image.layers[1..].iter().map(|layer| layer.blob.len());
    for stop in [3_000_001, 7_654_321, sizes.min().unwrap() - 1] {
        registry.change(Manner { stops: Some(stop), ..Manner::default() });
        let (client, wanted) = (node.client(), reference.clone());
        let pull = tokio::spawn(async move { client.pull(&wanted).await });
        e2e::until(e2e::node::PATIENCE, "all that was given to be kept", || async {
            let kept = spools(&node);
            if kept == [stop as u64; 2] { Ok(()) } else { Err(kept) }
        })
        .await;
        node.kill_daemon();
        assert!(pull.await.unwrap().is_err(), "nobody is left to answer");
        node.start_daemon();
    }
    registry.change(Manner::default());
    node.client().pull(&reference).await.unwrap();
    image.was_fetched_once(&registry.given());
    image.is_good(&node, &reference).await;
    assert!(spools(&node).is_empty(), "what was kept of the blobs goes with the pull");
}

/// On a disk that is nearly full the daemon keeps nothing for a later attempt: a tenth stays free.
fn has_room(node: &Node) -> Result<(), String> {
    let disk = rustix::fs::statvfs(node.path(".")).map_err(|errno| errno.to_string())?;
    let (free, tenth) = (disk.f_bavail * disk.f_frsize, disk.f_blocks / 10 * disk.f_frsize);
    if free < tenth + (1 << 30) {
        return Err(format!("of the disk below {} only {free} bytes are free", node.path(".").display()));
    }
    Ok(())
}

/// Bytes that are kept of each blob that isn't whole yet.
fn spools(node: &Node) -> Vec<u64> {
    let kept = std::fs::read_dir(node.path("root/images/ingest/blobs")).into_iter().flatten();
    kept.map(|entry| entry.unwrap().metadata().unwrap().len()).collect()
}
