//! Who we say we are, and to whom.

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
    assert_eq!(text, format!("cannot pull image \"{name}\": \"{url}\" answered 401 Unauthorized"));
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
