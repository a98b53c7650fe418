//! Registries that fail: what the error says, what is left, and whether the retry works.

use std::time::{Duration, Instant};

use image_service::ErrorKind;

use crate::Service;
use crate::image::{Content, ImageBytes, LayerBytes};
use crate::registry::{Registry, Reply, Request};

fn image() -> (ImageBytes, Content) {
    let image = ImageBytes::new(vec![LayerBytes::new("a", 300_000), LayerBytes::new("b", 10)]);
    let mut content = Content::default();
    image.publish(&mut content, "a", "x");
    (image, content)
}

/// A registry that gives its content through `change`.
async fn changed(
    content: Content,
    change: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static,
) -> Registry {
    Registry::start(move |request| change(request, content.reply(request))).await
}

fn is_large(request: &Request, reply: &Reply) -> bool {
    request.path.contains("/blobs/") && reply.body.len() > 200_000 || request.header("range").is_some()
}

#[tokio::test]
async fn a_registry_that_is_down_is_named() {
    let service = Service::new();
    // The port was free a moment ago, and nobody listens.
    let host = Registry::start(|_| Reply::status(500)).await.host();
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert_ne!(gone.to_string(), host);
    let (kind, text) = service.refusal(&format!("{gone}/a:x")).await;
    assert_eq!(kind, ErrorKind::Unavailable);
    let begin = format!(
        "cannot pull image \"{gone}/a:x\": tried 3 times, and lastly: cannot get \"http://{gone}/v2/a/manifests/x\": "
    );
    assert!(text.starts_with(&begin) && text.contains("refused"), "{text}");
    assert_eq!(text.matches("manifests").count(), 1, "{text}");
    assert!(service.layers().is_empty());
}

#[tokio::test]
async fn statuses_have_their_kinds_and_are_tried_again_if_they_may_pass() {
    for (status, kind, attempts) in [
        (400, ErrorKind::Internal, 1),
        (401, ErrorKind::Unauthenticated, 1),
        (403, ErrorKind::PermissionDenied, 1),
        (404, ErrorKind::NotFound, 1),
        (429, ErrorKind::Unavailable, 3),
        (500, ErrorKind::Unavailable, 3),
        (503, ErrorKind::Unavailable, 3),
    ] {
        let body = r#"{"errors":[{"code":"CODE","message":"some words"}]}"#;
        let registry = Registry::start(move |_| Reply { body: body.into(), ..Reply::status(status) }).await;
        let service = Service::new();
        let (found, text) = service.refusal(&format!("{}/a:x", registry.host())).await;
        assert_eq!(found, kind, "{text}");
        assert!(
            text.contains(&format!("answered {status}")) && text.ends_with(": CODE: some words"),
            "{text}"
        );
        assert_eq!(registry.requests().len(), attempts, "{status}");
    }
}

#[tokio::test]
async fn a_failure_that_passes_is_not_seen() {
    for status in [408, 429, 500, 502, 503] {
        let (image, content) = image();
        let registry = changed(content, move |request, reply| match request.earlier {
            0 => Reply::status(status),
            _ => reply,
        })
        .await;
        assert_eq!(Service::new().pull(&format!("{}/a:x", registry.host())).await.unwrap(), image.id);
    }
}

#[tokio::test]
async fn the_registry_s_wish_to_wait_is_heard_within_a_bound() {
    let (image, content) = image();
    let registry = changed(content, |request, reply| match (request.earlier, request.path.ends_with("/x")) {
        (0, true) => Reply::status(429).header("retry-after", "1"),
        _ => reply,
    })
    .await;
    let begun = Instant::now();
    assert_eq!(Service::new().pull(&format!("{}/a:x", registry.host())).await.unwrap(), image.id);
    assert!(begun.elapsed() >= Duration::from_secs(1));

    let registry = Registry::start(|_| Reply::status(429).header("retry-after", "86400")).await;
    let (kind, _) = Service::new().refusal(&format!("{}/a:x", registry.host())).await;
    assert_eq!((kind, registry.requests().len()), (ErrorKind::Unavailable, 1));
}

#[tokio::test]
async fn a_broken_layer_goes_on_where_it_broke() {
    for knows_ranges in [true, false] {
        let (image, content) = image();
        let registry = changed(content, move |request, reply| {
            if !is_large(request, &reply) {
                return reply;
            }
            let reply = if knows_ranges { reply.ranged(request) } else { reply };
            if request.earlier == 0 { reply.cut(150_000) } else { reply }
        })
        .await;
        let service = Service::new();
        assert_eq!(service.pull(&format!("{}/a:x", registry.host())).await.unwrap(), image.id);
        let asked = registry.requests_for(image.layers[0].digest.hex());
        assert_eq!(asked.len(), 2);
        assert_eq!(asked[0].header("range"), None);
        let range = asked[1].header("range").unwrap();
        let first: usize = range["bytes=".len()..range.len() - 1].parse().unwrap();
        assert!((1..=150_000).contains(&first), "{range}");
    }
}

#[tokio::test]
async fn a_layer_that_always_breaks_leaves_nothing_and_the_retry_works() {
    let (image, content) = image();
    let layer = image.layers[0].digest.clone();
    let registry =
        changed(content, move |request, reply| match (is_large(request, &reply), request.earlier) {
            (true, 0..3) => reply.cut(1000),
            _ => reply,
        })
        .await;
    let service = Service::new();
    let name = format!("{}/a:x", registry.host());
    let (kind, text) = service.refusal(&name).await;
    assert_eq!(kind, ErrorKind::Unavailable);
    assert!(text.contains(&layer.to_string()) && text.contains(&registry.host()), "{text}");
    assert!(service.images.list(None).is_empty());
    assert!(service.layers().iter().all(|dir| !dir.to_string_lossy().contains("ingest")));
    // Whole layers wait for the retry, but not for ever.
    service.images.collect().await.unwrap();
    assert!(service.layers().is_empty(), "{:?}", service.layers());
    assert_eq!(service.pull(&name).await.unwrap(), image.id);
}

#[tokio::test]
async fn a_silent_registry_meets_the_deadline() {
    let (image, content) = image();
    let registry = changed(content, |request, reply| match is_large(request, &reply) {
        true => reply.cut(1000).hang(),
        false => reply,
    })
    .await;
    let service = Service::new();
    let (kind, text) = service.refusal(&format!("{}/a:x", registry.host())).await;
    assert_eq!(kind, ErrorKind::DeadlineExceeded);
    let digest = &image.layers[0].digest;
    let url = format!("http://{}/v2/a/blobs/{digest}", registry.host());
    assert!(text.ends_with(&format!("no byte of \"{url}\" came for 0.3 s")), "{text}");
}

#[tokio::test]
async fn wrong_bytes_are_found_out_whatever_they_are() {
    let other = LayerBytes::new("other", 300_000).blob;
    let garbage = vec![7; 1000];
    let (good, _) = image();
    let mut flipped = good.layers[0].blob.clone();
    flipped[100_000] ^= 1;
    for wrong in [other, garbage, flipped] {
        let (image, content) = image();
        let size = image.layers[0].blob.len();
        let registry = changed(content, move |request, reply| {
            if !is_large(request, &reply) {
                return reply;
            }
            let mut wrong = wrong.clone();
            wrong.resize(size, 0);
            Reply::ok(wrong)
        })
        .await;
        let service = Service::new();
        let (kind, text) = service.refusal(&format!("{}/a:x", registry.host())).await;
        assert_eq!(kind, ErrorKind::Corrupt);
        let expected = format!("should have the digest \"{}\"", image.layers[0].digest);
        assert!(text.contains(&expected) && text.contains(&registry.host()), "{text}");
        assert!(service.layers().is_empty(), "{:?}", service.layers());
        assert!(service.images.list(None).is_empty());
    }
}

#[tokio::test]
async fn a_layer_longer_than_stated_is_refused() {
    let (_, content) = image();
    let registry = changed(content, |request, mut reply| {
        if is_large(request, &reply) {
            reply.body.extend_from_slice(&[0; 10]);
        }
        reply
    })
    .await;
    let service = Service::new();
    let (kind, text) = service.refusal(&format!("{}/a:x", registry.host())).await;
    assert_eq!(kind, ErrorKind::Corrupt);
    assert!(text.contains("is larger than"), "{text}");
    assert!(service.layers().is_empty());
}

#[tokio::test]
async fn a_layer_that_is_not_the_image_s_is_refused() {
    // Manifest and blob agree, but the configuration names another archive.
    let mut image = ImageBytes::new(vec![LayerBytes::new("a", 10)]);
    let other = ImageBytes::new(vec![LayerBytes::new("b", 10)]);
    image.manifest = image.manifest.replace(&image.id.to_string(), &other.id.to_string());
    image.config = other.config;
    image.id = other.id;
    let mut content = Content::default();
    image.publish(&mut content, "a", "x");
    let registry = Registry::start(move |request| content.reply(request)).await;
    let service = Service::new();
    let (kind, text) = service.refusal(&format!("{}/a:x", registry.host())).await;
    assert_eq!(kind, ErrorKind::Corrupt, "{text}");
    assert!(text.contains(&other.layers[0].diff_id.to_string()), "{text}");
    assert!(service.layers().is_empty());
}

#[tokio::test]
async fn endless_redirects_end() {
    let registry = Registry::start(|request| Reply::redirect(request.path.clone())).await;
    let (_, text) = Service::new().refusal(&format!("{}/a:x", registry.host())).await;
    assert!(text.contains("the redirect of") && text.ends_with("there are too many"), "{text}");
    assert_eq!(registry.requests().len(), 9);
}

#[tokio::test]
async fn a_bad_reference_is_refused_at_once() {
    for reference in ["", "UPPER", "a:b:c", "a@sha256:1"] {
        let (kind, text) = Service::new().refusal(reference).await;
        assert_eq!(kind, ErrorKind::InvalidRequest);
        assert!(text.starts_with(&format!("\"{reference}\" is not an image reference: ")), "{text}");
    }
}
