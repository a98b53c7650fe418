//! Manifests, indexes and configurations that are refused.

use image_service::{Algorithm, Digest, Digester, ErrorKind};

use crate::Service;
use crate::image::{Content, ImageBytes, LayerBytes, OCI_INDEX, OCI_MANIFEST, architecture};
use crate::registry::{Registry, Reply};

fn image() -> (ImageBytes, Content) {
    let image = ImageBytes::new(vec![LayerBytes::new("a", 10)]);
    let mut content = Content::default();
    image.publish(&mut content, "a", "x");
    (image, content)
}

async fn refusal_of(content: Content, reference: &str) -> (ErrorKind, String) {
    let registry = Registry::start(move |request| content.reply(request)).await;
    let service = Service::new();
    let refusal = service.refusal(&format!("{}/{reference}", registry.host())).await;
    assert!(service.layers().is_empty() && service.images.list(None).is_empty());
    refusal
}

#[tokio::test]
async fn a_manifest_is_what_its_digest_says() {
    let (image, mut content) = image();
    let digest = Digest::of(b"something else");
    content.put(&format!("/v2/a/manifests/{digest}"), OCI_MANIFEST, image.manifest.clone());
    let (kind, text) = refusal_of(content, &format!("a@{digest}")).await;
    assert_eq!(kind, ErrorKind::Corrupt);
    assert!(text.contains(&digest.to_string()) && text.contains(&image.digest().to_string()), "{text}");
}

#[tokio::test]
async fn a_manifest_by_tag_is_what_its_header_says() {
    let (image, _) = image();
    let manifest = image.manifest.clone();
    let registry = Registry::start(move |_| {
        Reply::ok(manifest.clone())
            .header("content-type", OCI_MANIFEST)
            .header("docker-content-digest", Digest::of(b"something else").to_string())
    })
    .await;
    let (kind, _) = Service::new().refusal(&format!("{}/a:x", registry.host())).await;
    assert_eq!(kind, ErrorKind::Corrupt);
}

#[tokio::test]
async fn documents_that_could_be_read_in_two_ways_are_refused() {
    let (image, mut content) = image();
    let both = image.manifest.replacen('{', "{\"manifests\":[],", 1);
    content.put("/v2/a/manifests/both", OCI_MANIFEST, both);
    content.put("/v2/a/manifests/other", OCI_INDEX, image.manifest);
    for tag in ["both", "other"] {
        let (kind, text) = refusal_of(content.clone(), &format!("a:{tag}")).await;
        assert_eq!(kind, ErrorKind::Corrupt);
        assert!(text.contains("is refused"), "{text}");
    }
}

#[tokio::test]
async fn schema_1_is_refused_by_name() {
    let mut content = Content::default();
    let media_type = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    content.put("/v2/a/manifests/x", media_type, r#"{"schemaVersion":1,"fsLayers":[]}"#);
    let (kind, text) = refusal_of(content, "a:x").await;
    assert_eq!(kind, ErrorKind::Corrupt);
    assert!(text.contains("schema 1"), "{text}");
}

#[tokio::test]
async fn documents_have_a_largest_size() {
    let (_, mut content) = image();
    content.put("/v2/a/manifests/x", OCI_MANIFEST, vec![b' '; (8 << 20) + 1]);
    let (kind, text) = refusal_of(content, "a:x").await;
    assert_eq!(kind, ErrorKind::Corrupt);
    assert!(text.ends_with("is larger than 8388608 bytes"), "{text}");
}

#[tokio::test]
async fn a_configuration_has_its_stated_size_and_digest() {
    let (image, content) = image();
    let path = format!("/v2/a/blobs/{}", image.id);
    let mut longer = content.clone();
    longer.put(&path, "", format!("{} ", image.config));
    assert!(refusal_of(longer, "a:x").await.1.contains("is larger than"));
    let mut other = content;
    other.put(&path, "", image.config.replace("nobody", "daemon"));
    assert!(refusal_of(other, "a:x").await.1.contains("should have the digest"));
}

/// As containerd and CRI-O have it: an index is searched for this machine, but who names a manifest gets it, be it to emulate
/// another processor or because its builder named the wrong one.
#[tokio::test]
async fn an_image_for_others_is_not_found_unless_it_is_named() {
    let theirs = ImageBytes::of_platform("s390x", vec![LayerBytes::new("a", 10)]);
    let index = |entry: String| format!(r#"{{"schemaVersion":2,"manifests":[{entry}]}}"#);
    let mut content = Content::default();
    content.put("/v2/a/manifests/index", OCI_INDEX, index(theirs.entry("s390x")));
    content.put("/v2/a/manifests/mislabelled", OCI_INDEX, index(theirs.entry(architecture())));
    let platform = format!(r#","platform":{{"os":"linux","architecture":"{}"}}"#, architecture());
    let silent = theirs.entry(architecture()).replace(&platform, "");
    assert!(!silent.contains("platform"), "{silent}");
    content.put("/v2/a/manifests/silent", OCI_INDEX, index(silent));
    theirs.publish(&mut content, "a", "direct");
    let registry = Registry::start({
        let content = content.clone();
        move |request| content.reply(request)
    })
    .await;
    let service = Service::new();
    for tag in ["direct", "mislabelled"] {
        assert_eq!(service.pull(&format!("{}/a:{tag}", registry.host())).await.unwrap(), theirs.id, "{tag}");
    }
    for tag in ["index", "silent"] {
        let (kind, text) = refusal_of(content.clone(), &format!("a:{tag}")).await;
        assert_eq!(kind, ErrorKind::NotFound);
        let end = format!("has no image for linux/{}, only for linux/s390x", architecture());
        assert!(text.ends_with(&end), "{text}");
    }
}

#[tokio::test]
async fn indexes_do_not_nest_for_ever() {
    let (_, mut content) = image();
    let mut inner = format!(r#"{{"schemaVersion":2,"manifests":[],"mediaType":"{OCI_INDEX}"}}"#);
    for _ in 0..10 {
        let digest = Digest::of(inner.as_bytes());
        content.put(&format!("/v2/a/manifests/{digest}"), OCI_INDEX, inner.clone());
        let size = inner.len();
        inner = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{OCI_INDEX}","digest":"{digest}","size":{size}}}]}}"#
        );
    }
    content.put("/v2/a/manifests/deep", OCI_INDEX, inner);
    let (kind, text) = refusal_of(content, "a:deep").await;
    assert_eq!(kind, ErrorKind::Corrupt);
    assert!(text.ends_with("it leads through more than 3 indexes"), "{text}");
}

/// An image whose parts are known by SHA-512, as the specification has it beside SHA-256.
#[tokio::test]
async fn digests_may_be_longer() {
    let (image, _) = image();
    let long = |bytes: &[u8]| {
        let mut digester = Digester::new(Algorithm::Sha512);
        digester.update(bytes);
        digester.finish()
    };
    let layer = &image.layers[0];
    let config = image.config.clone();
    let manifest = image
        .manifest
        .replace(&image.id.to_string(), &long(config.as_bytes()).to_string())
        .replace(&layer.digest.to_string(), &long(&layer.blob).to_string());
    let digest = long(manifest.as_bytes());
    let mut content = Content::default();
    content.put(&format!("/v2/a/manifests/{digest}"), OCI_MANIFEST, manifest);
    content.put(&format!("/v2/a/blobs/{}", long(config.as_bytes())), "", config.clone());
    content.put(&format!("/v2/a/blobs/{}", long(&layer.blob)), "", layer.blob.clone());
    let registry = Registry::start(move |request| content.reply(request)).await;
    let service = Service::new();
    let id = service.pull(&format!("{}/a@{digest}", registry.host())).await.unwrap();
    assert_eq!(id, long(config.as_bytes()));
}

/// CVE-2021-41190, and what else could be read in two ways: through an index, too.
#[tokio::test]
async fn a_child_that_is_not_what_its_index_says_is_refused() {
    let (image, mut content) = image();
    let entry = image.entry(architecture()).replace(OCI_MANIFEST, OCI_INDEX);
    content.put("/v2/a/manifests/x", OCI_INDEX, format!(r#"{{"schemaVersion":2,"manifests":[{entry}]}}"#));
    let (kind, text) = refusal_of(content, "a:x").await;
    assert_eq!(kind, ErrorKind::Corrupt);
    assert!(text.contains("it calls itself"), "{text}");
}

/// Charts, signatures and models are pushed to the same registries; as an image volume they would be asked for by name.
#[tokio::test]
async fn an_artifact_is_refused_by_the_name_of_its_type() {
    let (image, mut content) = image();
    let artifact = image.manifest.replace("image.config.v1", "empty.v1").replacen(
        '{',
        r#"{"artifactType":"application/vnd.x.model","#,
        1,
    );
    content.put("/v2/a/manifests/x", OCI_MANIFEST, artifact);
    let (kind, text) = refusal_of(content, "a:x").await;
    assert_eq!(kind, ErrorKind::Corrupt);
    assert!(text.contains("an artifact of the type \"application/vnd.x.model\""), "{text}");
}

#[tokio::test]
async fn layers_that_cannot_be_unpacked_are_refused_before_anything_is_fetched() {
    for (of, becomes, words) in [
        ("layer.v1.tar+gzip", "layer.v1.tar+gzip+encrypted", "is encrypted"),
        (
            "layer.v1.tar+gzip",
            "layer.v1.squashfs",
            "unsupported type \"application/vnd.oci.image.layer.v1.squashfs\"",
        ),
    ] {
        let (image, mut content) = image();
        content.put("/v2/a/manifests/x", OCI_MANIFEST, image.manifest.replace(of, becomes));
        let registry = Registry::start(move |request| content.reply(request)).await;
        let service = Service::new();
        let (kind, text) = service.refusal(&format!("{}/a:x", registry.host())).await;
        assert_eq!(kind, ErrorKind::Corrupt);
        assert!(text.contains(words) && text.contains(&image.layers[0].digest.to_string()), "{text}");
        assert_eq!(registry.requests().len(), 1);
    }
}

/// CVE-2023-25153's class: what is read into memory has a bound, and so has what is made of it.
#[tokio::test]
async fn a_configuration_with_a_million_variables_is_refused() {
    let (image, mut content) = image();
    let variables = vec!["\"a=b\""; 1_000_000].join(",");
    let config = image.config.replace("\"Cmd\"", &format!("\"Env\":[{variables}],\"Cmd\""));
    let id = Digest::of(config.as_bytes());
    let manifest = image.manifest.replace(&image.id.to_string(), &id.to_string()).replacen(
        &format!("\"size\":{}", image.config.len()),
        &format!("\"size\":{}", config.len()),
        1,
    );
    content.put(&format!("/v2/a/blobs/{id}"), "", config);
    content.put("/v2/a/manifests/x", OCI_MANIFEST, manifest);
    let (kind, text) = refusal_of(content, "a:x").await;
    assert_eq!(kind, ErrorKind::Corrupt);
    assert!(text.ends_with("it has 1000000 variables where 10000 are the most"), "{text}");
}
