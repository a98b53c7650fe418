//! Images as kubelet handles them: pull, list, status, tags that move, remove.

use std::time::Duration;

use e2e::cri::{self, ImageSpec};
use e2e::image::{Image, Layer};
use e2e::{Client, Network, Node};
use serde_json::json;

async fn list(client: &Client) -> Vec<cri::Image> {
    let answer = client.images.clone().list_images(cri::ListImagesRequest { filter: None }).await.unwrap();
    answer.into_inner().images
}

async fn status(client: &Client, image: &str) -> Option<cri::Image> {
    let request = cri::ImageStatusRequest { image: Some(spec(image)), verbose: true };
    client.images.clone().image_status(request).await.unwrap().into_inner().image
}

async fn remove(client: &Client, image: &str) {
    let request = cri::RemoveImageRequest { image: Some(spec(image)) };
    client.images.clone().remove_image(request).await.unwrap();
}

fn spec(image: &str) -> ImageSpec {
    e2e::client::image_spec(image)
}

fn image(content: &str) -> Image {
    let config = json!({ "User": "1000:1001", "Labels": { "made": "here" }, "StopSignal": "SIGINT" });
    Image::new(config).layer(Layer::new().file("content", 0o644, content.as_bytes()))
}

#[tokio::test]
async fn an_image_is_known_by_tag_digest_and_id() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    let digest = image("one").push(node.registry.address(), "known/app:v1").await;
    let tag = node.registry.image("known/app:v1");
    let id = client.pull(&tag).await.unwrap();
    assert!(id.starts_with("sha256:"), "{id}");
    let by_digest = format!("{}@{digest}", node.registry.image("known/app"));
    for reference in [&tag, &by_digest, &id] {
        let image = status(&client, reference).await.unwrap_or_else(|| panic!("{reference} is known"));
        assert_eq!(image.id, id);
        assert_eq!(image.repo_tags, std::slice::from_ref(&tag));
        assert_eq!(image.repo_digests, std::slice::from_ref(&by_digest));
        assert_eq!(image.uid.map(|uid| uid.value), Some(1000));
        assert!(image.size > 0);
    }
    assert_eq!(client.pull(&tag).await.unwrap(), id, "pulling again finds it");
    assert_eq!(list(&client).await.len(), 1);
    remove(&client, &tag).await;
    remove(&client, &tag).await;
    assert!(status(&client, &id).await.is_none());
    assert!(list(&client).await.is_empty());
}

#[tokio::test]
async fn an_image_is_the_same_for_every_handler_that_there_is() {
    let node = e2e::Setup::new(Network::None).section("[handlers.other]").start().await;
    let client = node.client();
    image("one").push(node.registry.address(), "handled/app:v1").await;
    let tag = node.registry.image("handled/app:v1");
    let of = |handler: &str| Some(ImageSpec { runtime_handler: handler.to_owned(), ..spec(&tag) });
    let mut images = client.images.clone();
    let pulled = cri::PullImageRequest { image: of("other"), ..Default::default() };
    let id = images.pull_image(pulled).await.unwrap().into_inner().image_ref;
    for handler in ["", "knarr", "other"] {
        let asked = cri::ImageStatusRequest { image: of(handler), verbose: false };
        let found = images.image_status(asked).await.unwrap().into_inner().image.expect(handler);
        let shown = found.spec.map(|spec| spec.runtime_handler);
        assert_eq!((found.id, shown), (id.clone(), Some(String::new())));
        let filter = Some(cri::ImageFilter { image: of(handler) });
        let listed = images.list_images(cri::ListImagesRequest { filter }).await.unwrap().into_inner();
        assert_eq!(listed.images.len(), 1, "{handler}");
    }
    let unknown = images.image_status(cri::ImageStatusRequest { image: of("vm"), verbose: false }).await;
    let filter = Some(cri::ImageFilter { image: of("vm") });
    let unlisted = images.list_images(cri::ListImagesRequest { filter }).await.map(drop);
    let kept = images.remove_image(cri::RemoveImageRequest { image: of("vm") }).await.map(drop);
    for (refused, path) in [(unknown.map(drop), "image"), (unlisted, "filter.image"), (kept, "image")] {
        let refused = refused.expect_err("no such handler");
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
        let begins = format!("{path}.runtime_handler: \"vm\" is not configured");
        assert!(refused.message().starts_with(&begins), "{refused}");
    }
    images.remove_image(cri::RemoveImageRequest { image: of("other") }).await.unwrap();
    assert!(list(&client).await.is_empty());
}

#[tokio::test]
async fn a_tag_moves_and_its_old_image_stays() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    let tag = node.registry.image("moving/app:latest");
    image("old").push(node.registry.address(), "moving/app:latest").await;
    let old = client.pull(&tag).await.unwrap();
    image("new").push(node.registry.address(), "moving/app:latest").await;
    let new = client.pull(&tag).await.unwrap();
    assert_ne!(old, new);
    assert_eq!(status(&client, &tag).await.unwrap().id, new);
    let kept = status(&client, &old).await.expect("the old image stays");
    assert!(kept.repo_tags.is_empty(), "{kept:?}");
    assert_eq!(list(&client).await.len(), 2);
}

#[tokio::test]
async fn layers_are_shared_and_go_with_their_last_image() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    let noise: Vec<u8> = (0..4_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let base = || Layer::new().file("base", 0o644, &noise);
    for name in ["one", "two"] {
        let image =
            Image::new(json!({})).layer(base()).layer(Layer::new().file(name, 0o644, name.as_bytes()));
        image.push(node.registry.address(), &format!("shared/{name}:v1")).await;
    }
    client.pull(&node.registry.image("shared/one:v1")).await.unwrap();
    let one = used(&client).await;
    client.pull(&node.registry.image("shared/two:v1")).await.unwrap();
    let both = used(&client).await;
    assert!(one >= noise.len() as u64, "the layer counts: {one}");
    assert!(both - one < 1_000_000, "the base is kept once: {one}, {both}");
    remove(&client, &node.registry.image("shared/one:v1")).await;
    assert!(used(&client).await >= noise.len() as u64, "the base is still used");
    remove(&client, &node.registry.image("shared/two:v1")).await;
    // What is being deleted counts until it is.
    e2e::until(Duration::from_secs(20), "what was removed is gone", async || match used(&client).await {
        used if used < 1_000_000 => Ok(()),
        used => Err(used),
    })
    .await;
}

async fn used(client: &Client) -> u64 {
    let answer = client.images.clone().image_fs_info(cri::ImageFsInfoRequest {}).await.unwrap().into_inner();
    answer.image_filesystems[0].used_bytes.as_ref().unwrap().value
}

#[tokio::test]
async fn layers_lie_upon_each_other_as_the_specification_says() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    let lower = Layer::new()
        .directory("kept", 0o755)
        .file("kept/file", 0o644, b"lower")
        .file("gone", 0o644, b"lower")
        .directory("opaque", 0o755)
        .file("opaque/old", 0o644, b"lower");
    let upper = Layer::new()
        .file(".wh.gone", 0o644, b"")
        .file("opaque/.wh..wh..opq", 0o644, b"")
        .file("opaque/new", 0o4755, b"upper")
        .symlink("link", "kept/file")
        .hard_link("hard", "opaque/new");
    let image = e2e::image::busybox().layer(lower).layer(upper);
    image.push(node.registry.address(), "layered:v1").await;
    let reference = node.registry.image("layered:v1");
    client.pull(&reference).await.unwrap();
    let sandbox = node.pod();
    let pod = client.run_pod(sandbox.clone()).await.unwrap();
    let wanted = e2e::config::container("main", &reference, &["sleep", "1000"]);
    let container = client.create(&pod, wanted, &sandbox).await.unwrap();
    client.start(&container).await.unwrap();
    let script = "cat link; echo; ls -a opaque; test -e gone || echo no gone; stat -c '%a %h' hard";
    let shown = client.exec(&container, &["sh", "-c", script], 10).await.unwrap().stdout;
    assert_eq!(shown, "lower\n.\n..\nnew\nno gone\n4755 2\n");
}

#[tokio::test]
async fn the_images_stop_signal_and_user_count() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    let script = "trap 'echo interrupted; exit 9' INT; echo \"user $(id -u) $(id -g)\"; while :; do usleep 10000; done";
    let config = json!({ "Entrypoint": ["/bin/sh", "-c"], "Cmd": [script], "User": "www", "StopSignal": "SIGINT",
                         "WorkingDir": "/home", "Env": ["PATH=/bin"] });
    let image = e2e::image::busybox().configured(config);
    image.push(node.registry.address(), "signalled:v1").await;
    let reference = node.registry.image("signalled:v1");
    client.pull(&reference).await.unwrap();
    let sandbox = node.pod();
    let pod = client.run_pod(sandbox.clone()).await.unwrap();
    let container =
        client.create(&pod, e2e::config::container("main", &reference, &[]), &sandbox).await.unwrap();
    client.start(&container).await.unwrap();
    let log = std::path::Path::new(&sandbox.log_directory).join("main.log");
    e2e::until(e2e::node::PATIENCE, "its word", || async {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        if text.contains("user 33 33") { Ok(()) } else { Err(text) }
    })
    .await;
    client.stop(&container, 10).await.unwrap();
    assert_eq!(client.container(&container).await.unwrap().exit_code, 9);
}
