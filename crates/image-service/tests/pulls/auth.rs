//! Who we say we are, and to whom.

use std::sync::{Condvar, Mutex};
use std::time::Duration;

use image_service::{Credentials, ErrorKind};

use crate::image::{Content, ImageBytes, LayerBytes};
use crate::registry::{Registry, Reply, Request};
use crate::{Service, refusal};

fn image() -> (ImageBytes, Content) {
    let image = ImageBytes::new(vec![LayerBytes::new("a", 10), LayerBytes::new("b", 10)]);
    let mut content = Content::default();
    image.publish(&mut content, "team/app", "x");
    (image, content)
}

fn user() -> Credentials {
    Credentials { username: "user".to_owned(), password: "s3cret".to_owned(), ..Credentials::default() }
}

/// `user:s3cret` in base64.
const BASIC: &str = "Basic dXNlcjpzM2NyZXQ=";

/// A registry that wants a bearer token from its own `/token`, which `grant` answers.
async fn with_tokens(content: Content, grant: fn(&Request) -> Reply) -> Registry {
    Registry::start(move |request| {
        if request.path == "/token" {
            return grant(request);
        }
        match request.authorization() {
            Some("Bearer good") => content.reply(request),
            _ => {
                let realm = format!("http://{}/token", request.header("host").unwrap());
                let challenge = format!(
                    r#"Bearer realm="{realm}",service="reg",scope="repository:team/app:pull",error="invalid_token""#
                );
                let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
                Reply { body: body.into(), ..Reply::status(401) }.header("www-authenticate", challenge)
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_token_is_fetched_once_and_used_for_all() {
    let (image, content) = image();
    let registry = with_tokens(content, |request| {
        assert_eq!(request.query, "service=reg&scope=repository%3Ateam%2Fapp%3Apull&account=user");
        assert_eq!(request.authorization(), Some(BASIC));
        Reply::ok(r#"{"token":"good","expires_in":300}"#)
    })
    .await;
    let service = Service::new();
    let name = format!("{}/team/app:x", registry.host());
    assert_eq!(service.pull_as(&name, user()).await.unwrap(), image.id);
    assert_eq!(service.pull_as(&name, user()).await.unwrap(), image.id);
    assert_eq!(registry.requests_for("/token").len(), 1);
    // Credentials go to the realm, the token to the registry.
    for request in registry.requests_for("/v2/") {
        assert!(matches!(request.authorization(), None | Some("Bearer good")), "{request:?}");
    }
}

#[tokio::test]
async fn a_token_is_had_for_nothing_where_the_image_is_public() {
    let (image, content) = image();
    let registry = with_tokens(content, |request| {
        assert_eq!(request.authorization(), None);
        Reply::ok(r#"{"access_token":"good"}"#)
    })
    .await;
    let name = format!("{}/team/app:x", registry.host());
    assert_eq!(Service::new().pull(&name).await.unwrap(), image.id);
}

#[tokio::test]
async fn an_identity_token_is_exchanged() {
    let (image, content) = image();
    let registry = with_tokens(content, |request| {
        assert_eq!((request.method.as_str(), request.authorization()), ("POST", None));
        assert!(
            request.body.contains("grant_type=refresh_token&refresh_token=id-token&"),
            "{}",
            request.body
        );
        Reply::ok(r#"{"access_token":"good"}"#)
    })
    .await;
    let name = format!("{}/team/app:x", registry.host());
    let credentials = Credentials { identity_token: "id-token".to_owned(), ..Credentials::default() };
    assert_eq!(Service::new().pull_as(&name, credentials).await.unwrap(), image.id);
}

#[tokio::test]
async fn a_registry_token_is_sent_as_it_is() {
    let (image, content) = image();
    let registry = with_tokens(content, |_| Reply::status(500)).await;
    let name = format!("{}/team/app:x", registry.host());
    let credentials = Credentials { registry_token: "good".to_owned(), ..Credentials::default() };
    assert_eq!(Service::new().pull_as(&name, credentials).await.unwrap(), image.id);
    assert!(registry.requests_for("/token").is_empty());
}

#[tokio::test]
async fn a_token_that_expired_is_replaced() {
    let (image, content) = image();
    let registry = Registry::start(move |request| {
        let issued = if request.path == "/token" { request.earlier } else { 0 };
        if request.path == "/token" {
            return Reply::ok(format!(r#"{{"token":"t{issued}","expires_in":300}}"#));
        }
        // The first token is good for the manifest only.
        let wanted = if request.path.contains("manifests") { "Bearer t0" } else { "Bearer t1" };
        if request.authorization() == Some(wanted) {
            return content.reply(request);
        }
        let realm = format!("Bearer realm=\"http://{}/token\"", request.header("host").unwrap());
        Reply::status(401).header("www-authenticate", realm)
    })
    .await;
    let name = format!("{}/team/app:x", registry.host());
    assert_eq!(Service::new().pull(&name).await.unwrap(), image.id);
}

async fn with_basic(content: Content) -> Registry {
    Registry::start(move |request| match request.authorization() {
        Some(BASIC) => content.reply(request),
        _ => Reply::status(401).header("www-authenticate", "Basic realm=\"x\""),
    })
    .await
}

#[tokio::test]
async fn basic_credentials_are_sent_when_asked_for() {
    let (image, content) = image();
    let registry = with_basic(content).await;
    let service = Service::new();
    let name = format!("{}/team/app:x", registry.host());
    assert_eq!(service.pull_as(&name, user()).await.unwrap(), image.id);
    assert_eq!(registry.requests()[0].authorization(), None);
    // Another's pull of the same image is let in by its own proof only.
    let (kind, text) = service.refusal(&name).await;
    assert_eq!(kind, ErrorKind::Unauthenticated, "{text}");
    let auth = Credentials { auth: BASIC[6..].to_owned(), ..Credentials::default() };
    assert_eq!(service.pull_as(&name, auth).await.unwrap(), image.id);
}

#[tokio::test]
async fn credentials_for_another_server_stay_here() {
    let (image, content) = image();
    let registry = with_basic(content).await;
    let service = Service::new();
    let name = format!("{}/team/app:x", registry.host());
    let elsewhere = Credentials { server_address: "https://other.example/v2/".to_owned(), ..user() };
    let (kind, _) = refusal(service.pull_as(&name, elsewhere).await);
    assert_eq!(kind, ErrorKind::Unauthenticated);
    assert!(registry.requests().iter().all(|request| request.authorization().is_none()));
    let here = Credentials { server_address: format!("http://{}", registry.host()), ..user() };
    assert_eq!(service.pull_as(&name, here).await.unwrap(), image.id);
}

#[tokio::test]
async fn wrong_credentials_are_said_to_be_wrong() {
    let (_, content) = image();
    let registry = with_basic(content.clone()).await;
    let service = Service::new();
    let wrong = Credentials { password: "wrong".to_owned(), ..user() };
    let name = format!("{}/team/app:x", registry.host());
    let (kind, text) = refusal(service.pull_as(&name, wrong.clone()).await);
    assert_eq!(kind, ErrorKind::Unauthenticated);
    let url = format!("http://{}/v2/team/app/manifests/x", registry.host());
    let asked = "asked with the credentials of the request (user \"user\")";
    assert_eq!(text, format!("cannot pull image \"{name}\": {asked}: \"{url}\" answered 401 Unauthorized"));
    assert_eq!(registry.requests().len(), 2);

    let registry = with_tokens(content, |_| Reply {
        body: r#"{"details":"wrong password"}"#.into(),
        ..Reply::status(401)
    })
    .await;
    let name = format!("{}/team/app:x", registry.host());
    let (kind, text) = refusal(service.pull_as(&name, wrong).await);
    assert_eq!(kind, ErrorKind::Unauthenticated);
    assert!(text.ends_with("/token\" answered 401 Unauthorized: wrong password"), "{text}");
    assert!(!text.contains("account"), "{text}");
}

#[tokio::test]
async fn a_redirect_to_another_host_takes_no_credentials_along() {
    let (image, content) = image();
    let storage = {
        let content = content.clone();
        Registry::start(move |request| content.reply(request)).await
    };
    let target = storage.host();
    let registry = Registry::start(move |request| {
        if request.authorization() != Some(BASIC) {
            return Reply::status(401).header("www-authenticate", "Basic realm=\"x\"");
        }
        match request.path.contains("/blobs/") {
            true => Reply::redirect(format!("http://{target}{}?signature=k3y", request.path)),
            false => content.reply(request),
        }
    })
    .await;
    let service = Service::new();
    let text = format!("[host.\"http://{0}\"]\n[host.\"http://{0}\".header]\nx-own = \"1\"", registry.host());
    service.hosts(&registry.host(), &text);
    let name = format!("{}/team/app:x", registry.host());
    assert_eq!(service.pull_as(&name, user()).await.unwrap(), image.id);
    assert_eq!(storage.requests().len(), 3);
    for request in storage.requests() {
        assert_eq!((request.authorization(), request.header("x-own")), (None, None));
        assert_eq!(request.query, "signature=k3y");
    }
    assert!(registry.requests().iter().all(|request| request.header("x-own") == Some("1")));
}

#[tokio::test]
async fn a_challenge_from_where_a_redirect_leads_is_not_answered() {
    let (_, content) = image();
    let storage =
        Registry::start(|_| Reply::status(401).header("www-authenticate", "Basic realm=\"x\"")).await;
    let target = storage.host();
    let registry = Registry::start(move |request| match request.path.contains("/blobs/") {
        true => Reply::redirect(format!("http://{target}/x?signature=k3y")),
        false => content.reply(request),
    })
    .await;
    let service = Service::new();
    let name = format!("{}/team/app:x", registry.host());
    let (kind, text) = refusal(service.pull_as(&name, user()).await);
    assert_eq!(kind, ErrorKind::Unauthenticated);
    assert!(text.contains(&storage.host()) && !text.contains("k3y"), "{text}");
    assert!(storage.requests().iter().all(|request| request.authorization().is_none()));
}

/// CVE-2020-15157: an address in a manifest led to a host that asked for, and got, the registry's credentials.
#[tokio::test]
async fn addresses_in_a_manifest_are_never_asked() {
    let trap = Registry::start(|_| Reply::status(401).header("www-authenticate", "Basic realm=\"x\"")).await;
    let (image, _) = image();
    let urls = format!("http://{}/foreign", trap.host());
    let foreign = image
        .manifest
        .replace("http://127.0.0.1:1/evil", &urls)
        .replace("oci.image.layer.v1.tar+gzip", "docker.image.rootfs.foreign.diff.tar.gzip");
    assert_ne!(foreign, image.manifest);
    let with = |layers: bool| {
        let mut content = Content::default();
        image.publish_untagged(&mut content, "team/app");
        content.put("/v2/team/app/manifests/x", crate::image::OCI_MANIFEST, foreign.clone());
        if !layers {
            image.layers.iter().for_each(|layer| content.remove(&layer.path("team/app")));
        }
        with_basic(content)
    };
    let (having, lacking) = (with(true).await, with(false).await);
    let service = Service::new();
    let name = |registry: &Registry| format!("{}/team/app:x", registry.host());
    let (kind, text) = refusal(service.pull_as(&name(&lacking), user()).await);
    assert_eq!(kind, ErrorKind::NotFound, "{text}");
    // What the registry itself has is taken, whatever the layers are called.
    assert_eq!(service.pull_as(&name(&having), user()).await.unwrap(), image.id);
    assert!(trap.requests().is_empty());
}

/// Beyond CVE-2020-15157: who sends us elsewhere could send us back to an address of their choice, with our name on it.
#[tokio::test]
async fn nothing_of_ours_comes_back_with_a_redirect_that_returns() {
    let (image, content) = image();
    let home = std::sync::Arc::new(std::sync::OnceLock::<String>::new());
    let elsewhere = {
        let home = std::sync::Arc::clone(&home);
        Registry::start(move |request| {
            Reply::redirect(format!("http://{}{}?chosen=1", home.get().unwrap(), request.path))
        })
        .await
    };
    let target = elsewhere.host();
    let registry = Registry::start(move |request| {
        if request.query.contains("chosen=1") {
            return content.reply(request);
        }
        if request.authorization() != Some(BASIC) {
            return Reply::status(401).header("www-authenticate", "Basic realm=\"x\"");
        }
        match request.path.contains("/blobs/") {
            true => Reply::redirect(format!("http://{target}{}", request.path)),
            false => content.reply(request),
        }
    })
    .await;
    home.set(registry.host()).unwrap();
    let service = Service::new();
    let name = format!("{}/team/app:x", registry.host());
    assert_eq!(service.pull_as(&name, user()).await.unwrap(), image.id);
    let returned: Vec<_> =
        registry.requests().into_iter().filter(|request| request.query.contains("chosen=1")).collect();
    assert_eq!(returned.len(), 3);
    assert!(returned.iter().all(|request| request.authorization().is_none()));
}

/// Ten layers at once: one token for the manifest, and, when that has expired, one for all the layers.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_that_need_a_token_at_once_share_one() {
    let layers: Vec<_> = (0..10).map(|n| LayerBytes::new(&format!("l{n}"), 1000)).collect();
    let image = ImageBytes::new(layers);
    let mut content = Content::default();
    image.publish(&mut content, "team/app", "x");
    let config = format!("/v2/team/app/blobs/{}", image.id);
    let refused = (Mutex::new(0), Condvar::new());
    let registry = Registry::start(move |request| {
        if request.path == "/token" {
            if request.earlier > 0 {
                // The second one is granted when several layers want it.
                let several = |refused: &mut u32| *refused < 4;
                let (count, more) = &refused;
                drop(more.wait_timeout_while(count.lock().unwrap(), Duration::from_secs(10), several));
            }
            return Reply::ok(format!(r#"{{"token":"t{}","expires_in":300}}"#, request.earlier));
        }
        let is_layer = request.path.contains("/blobs/") && request.path != config;
        let wanted = if is_layer { "Bearer t1" } else { "Bearer t0" };
        match request.authorization() {
            Some(shown) if shown == wanted => content.reply(request),
            _ => {
                *refused.0.lock().unwrap() += u32::from(is_layer);
                refused.1.notify_all();
                let realm = format!("Bearer realm=\"http://{}/token\"", request.header("host").unwrap());
                Reply::status(401).header("www-authenticate", realm)
            }
        }
    })
    .await;
    let name = format!("{}/team/app:x", registry.host());
    assert_eq!(Service::new().pull(&name).await.unwrap(), image.id);
    assert_eq!(registry.requests_for("/token").len(), 2);
}

#[tokio::test]
async fn a_refresh_token_that_is_refused_is_a_matter_of_credentials() {
    let (_, content) = image();
    let registry = with_tokens(content, |_| Reply {
        body: r#"{"error":"invalid_grant","error_description":"token is expired"}"#.into(),
        ..Reply::status(400)
    })
    .await;
    let name = format!("{}/team/app:x", registry.host());
    let credentials = Credentials { identity_token: "old".to_owned(), ..Credentials::default() };
    let (kind, text) = refusal(Service::new().pull_as(&name, credentials).await);
    assert_eq!(kind, ErrorKind::Unauthenticated);
    assert!(text.ends_with("token is expired"), "{text}");
}

#[tokio::test]
async fn permission_denied_is_not_unauthenticated() {
    let (_, content) = image();
    let registry = with_tokens(content, |_| Reply {
        body: r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#
            .into(),
        ..Reply::status(403)
    })
    .await;
    let name = format!("{}/team/app:x", registry.host());
    let (kind, text) = refusal(Service::new().pull_as(&name, user()).await);
    assert_eq!(kind, ErrorKind::PermissionDenied);
    assert!(text.ends_with("DENIED: requested access to the resource is denied"), "{text}");
}
