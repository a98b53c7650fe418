//! Pulls that work, and what they leave.

use image_service::{Digest, ErrorKind, ImageUser, Limits, PullRequest};

use crate::Service;
use crate::image::{Content, ImageBytes, LayerBytes, OCI_INDEX, architecture};
use crate::registry::{Registry, Reply};

#[tokio::test]
async fn an_image_is_pulled_and_stays() {
    let image = ImageBytes::new(vec![LayerBytes::new("a", 100_000), LayerBytes::new("b", 10)]);
    let mut content = Content::default();
    image.publish(&mut content, "team/app", "1");
    let registry = Registry::start(move |request| content.reply(request)).await;
    let mut service = Service::new();
    let name = format!("{}/team/app:1", registry.host());
    assert_eq!(service.pull(&name).await.unwrap(), image.id);
    for _ in 0..2 {
        let found = service.images.status(&name).unwrap().unwrap();
        assert_eq!(found.id, image.id);
        assert_eq!(found.repo_tags, std::slice::from_ref(&name));
        assert_eq!(found.repo_digests, [format!("{}/team/app@{}", registry.host(), image.digest())]);
        let blobs: usize = image.layers.iter().map(|layer| layer.blob.len()).sum();
        assert_eq!(found.size_bytes, (blobs + image.config.len()) as u64);
        assert_eq!(found.user, ImageUser::Name("nobody".to_owned()));
        assert_eq!(found.config.cmd, ["/a"]);
        assert_eq!(service.images.config_json(&found.id).await.unwrap(), image.config);
        assert!(service.images.layers_usage().bytes >= 100_000);
        service = service.reopened();
    }
    let asked = registry.requests().len();
    assert_eq!(service.pull(&name).await.unwrap(), image.id);
    let again: Vec<String> =
        registry.requests()[asked..].iter().map(|request| request.path.clone()).collect();
    assert!(
        again.iter().all(|path| !image.layers.iter().any(|layer| path.contains(layer.digest.hex()))),
        "{again:?}"
    );
}

#[tokio::test]
async fn of_an_index_this_machine_s_image_is_taken() {
    let ours = ImageBytes::new(vec![LayerBytes::new("ours", 10)]);
    let theirs = ImageBytes::of_platform("s390x", vec![LayerBytes::new("theirs", 10)]);
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{},{}]}}"#,
        theirs.entry("s390x"),
        ours.entry(architecture())
    );
    let index_digest = Digest::of(index.as_bytes());
    let mut content = Content::default();
    content.put("/v2/a/manifests/latest", OCI_INDEX, index.clone());
    content.put(&format!("/v2/a/manifests/{index_digest}"), OCI_INDEX, index);
    ours.publish_untagged(&mut content, "a");
    theirs.publish_untagged(&mut content, "a");
    let registry = Registry::start(move |request| content.reply(request)).await;
    let service = Service::new();
    let name = format!("{}/a", registry.host());
    assert_eq!(service.pull(&name).await.unwrap(), ours.id);
    let found = service.images.status(&name).unwrap().unwrap();
    assert_eq!(found.repo_digests, [format!("{name}@{index_digest}")]);
    assert!(registry.requests_for(theirs.layers[0].digest.hex()).is_empty());
    let by_digest = format!("{name}:whatever@{index_digest}");
    assert_eq!(service.pull(&by_digest).await.unwrap(), ours.id);
    assert_eq!(service.images.list(None).len(), 1);
}

#[tokio::test]
async fn a_tag_that_moved_leaves_the_old_image() {
    let images =
        [1, 2].map(|n| ImageBytes::new(vec![LayerBytes::new("same", 10), LayerBytes::new("own", n)]));
    let contents = images.clone().map(|image| {
        let mut content = Content::default();
        image.publish(&mut content, "a", "x");
        content
    });
    let registry = Registry::start(move |request| {
        let second = request.path.ends_with("/x") && request.earlier > 0;
        let first = contents[usize::from(second)].reply(request);
        if first.status == 404 { contents[1].reply(request) } else { first }
    })
    .await;
    let service = Service::new();
    let name = format!("{}/a:x", registry.host());
    assert_eq!(service.pull(&name).await.unwrap(), images[0].id);
    assert_eq!(service.pull(&name).await.unwrap(), images[1].id);
    assert_eq!(
        registry.requests_for(images[0].layers[0].digest.hex()).len(),
        1,
        "the shared layer is fetched once"
    );
    let old = service.images.status(&images[0].id.to_string()).unwrap().unwrap();
    assert!(old.repo_tags.is_empty() && old.repo_digests.len() == 1);
    assert_eq!(service.layers().len(), 3);
    service.images.remove(&old.repo_digests[0]).await.unwrap();
    assert_eq!(service.layers().len(), 2);
    service.images.remove(&name).await.unwrap();
    service.images.remove(&name).await.unwrap();
    assert!(service.layers().is_empty());
    assert!(service.images.list(None).is_empty());
    assert_eq!(service.images.layers_usage().bytes, 0);
}

#[tokio::test]
async fn equal_pulls_are_one() {
    let image = ImageBytes::new(vec![LayerBytes::new("a", 10)]);
    let mut content = Content::default();
    image.publish(&mut content, "a", "x");
    let registry = Registry::start(move |request| content.reply(request)).await;
    let service = Service::new();
    let name = format!("{}/a:x", registry.host());
    // None of them can end before all have begun: they share this thread.
    for outcome in futures::future::join_all((0..5).map(|_| service.pull(&name))).await {
        assert_eq!(outcome.unwrap(), image.id);
    }
    assert_eq!(registry.requests_for("manifests").len(), 1);
    assert_eq!(registry.requests_for("blobs").len(), 2);
}

#[tokio::test]
async fn a_pull_goes_on_when_its_caller_has_gone() {
    let image = ImageBytes::new(vec![LayerBytes::new("a", 10)]);
    let mut content = Content::default();
    image.publish(&mut content, "a", "x");
    let (reached, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let registry = Registry::start(move |request| {
        let _ = reached.send(());
        content.reply(request)
    })
    .await;
    let service = Service::new();
    let name = format!("{}/a:x", registry.host());
    tokio::select! {
        outcome = service.pull(&name) => panic!("{outcome:?} before the first answer"),
        _ = seen.recv() => {}
    }
    assert_eq!(service.pull(&name).await.unwrap(), image.id);
    assert_eq!(registry.requests_for("manifests").len(), 1);
}

#[tokio::test]
async fn two_images_with_one_layer_fetch_it_once() {
    let shared = LayerBytes::new("shared", 500_000);
    let images = [1, 2].map(|n| ImageBytes::new(vec![shared.clone(), LayerBytes::new("own", n)]));
    let mut content = Content::default();
    images[0].publish(&mut content, "a", "1");
    images[1].publish(&mut content, "a", "2");
    let registry = Registry::start(move |request| content.reply(request)).await;
    let service = Service::new();
    let names = ["1", "2"].map(|tag| format!("{}/a:{tag}", registry.host()));
    let (one, two) = tokio::join!(service.pull(&names[0]), service.pull(&names[1]));
    assert_eq!((one.unwrap(), two.unwrap()), (images[0].id.clone(), images[1].id.clone()));
    assert_eq!(registry.requests_for(shared.digest.hex()).len(), 1);
}

#[tokio::test]
async fn pulls_wait_their_turn_and_no_more_than_so_many() {
    let images = [1, 2, 3].map(|n| ImageBytes::new(vec![LayerBytes::new("own", n)]));
    let mut content = Content::default();
    for (image, tag) in images.iter().zip(["1", "2", "3"]) {
        image.publish(&mut content, "a", tag);
    }
    let registry = Registry::start(move |request| content.reply(request)).await;
    let service = Service::limited(|limits| Limits { pulls: 1, ..limits });
    let names = ["1", "2", "3"].map(|tag| format!("{}/a:{tag}", registry.host()));
    let (one, two, three) =
        tokio::join!(service.pull(&names[0]), service.pull(&names[1]), service.pull(&names[2]));
    assert_eq!([one, two, three].map(Result::unwrap), images.map(|image| image.id));
    // Nobody answers there; none of them can end before all have been asked for, which takes no turn of this thread's.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = silent.local_addr().unwrap();
    let begin = |n: usize| {
        let reference = format!("{host}/a:{n}");
        service.images.watch_pull(PullRequest { reference, ..PullRequest::default() }).unwrap()
    };
    let waiting: Vec<_> = (0..17).map(begin).collect();
    let refused = begin(17).outcome().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Busy, "{refused}");
    drop(waiting);
}

#[tokio::test]
async fn a_layer_that_got_lost_is_fetched_again() {
    let image = ImageBytes::new(vec![LayerBytes::new("a", 10), LayerBytes::new("b", 10)]);
    let mut content = Content::default();
    image.publish(&mut content, "a", "x");
    let registry = Registry::start(move |request| content.reply(request)).await;
    let service = Service::new();
    let name = format!("{}/a:x", registry.host());
    service.pull(&name).await.unwrap();
    let lost = service.layers().into_iter().find(|dir| dir.ends_with(image.layers[1].diff_id.hex())).unwrap();
    std::fs::write(lost.join("layer.json"), "").unwrap();
    let service = service.reopened();
    assert!(service.images.status(&name).unwrap().is_none());
    assert!(service.images.list(None).is_empty());
    service.pull(&name).await.unwrap();
    assert!(service.images.status(&name).unwrap().is_some());
    assert_eq!(registry.requests_for(image.layers[0].digest.hex()).len(), 1);
    assert_eq!(registry.requests_for(image.layers[1].digest.hex()).len(), 2);
}

#[tokio::test]
async fn no_layer_comes_from_the_addresses_of_a_manifest() {
    // The manifest of every image here has `urls`; the registry itself lacks the layer.
    let image = ImageBytes::new(vec![LayerBytes::new("a", 10)]);
    let mut content = Content::default();
    image.publish(&mut content, "a", "x");
    let path = image.layers[0].path("a");
    let registry =
        Registry::start(move |r| if r.path == path { Reply::status(404) } else { content.reply(r) }).await;
    let service = Service::new();
    let (kind, text) = service.refusal(&format!("{}/a:x", registry.host())).await;
    assert_eq!(kind, image_service::ErrorKind::NotFound, "{text}");
    assert!(text.contains(image.layers[0].digest.hex()) && !text.contains("evil"), "{text}");
}
