//! Credentials of the node: files in Docker's format, helpers, and those that `hosts.toml` has for one host.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use image_service::{Credentials, CredentialsFile, ErrorKind};

use crate::image::{Content, ImageBytes, LayerBytes};
use crate::registry::{Registry, Reply};
use crate::{Service, refusal};

fn image() -> (ImageBytes, Content) {
    let image = ImageBytes::new(vec![LayerBytes::new("a", 10), LayerBytes::new("b", 10)]);
    let mut content = Content::default();
    image.publish(&mut content, "team/app", "x");
    (image, content)
}

/// `user:password` in base64, as `Authorization` has it.
fn basic(pair: &str) -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}

/// A registry that lets in who shows this.
async fn wanting(content: Content, pair: &'static str) -> Registry {
    Registry::start(move |request| match request.authorization() {
        Some(shown) if shown == basic(pair) => content.reply(request),
        _ => Reply::status(401).header("www-authenticate", "Basic realm=\"x\""),
    })
    .await
}

/// A service with a file of credentials, and helpers in the directory `bin` beside it.
fn service(file: &str) -> Service {
    Service::with(|config, dir| {
        let path = dir.join("config.json");
        std::fs::write(&path, file).unwrap();
        std::fs::create_dir(dir.join("bin")).unwrap();
        config.credentials = CredentialsFile::Required(path);
        config.credential_helper_dirs = vec![dir.join("bin"), "/usr/bin".into(), "/bin".into()];
    })
}

/// Makes the program `docker-credential-<name>` of a script.
fn helper(service: &Service, name: &str, script: &str) {
    let path = service.dir.path().join("bin").join(format!("docker-credential-{name}"));
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

#[tokio::test]
async fn the_node_s_file_has_what_a_request_does_not_bring() {
    let (image, content) = image();
    let registry = wanting(content, "node:s3cret").await;
    let auth = &basic("node:s3cret")[6..];
    let service = service(&format!(r#"{{"auths":{{"{}/team":{{"auth":"{auth}"}}}}}}"#, registry.host()));
    let name = format!("{}/team/app:x", registry.host());
    assert_eq!(service.pull(&name).await.unwrap(), image.id);
    // A request's own go before them, right or wrong: a pod's secret that is wrong must not be made good by the node's.
    let wrong = Credentials { username: "pod".into(), password: "wrong".into(), ..Credentials::default() };
    let (kind, text) = refusal(service.pull_as(&name, wrong).await);
    assert_eq!(kind, ErrorKind::Unauthenticated);
    assert!(text.contains("asked with the credentials of the request (user \"pod\"): "), "{text}");
    // The entry is for one team only.
    let (kind, text) = service.refusal(&format!("{}/other:x", registry.host())).await;
    assert_eq!(kind, ErrorKind::Unauthenticated);
    assert!(text.contains("asked with no credentials: "), "{text}");
}

#[tokio::test]
async fn a_mirror_has_its_own_and_the_registry_its_own() {
    let (image, content) = image();
    let password = |service: &Service, text: &str| {
        std::fs::write(service.dir.path().join("certs.d/reg.example/password"), text).unwrap();
    };
    let (mirror, upstream) =
        (wanting(content.clone(), "robot:m1rror").await, wanting(content, "node:s3cret").await);
    let service = service(&format!(
        r#"{{"auths":{{"{}":{{"username":"node","password":"s3cret"}}}}}}"#,
        upstream.host()
    ));
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{1}\".credentials]\nusername = \"robot\"\npassword_file = \"password\"",
        upstream.host(),
        mirror.host()
    );
    service.hosts("reg.example", &text);
    password(&service, "m1rror\n");
    assert_eq!(service.pull("reg.example/team/app:x").await.unwrap(), image.id);
    assert!(upstream.requests().is_empty());
    service.images.remove("reg.example/team/app:x").await.unwrap();
    // The mirror refuses: the registry is asked with what is for it, and neither sees the other's.
    password(&service, "outdated");
    assert_eq!(service.pull("reg.example/team/app:x").await.unwrap(), image.id);
    let shown = |registry: &Registry, pair: &str| {
        registry.requests().iter().any(|request| request.authorization() == Some(basic(pair).as_str()))
    };
    assert!(shown(&mirror, "robot:outdated") && shown(&upstream, "node:s3cret"));
    assert!(!shown(&mirror, "node:s3cret") && !shown(&upstream, "robot:outdated"));
}

#[tokio::test]
async fn none_means_that_not_even_a_pod_s_secret_is_seen() {
    let (image, content) = image();
    let (mirror, upstream) =
        (wanting(content.clone(), "pod:s3cret").await, wanting(content, "pod:s3cret").await);
    let pod = Credentials { username: "pod".into(), password: "s3cret".into(), ..Credentials::default() };
    let hosts = |more: &str| {
        format!("server = \"http://{}\"\n[host.\"http://{}\"]\n{more}", upstream.host(), mirror.host())
    };
    let service = Service::new();
    service.hosts("reg.example", &hosts("credentials = \"none\""));
    assert_eq!(service.pull_as("reg.example/team/app:x", pod.clone()).await.unwrap(), image.id);
    assert!(mirror.requests().iter().all(|request| request.authorization().is_none()));
    let service = Service::new();
    service.hosts("reg.example", &hosts(""));
    assert_eq!(service.pull_as("reg.example/team/app:x", pod).await.unwrap(), image.id);
    assert!(mirror.requests().iter().any(|request| request.authorization().is_some()));
}

#[tokio::test]
async fn a_helper_is_asked_once_for_many_pulls_and_only_when_it_matters() {
    let (image, content) = image();
    let registry = wanting(content.clone(), "AWS:t0ken").await;
    let open = Registry::start(move |request| content.reply(request)).await;
    let service = service(r#"{"credsStore":"x"}"#);
    let script =
        r#"read -r server; echo "$server" >> "${0%/*}/calls"; echo '{"Username":"AWS","Secret":"t0ken"}'"#;
    helper(&service, "x", script);
    let calls = service.dir.path().join("bin/calls");
    assert_eq!(service.pull(&format!("{}/team/app:x", open.host())).await.unwrap(), image.id);
    assert_eq!(lines(&calls), 0);
    for _ in 0..3 {
        assert_eq!(service.pull(&format!("{}/team/app:x", registry.host())).await.unwrap(), image.id);
    }
    assert_eq!(std::fs::read_to_string(&calls).unwrap(), format!("{}\n", registry.host()));
}

#[tokio::test]
async fn a_helper_whose_answer_is_refused_is_asked_anew_once() {
    let (image, content) = image();
    let service = service("{}");
    // Each time another password: the registry takes the second one, and later the third.
    let script =
        r#"echo x >> "${0%/*}/calls"; echo "{\"Username\":\"u\",\"Secret\":\"$(wc -l < "${0%/*}/calls")\"}""#;
    helper(&service, "x", script);
    let calls = service.dir.path().join("bin/calls");
    let wanted = service.dir.path().join("wanted");
    std::fs::write(&wanted, "u:1").unwrap();
    let registry = {
        let wanted = wanted.clone();
        Registry::start(move |request| {
            let pair = std::fs::read_to_string(&wanted).unwrap();
            match request.authorization() {
                Some(shown) if shown == basic(&pair) => content.reply(request),
                _ => Reply::status(401).header("www-authenticate", "Basic realm=\"x\""),
            }
        })
        .await
    };
    service.hosts(
        &registry.host(),
        &format!("server = \"http://{}\"\n[credentials]\nhelper = \"x\"", registry.host()),
    );
    let name = format!("{}/team/app:x", registry.host());
    assert_eq!(service.pull(&name).await.unwrap(), image.id);
    std::fs::write(&wanted, "u:2").unwrap();
    assert_eq!(service.pull(&name).await.unwrap(), image.id);
    assert_eq!(lines(&calls), 2);
    // Whatever it says is wrong: it isn't asked for ever.
    std::fs::write(&wanted, "u:none").unwrap();
    let (kind, text) = service.refusal(&name).await;
    assert_eq!(kind, ErrorKind::Unauthenticated);
    assert!(
        text.contains(&format!("asked with what helper \"x\" has for \"{}\"", registry.host())),
        "{text}"
    );
    assert_eq!(lines(&calls), 3);
}

#[tokio::test]
async fn an_identity_token_of_a_helper_is_exchanged() {
    let (image, content) = image();
    let registry = Registry::start(move |request| {
        if request.path == "/token" {
            assert!(request.body.contains("grant_type=refresh_token&refresh_token=id-token&"), "{request:?}");
            return Reply::ok(r#"{"access_token":"good"}"#);
        }
        let realm = format!("Bearer realm=\"http://{}/token\"", request.header("host").unwrap());
        match request.authorization() {
            Some("Bearer good") => content.reply(request),
            _ => Reply::status(401).header("www-authenticate", realm),
        }
    })
    .await;
    let service = service(&format!(r#"{{"credHelpers":{{"{}":"x"}}}}"#, registry.host()));
    helper(&service, "x", r#"echo '{"Username":"<token>","Secret":"id-token"}'"#);
    assert_eq!(service.pull(&format!("{}/team/app:x", registry.host())).await.unwrap(), image.id);
}

#[tokio::test]
async fn a_helper_without_credentials_leaves_us_anonymous_and_a_broken_one_does_not() {
    let (image, content) = image();
    let registry = Registry::start(move |request| {
        if request.path == "/token" {
            assert_eq!(request.authorization(), None);
            return Reply::ok(r#"{"token":"public"}"#);
        }
        let realm = format!("Bearer realm=\"http://{}/token\"", request.header("host").unwrap());
        match request.authorization() {
            Some("Bearer public") => content.reply(request),
            _ => Reply::status(401).header("www-authenticate", realm),
        }
    })
    .await;
    let name = format!("{}/team/app:x", registry.host());
    let service = service(r#"{"credsStore":"x"}"#);
    let (kind, text) = service.refusal(&name).await;
    assert_eq!(kind, ErrorKind::Internal);
    assert!(
        text.contains("credential helper \"x\" is of no use: there is no \"docker-credential-x\" in "),
        "{text}"
    );
    helper(&service, "x", "echo 'credentials not found in native keychain'; exit 1");
    assert_eq!(service.pull(&name).await.unwrap(), image.id);
}

#[tokio::test]
async fn a_file_that_is_configured_and_lacks_is_named() {
    let service =
        Service::with(|config, dir| config.credentials = CredentialsFile::Required(dir.join("lacking.json")));
    let (kind, text) = service.refusal("127.0.0.1:1/a").await;
    assert_eq!(kind, ErrorKind::Internal);
    assert!(text.contains("lacking.json\": "), "{text}");
}
