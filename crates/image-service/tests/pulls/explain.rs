//! What a pull would do, told beforehand.

use image_service::{CredentialsFile, Explanation, HostRole, PullRequest};

use crate::Service;
use crate::image::{Content, ImageBytes, LayerBytes, OCI_INDEX, OCI_MANIFEST, architecture};
use crate::registry::{Registry, Reply};

fn image() -> (ImageBytes, Content) {
    let image = ImageBytes::new(vec![LayerBytes::new("a", 10)]);
    let mut content = Content::default();
    image.publish(&mut content, "team/app", "x");
    (image, content)
}

async fn explain(service: &Service, reference: &str) -> Explanation {
    let request = PullRequest { reference: reference.to_owned(), credentials: None };
    service.images.explain(request).await.unwrap()
}

/// Requests of a host with their answers.
fn exchanges(explanation: &Explanation, host: usize) -> Vec<(String, Option<u16>)> {
    let probe = explanation.hosts[host].probe.as_ref().unwrap();
    probe.exchanges.iter().map(|exchange| (exchange.method.clone(), exchange.status)).collect()
}

#[tokio::test]
async fn hosts_are_told_in_their_order_with_what_they_answer() {
    let (image, content) = image();
    let upstream = {
        let content = content.clone();
        Registry::start(move |request| {
            if request.path == "/token" {
                return Reply::ok(r#"{"token":"good"}"#);
            }
            let realm = format!("Bearer realm=\"http://{}/token\"", request.header("host").unwrap());
            match request.authorization() {
                Some("Bearer good") => content.reply(request),
                _ => Reply::status(401).header("www-authenticate", realm),
            }
        })
        .await
    };
    let without = Registry::start(|_| Reply::status(404)).await;
    let by_digest = Registry::start(move |request| content.reply(request)).await;
    let down = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let service = Service::with(|config, dir| {
        let path = dir.join("config.json");
        let auths = r#"{"auths":{"UPSTREAM":{"username":"node","password":"s3cret"}}}"#;
        std::fs::write(&path, auths.replace("UPSTREAM", &upstream.host())).unwrap();
        config.credentials = CredentialsFile::IfThere(path);
    });
    let text = format!(
        r#"server = "http://{}"
        [host."http://{}"]
        [host."http://{}"]
          capabilities = ["pull"]
        [host."http://{down}"]
          skip_verify = true
          dial_timeout = "1s"
          header = {{ x-secret = "h1dden" }}
          credentials = "none""#,
        upstream.host(),
        without.host(),
        by_digest.host(),
    );
    service.hosts("reg.example", &text);
    service.hosts("_default", "server = \"http://other.example\"");

    let found = explain(&service, "reg.example/team/app:x").await;
    assert!(found.is_resolved());
    assert_eq!(found.said_by, Some(service.dir.path().join("certs.d/reg.example/hosts.toml")));
    assert_eq!(found.passed_over, [service.dir.path().join("certs.d/_default")]);
    let addresses: Vec<_> = found.hosts.iter().map(|host| host.address.clone()).collect();
    let hosts = [without.host(), by_digest.host(), down.to_string(), upstream.host()];
    assert_eq!(addresses, hosts.map(|host| format!("http://{host}/v2")));
    let roles: Vec<_> = found.hosts.iter().map(|host| host.role).collect();
    assert_eq!(roles, [HostRole::Mirror, HostRole::Mirror, HostRole::Mirror, HostRole::Registry]);

    let head = |status: u16| ("HEAD".to_owned(), Some(status));
    assert_eq!(exchanges(&found, 0), [head(404)]);
    assert!(found.hosts[0].probe.as_ref().unwrap().failure.as_ref().unwrap().contains("404 Not Found"));
    assert_eq!(exchanges(&found, 1), [head(200)]);
    assert_eq!(found.hosts[1].probe.as_ref().unwrap().asked_for, image.digest().to_string());
    assert_eq!(found.hosts[1].capabilities, ["pull"]);
    assert_eq!(exchanges(&found, 2), [("HEAD".to_owned(), None)]);
    assert_eq!(found.hosts[2].headers, ["x-secret"]);
    assert_eq!(
        (found.hosts[2].dial_timeout_ms, found.hosts[2].because.as_str()),
        (Some(1000), "hosts.toml says so")
    );
    assert_eq!(exchanges(&found, 3), [head(401), ("GET".to_owned(), Some(200)), head(200)]);
    assert_eq!(found.hosts[3].username.as_deref(), Some("node"));
    assert!(found.hosts[3].credentials.starts_with(&format!("the entry \"{}\" of ", upstream.host())));

    let meant = found.meant.as_ref().unwrap();
    assert_eq!((&meant.by, meant.kind.as_deref()), (&addresses[3], Some("manifest")));
    assert_eq!(meant.manifest, Some(image.digest().to_string()));
    let told = serde_json::to_string(&found).unwrap() + &format!("{found:?}");
    assert!(!told.contains("s3cret") && !told.contains("h1dden"), "{told}");
    // Nothing was pulled by it, and a pull finds the token as it was: unknown.
    assert!(service.images.list(None).is_empty() && service.layers().is_empty());
}

#[tokio::test]
async fn what_a_pull_would_refuse_is_refused_beforehand() {
    let (image, mut content) = image();
    let artifact = image.manifest.replace("image.config.v1", "empty.v1");
    content.put("/v2/team/app/manifests/artifact", OCI_MANIFEST, artifact);
    let elsewhere = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, image.entry("s390x"));
    content.put("/v2/team/app/manifests/elsewhere", OCI_INDEX, elsewhere);
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, image.entry(architecture()));
    content.put("/v2/team/app/manifests/index", OCI_INDEX, index);
    let registry = Registry::start(move |request| content.reply(request)).await;
    let service = Service::new();
    let name = |tag: &str| format!("{}/team/app:{tag}", registry.host());

    let found = explain(&service, &name("artifact")).await;
    assert!(!found.is_resolved());
    assert!(found.meant.unwrap().refused.unwrap().contains("artifact without a type"));
    let found = explain(&service, &name("elsewhere")).await;
    assert!(!found.is_resolved());
    assert!(found.meant.unwrap().refused.unwrap().contains("only for linux/s390x"));
    let found = explain(&service, &name("index")).await;
    assert!(found.is_resolved());
    let meant = found.meant.unwrap();
    assert_eq!((meant.kind.as_deref(), meant.manifest), (Some("index"), Some(image.digest().to_string())));
    let found = explain(&service, &name("lacking")).await;
    assert!(!found.is_resolved() && found.meant.is_none());
    assert_eq!((found.said_by, found.passed_over), (None, vec![]));
}

#[tokio::test]
async fn credentials_that_cannot_be_read_are_told_and_the_rest_is_asked() {
    let (_, content) = image();
    let registry = Registry::start(move |request| content.reply(request)).await;
    let service = Service::new();
    let text = format!(
        "server = \"http://{0}\"\n[host.\"http://localhost:1\".credentials]\nfile = \"lacking.json\"",
        registry.host()
    );
    service.hosts("reg.example", &text);
    let found = explain(&service, "reg.example/team/app:x").await;
    assert!(found.is_resolved());
    assert!(found.hosts[0].not_asked.as_ref().unwrap().contains("lacking.json"));
    assert!(found.hosts[0].probe.is_none() && found.hosts[1].probe.is_some());
}

/// Some registries have no `HEAD`, and say no digest.
#[tokio::test]
async fn a_host_that_knows_only_get_is_asked_so() {
    let (image, _) = image();
    let manifest = image.manifest.clone();
    let registry = Registry::start(move |request| match request.method.as_str() {
        "GET" => Reply::ok(manifest.clone()).header("content-type", OCI_MANIFEST),
        _ => Reply::status(405),
    })
    .await;
    let service = Service::new();
    let found = explain(&service, &format!("{}/team/app:x", registry.host())).await;
    assert_eq!(exchanges(&found, 0), [("HEAD".to_owned(), Some(405)), ("GET".to_owned(), Some(200))]);
    assert_eq!(found.meant.unwrap().digest, image.digest().to_string());
}
