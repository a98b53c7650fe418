//! Archives that are wrong, or made to do harm: each is refused with the reason, and leaves nothing.

use std::collections::BTreeMap;

use image_service::{Digest, Error, ErrorKind, Limits};
use serde_json::json;

use crate::archive::{Tar, dir, file, gzip, hard_link, symlink};
use crate::needs_root;
use crate::packed::{INDEX, Layout, MANIFEST, Packed, architecture, docker, image, layout};
use crate::store::Store;

/// Loads an archive that must be refused.
async fn refusal(what: &str, archive: Vec<u8>) -> Error {
    let store = Store::new();
    let error = match store.load(archive).await {
        Ok(loaded) => panic!("{what} was loaded: {loaded:?}"),
        Err(error) => error,
    };
    assert!(store.images.list(None).is_empty(), "{what}");
    assert_eq!((store.layers(), store.leftovers()), (0, vec![]), "{what}");
    error
}

/// A layout of one image after a change.
fn changed(change: impl FnOnce(&mut Layout)) -> Vec<u8> {
    let mut layout = Layout::default();
    let manifest = layout.image(&image("x"));
    layout.entry(manifest, json!({}));
    change(&mut layout);
    layout.tar().bytes()
}

fn documents(files: &[(&str, &str)]) -> Vec<u8> {
    files.iter().fold(Tar::new(), |tar, (name, text)| tar.with(file(name, text))).bytes()
}

#[tokio::test]
async fn what_is_no_archive_of_images_is_refused_by_what_it_lacks() {
    needs_root!();
    let version = r#"{"imageLayoutVersion":"1.0.0"}"#;
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nothing", Vec::new(), "neither an \"index.json\" nor a \"manifest.json\""),
        ("text", b"hello".repeat(200), "checksum"),
        ("another archive", documents(&[("etc/passwd", "root")]), "neither an \"index.json\""),
        ("Docker's first form", documents(&[("repositories", "{}")]), "first form"),
        ("no layout", documents(&[("index.json", "{}")]), "lacks \"oci-layout\""),
        (
            "a future layout",
            documents(&[("index.json", "{}"), ("oci-layout", r#"{"imageLayoutVersion":"2"}"#)]),
            "version \"2\"",
        ),
        (
            "an index that is none",
            documents(&[("index.json", "[]"), ("oci-layout", version)]),
            "\"index.json\" can't be read",
        ),
        (
            "an index that is a manifest",
            documents(&[("index.json", r#"{"layers":[]}"#), ("oci-layout", version)]),
            "parts of a manifest",
        ),
        ("no images", documents(&[("manifest.json", "[]")]), "no image"),
        ("a name that isn't one", docker(&image("x"), &["UPPER CASE"]), "UPPER CASE"),
        ("a name by digest", docker(&image("x"), &[&format!("a@{}", Digest::of(b""))]), "by a digest"),
        (
            "half an archive",
            {
                let whole = docker(&image("x"), &["a"]);
                whole[..whole.len() / 2].to_vec()
            },
            "it ends within an entry",
        ),
        (
            "half a compressed one",
            {
                let whole = gzip(&docker(&image("x"), &["a"]));
                whole[..whole.len() / 2].to_vec()
            },
            "cannot read the archive",
        ),
    ];
    for (what, archive, reason) in cases {
        let error = refusal(what, archive).await;
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{what}: {error}");
        assert!(error.to_string().contains(reason), "{what}: {error}");
    }
}

#[tokio::test]
async fn blobs_are_what_their_digests_say() {
    needs_root!();
    for at in 0..4 {
        let archive = changed(|layout| layout.blobs[at].1.push(b' '));
        assert!(refusal("a longer blob", archive).await.to_string().contains("has the digest"));
        let archive = changed(|layout| drop(layout.blobs.remove(at)));
        assert!(refusal("a missing blob", archive).await.to_string().contains("it lacks the"));
    }
    let archive = changed(|layout| layout.entries[0]["size"] = json!(7));
    assert!(refusal("a wrong size", archive).await.to_string().contains("bytes where 7 are stated"));
    // Layers whose names are right, and whose configuration lies about them; and one that is no archive.
    let mut packed = image("x");
    packed.layers[1] = Tar::new().with(file("other", "content")).bytes();
    assert!(matches!(refusal("another layer", docker(&packed, &["a"])).await, Error::LayerDigest { .. }));
    packed.layers.pop();
    assert!(refusal("too few layers", docker(&packed, &["a"])).await.to_string().contains("names 2 layers"));
    let junk = Packed::new(architecture(), vec![b"no archive".repeat(100)]);
    assert!(matches!(refusal("junk", layout(&junk, "a:1")).await, Error::LayerArchive { .. }));
    let climbing = Packed::new(architecture(), vec![Tar::new().with(file("../../etc/x", "")).bytes()]);
    assert!(matches!(refusal("climbing", docker(&climbing, &["a"])).await, Error::EntryRefused { .. }));
}

#[tokio::test]
async fn names_in_the_archive_lead_nowhere_else() {
    needs_root!();
    let manifest = |config: &str| json!([{ "Config": config, "RepoTags": ["a"], "Layers": [] }]).to_string();
    let outside = std::env::temp_dir().join("knarr-outside");
    let outside = outside.to_str().unwrap();
    let cases = [
        ("a name that climbs", Tar::new().with(file("../x", "")), "\"../x\""),
        ("a link that climbs", Tar::new().with(symlink("a/b", "../../x")), "outside the archive"),
        ("a hard link that climbs", Tar::new().with(hard_link("a", "../x")), "outside the archive"),
        (
            "a link in a circle",
            Tar::new()
                .with(symlink("c", "d"))
                .with(symlink("d", "c"))
                .with(file("manifest.json", manifest("c"))),
            "lacks \"c\"",
        ),
        (
            "a file of the host",
            Tar::new().with(symlink("c", "/etc/hostname")).with(file("manifest.json", manifest("c"))),
            "lacks \"c\"",
        ),
        (
            "a path of the host",
            Tar::new().with(file("manifest.json", manifest("../../../etc/hostname"))),
            "lacks",
        ),
        (
            "two of one name",
            Tar::new().with(file("index.json", "{}")).with(file("./index.json", "[]")),
            "the same name",
        ),
        (
            "a sparse file",
            Tar::new().with(
                file("x", "")
                    .pax("GNU.sparse.major", "0")
                    .pax("GNU.sparse.minor", "0")
                    .pax("GNU.sparse.size", "1099511627776"),
            ),
            "sparse",
        ),
        ("a directory for a document", Tar::new().with(dir("manifest.json")), "neither"),
    ];
    for (what, tar, reason) in cases {
        let error = refusal(what, tar.bytes()).await.to_string();
        assert!(error.contains(reason), "{what}: {error}");
        assert!(!std::path::Path::new(outside).exists());
    }
}

/// CVE-2023-25153: containerd read such a document into memory, whatever its size.
#[tokio::test]
async fn documents_are_bounded() {
    needs_root!();
    let large = " ".repeat(9 << 20);
    for name in ["index.json", "manifest.json", "oci-layout"] {
        let mut files =
            BTreeMap::from([("index.json", "{}"), ("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)]);
        if name == "manifest.json" {
            files.clear();
        }
        files.insert(name, &large);
        let files: Vec<(&str, &str)> = files.into_iter().collect();
        let error = refusal(name, documents(&files)).await.to_string();
        assert!(error.contains(&format!("\"{name}\" is larger than 8388608 bytes")), "{error}");
    }
    let mut packed = image("x");
    packed.config.extend(large.bytes());
    for archive in [docker(&packed, &["a"]), layout(&packed, "a:1")] {
        assert!(refusal("a large configuration", archive).await.to_string().contains("larger than"));
    }
    let many = (0..1_001).fold(Layout::default(), |mut layout, _| {
        let manifest = json!({ "mediaType": MANIFEST, "digest": Digest::of(b"").to_string(), "size": 0 });
        layout.entry(manifest, json!({}));
        layout
    });
    assert!(refusal("many entries", many.tar().bytes()).await.to_string().contains("more than 1000"));
    let entries = (0..20_001).fold(Tar::new(), |tar, _| tar.with(dir("d")));
    assert!(refusal("many files", entries.bytes()).await.to_string().contains("too many entries"));
}

/// As for pulls: so many bytes whatever the size, and some times the size.
#[tokio::test]
async fn what_it_all_unpacks_to_is_bounded() {
    needs_root!();
    let bounded = || Store::bounded(Limits { unpacked_floor: 2 << 20, expansion: 10, ..Limits::default() });
    let zeros = Packed::new(architecture(), vec![Tar::new().with(file("z", vec![0; 4 << 20])).bytes()]);
    let plain = docker(&zeros, &["a"]);
    bounded().load(plain.clone()).await.unwrap();
    let store = bounded();
    let error = store.load(gzip(&plain)).await.unwrap_err();
    assert!(error.to_string().contains("it unpacks to too many times its size"), "{error}");
    let mut layout = Layout::default();
    let packed = Packed { config: zeros.config.clone(), layers: vec![gzip(&zeros.layers[0])] };
    let manifest = layout.image(&packed);
    layout.entry(manifest, json!({}));
    let error = store.load(layout.tar().bytes()).await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.starts_with("it unpacks to more than"), "{error}: {cause}");
    assert_eq!((store.layers(), store.leftovers()), (0, vec![]));
}

/// CVE-2021-41190 by another way, as in manifests.
#[tokio::test]
async fn letter_case_makes_no_second_document() {
    needs_root!();
    let cases = [
        (r#"{"manifests":[],"Manifests":[]}"#, r#"{"imageLayoutVersion":"1.0.0"}"#),
        (r#"{"manifests":[{"Size":1,"size":2}]}"#, r#"{"imageLayoutVersion":"1.0.0"}"#),
        ("{}", r#"{"imageLayoutVersion":"1.0.0","imagelayoutversion":"2"}"#),
    ];
    for (index, layout) in cases {
        let error = refusal(index, documents(&[("index.json", index), ("oci-layout", layout)])).await;
        assert!(error.to_string().contains("other letter case"), "{index}: {error}");
    }
    let docker = r#"[{"Config":"a","config":"b"}]"#;
    let error = refusal("docker's", documents(&[("manifest.json", docker)])).await;
    assert!(error.to_string().contains("other letter case"), "{error}");
}

#[tokio::test]
async fn of_several_platforms_this_one_is_taken() {
    needs_root!();
    let foreign = if architecture() == "amd64" { "arm64" } else { "amd64" };
    let ours = image("ours");
    let theirs = Packed::new(foreign, vec![Tar::new().with(file("theirs", "")).bytes()]);
    let named = json!({ "org.opencontainers.image.ref.name": "r.example/app:1" });
    let on = |arch: &str| json!({ "os": "linux", "architecture": arch });
    // In the layout's own index, by one name; in an index of their own; with an attestation beside them.
    let mut flat = Layout::default();
    let mut nested = Layout::default();
    let mut entries = Vec::new();
    for (packed, architecture) in [(&theirs, foreign), (&ours, architecture()), (&theirs, "unknown")] {
        let manifest = flat.image(packed);
        flat.entry(manifest, json!({ "platform": on(architecture), "annotations": named }));
        let mut manifest = nested.image(packed);
        manifest["platform"] = on(architecture);
        entries.push(manifest);
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
    let index = nested.blob(INDEX, index.to_string().into_bytes());
    nested.entry(index, json!({ "annotations": named }));
    for layout in [flat, nested] {
        let store = Store::new();
        let loaded = store.load(layout.tar().bytes()).await.unwrap();
        assert_eq!(loaded.len(), 1, "{loaded:?}");
        assert_eq!(
            (loaded[0].id.to_string(), &loaded[0].names[..]),
            (ours.id(), &["r.example/app:1".to_owned()][..])
        );
    }
    let mut layout = Layout::default();
    let manifest = layout.image(&theirs);
    layout.entry(manifest.clone(), json!({ "platform": on(foreign) }));
    let error = refusal("another platform", layout.tar().bytes()).await;
    assert!(matches!(&error, Error::NoPlatform { offered, .. } if offered.contains(foreign)), "{error}");
    // Without a word in the index, the configuration tells.
    let error = refusal("another platform", docker(&theirs, &["a"])).await;
    assert!(matches!(&error, Error::NoPlatform { .. }), "{error}");
}

/// One image of several is wrong: none is loaded.
#[tokio::test]
async fn all_images_or_none() {
    needs_root!();
    let mut layout = Layout::default();
    for packed in [image("good"), Packed::new(architecture(), vec![b"junk".repeat(300)])] {
        let manifest = layout.image(&packed);
        layout.entry(manifest, json!({}));
    }
    refusal("one of two", layout.tar().bytes()).await;
}
