//! `hosts.toml`: mirrors, and the registry behind them.

use image_service::{Credentials, ErrorKind};

use crate::image::{Content, ImageBytes, LayerBytes};
use crate::registry::{Registry, Reply};
use crate::{Service, refusal};

fn image() -> (ImageBytes, Content) {
    let image = ImageBytes::new(vec![LayerBytes::new("a", 10), LayerBytes::new("b", 10)]);
    let mut content = Content::default();
    image.publish(&mut content, "team/app", "x");
    (image, content)
}

async fn serving(content: Content) -> Registry {
    Registry::start(move |request| content.reply(request)).await
}

#[tokio::test]
async fn a_mirror_is_asked_first_and_told_whose_image_is_meant() {
    let (image, content) = image();
    let (mirror, upstream) = (serving(content.clone()).await, serving(content).await);
    let service = Service::new();
    let text = format!("server = \"http://{}\"\n[host.\"http://{}\"]", upstream.host(), mirror.host());
    service.hosts("reg.example", &text);
    assert_eq!(service.pull("reg.example/team/app:x").await.unwrap(), image.id);
    assert!(upstream.requests().is_empty());
    assert_eq!(mirror.requests().len(), 4);
    assert!(mirror.requests().iter().all(|request| request.query == "ns=reg.example"));
    let found = service.images.status("reg.example/team/app:x").unwrap().unwrap();
    assert_eq!(found.repo_tags, ["reg.example/team/app:x"]);
}

#[tokio::test]
async fn the_default_directory_is_for_all_registries() {
    let (image, content) = image();
    let mirror = serving(content).await;
    let service = Service::new();
    // Read at each pull: no restart between the two.
    let (kind, _) = service.refusal("127.0.0.1:1/team/app:x").await;
    assert_eq!(kind, ErrorKind::Unavailable);
    service.hosts("_default", &format!("server = \"http://{}\"", mirror.host()));
    assert_eq!(service.pull("127.0.0.1:1/team/app:x").await.unwrap(), image.id);
}

#[tokio::test]
async fn what_a_mirror_lacks_or_fails_at_the_registry_has() {
    for status in [404, 401, 403, 429, 500] {
        let (image, content) = image();
        let (mirror, upstream) =
            (Registry::start(move |_| Reply::status(status)).await, serving(content).await);
        let service = Service::new();
        let text = format!("server = \"http://{}\"\n[host.\"http://{}\"]", upstream.host(), mirror.host());
        service.hosts("reg.example", &text);
        assert_eq!(service.pull("reg.example/team/app:x").await.unwrap(), image.id, "{status}");
    }
}

#[tokio::test]
async fn a_mirror_that_lies_is_found_out_and_passed_by() {
    let (image, content) = image();
    let lying = {
        let content = content.clone();
        Registry::start(move |request| {
            let mut reply = content.reply(request);
            if request.path.contains("/blobs/") {
                reply.body[20] ^= 1;
            }
            reply
        })
        .await
    };
    let upstream = serving(content).await;
    let service = Service::new();
    let text = format!("server = \"http://{}\"\n[host.\"http://{}\"]", upstream.host(), lying.host());
    service.hosts("reg.example", &text);
    assert_eq!(service.pull("reg.example/team/app:x").await.unwrap(), image.id);
    assert_eq!(upstream.requests_for("/blobs/").len(), 3);
}

#[tokio::test]
async fn an_unreachable_mirror_is_asked_once_not_for_every_layer() {
    let (image, content) = image();
    let upstream = serving(content).await;
    let silent = Registry::start(|_| Reply::ok("").hang().cut(0)).await;
    let service = Service::new();
    let down = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let text = format!("server = \"http://{}\"\n[host.\"http://{down}\"]", upstream.host());
    service.hosts("reg.example", &text);
    assert_eq!(service.pull("reg.example/team/app:x").await.unwrap(), image.id);
    drop(silent);
}

#[tokio::test]
async fn when_all_fail_each_is_named() {
    let mirror = Registry::start(|_| Reply::status(403)).await;
    let upstream = Registry::start(|_| Reply::status(404)).await;
    let service = Service::new();
    let text = format!("server = \"http://{}\"\n[host.\"http://{}\"]", upstream.host(), mirror.host());
    service.hosts("reg.example", &text);
    let (kind, text) = service.refusal("reg.example/team/app:x").await;
    assert_eq!(kind, ErrorKind::NotFound);
    let url = |registry: &Registry| format!("http://{}/v2/team/app/manifests/x", registry.host());
    assert_eq!(
        text,
        format!(
            "cannot pull image \"reg.example/team/app:x\": its mirrors failed (asked with no credentials: \"{}\" answered 403 Forbidden), and then: \"{}\" answered 404 Not Found",
            url(&mirror),
            url(&upstream)
        )
    );
}

#[tokio::test]
async fn a_mirror_that_only_pulls_is_not_asked_what_a_tag_means() {
    let (image, content) = image();
    let (mirror, upstream) = (serving(content.clone()).await, serving(content).await);
    let service = Service::new();
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\"]",
        upstream.host(),
        mirror.host()
    );
    service.hosts("reg.example", &text);
    assert_eq!(service.pull("reg.example/team/app:x").await.unwrap(), image.id);
    assert_eq!((mirror.requests().len(), upstream.requests().len()), (3, 1));
    let nobody = format!("server = \"http://{}\"\ncapabilities = [\"push\"]", upstream.host());
    service.hosts("reg.example", &nobody);
    let (_, text) = service.refusal("reg.example/team/app:x").await;
    assert!(
        text.ends_with("no endpoint of registry \"reg.example\" has the capability \"resolve\""),
        "{text}"
    );
}

#[tokio::test]
async fn a_mirror_does_not_see_what_is_for_the_registry() {
    let basic = |content: Content| {
        Registry::start(move |request| match request.authorization() {
            Some(_) => content.reply(request),
            None => Reply::status(401).header("www-authenticate", "Basic realm=\"x\""),
        })
    };
    let (image, content) = image();
    let (mirror, upstream) = (basic(content.clone()).await, basic(content).await);
    let service = Service::new();
    let text = format!("server = \"http://{}\"\n[host.\"http://{}\"]", upstream.host(), mirror.host());
    service.hosts("reg.example", &text);
    let credentials = Credentials {
        username: "user".to_owned(),
        password: "s3cret".to_owned(),
        server_address: "reg.example".to_owned(),
        ..Credentials::default()
    };
    assert_eq!(service.pull_as("reg.example/team/app:x", credentials).await.unwrap(), image.id);
    assert!(mirror.requests().iter().all(|request| request.authorization().is_none()));
}

#[tokio::test]
async fn a_broken_file_is_named() {
    let service = Service::new();
    service.hosts("reg.example", "server = 1");
    let (kind, text) = refusal(service.pull("reg.example/a").await);
    assert_eq!(kind, ErrorKind::Internal);
    assert!(text.contains("certs.d/reg.example/hosts.toml\": "), "{text}");
}
