//! Proxies: those of `hosts.toml`, and those of the environment.

use std::process::Command;

use image_service::ErrorKind;

use crate::Service;
use crate::image::{Content, ImageBytes, LayerBytes};
use crate::registry::Registry;

fn image() -> (ImageBytes, Content) {
    let image = ImageBytes::new(vec![LayerBytes::new("a", 10)]);
    let mut content = Content::default();
    image.publish(&mut content, "a", "x");
    (image, content)
}

/// A proxy that has all answers itself. What it is asked for is a whole address (RFC 9112 section 3.2.2).
async fn proxy(content: Content) -> Registry {
    Registry::start(move |request| {
        let path = request.path.strip_prefix("http://reg.example").unwrap();
        let mut meant = request.clone();
        meant.path = path.to_owned();
        content.reply(&meant)
    })
    .await
}

#[tokio::test]
async fn an_endpoint_s_own_proxy_is_the_way_to_it() {
    let (image, content) = image();
    let proxy = proxy(content).await;
    let service = Service::new();
    let text = format!("server = \"http://reg.example\"\nproxy = \"http://{}\"", proxy.host());
    service.hosts("reg.example", &text);
    assert_eq!(service.pull("reg.example/a:x").await.unwrap(), image.id);
    assert_eq!(proxy.requests().len(), 3);
    drop(proxy);
    // Without it, there is no other way.
    let (kind, _) = service.refusal("reg.example/a:y").await;
    assert_eq!(kind, ErrorKind::Unavailable);
}

/// The environment is the process's: another one of the same test tries it out.
#[tokio::test]
async fn the_environment_s_proxy_is_the_way_to_all_but_this_machine() {
    const INNER: &str = "KNARR_TEST_BEHIND_A_PROXY";
    let (image, content) = image();
    if std::env::var_os(INNER).is_some() {
        let near = Registry::start(move |request| content.reply(request)).await;
        let service = Service::new();
        service.hosts("reg.example", "server = \"http://reg.example\"");
        assert_eq!(service.pull("reg.example/a:x").await.unwrap(), image.id);
        assert_eq!(service.pull(&format!("{}/a:x", near.host())).await.unwrap(), image.id);
        assert_eq!(near.requests().len(), 2, "the manifest and the configuration; its layer is here");
        return;
    }
    let proxy = proxy(content).await;
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "proxies::the_environment_s_proxy_is_the_way_to_all_but_this_machine"]);
    again.env(INNER, "1").env("HTTP_PROXY", format!("http://{}", proxy.host()));
    again.env_remove("NO_PROXY").env_remove("no_proxy");
    let ran = tokio::task::spawn_blocking(move || again.output().unwrap()).await.unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
    assert_eq!(proxy.requests().len(), 3);
}
