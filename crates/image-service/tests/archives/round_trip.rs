//! Out and in again: the same image, whatever the form.

use image_service::{Algorithm, ArchiveForm, Compression, Digest, Digester, Error};

use crate::archive::{gzip, zstd};
use crate::packed::{Packed, docker, image, layout};
use crate::store::Store;
use crate::{needs_program, needs_root};

const FORMS: [(ArchiveForm, Compression); 6] = [
    (ArchiveForm::Oci, Compression::None),
    (ArchiveForm::Oci, Compression::Gzip),
    (ArchiveForm::Oci, Compression::Zstd),
    (ArchiveForm::Docker, Compression::None),
    (ArchiveForm::Docker, Compression::Gzip),
    (ArchiveForm::Docker, Compression::Zstd),
];

#[tokio::test]
async fn an_image_is_the_same_after_a_way_out_and_in() {
    needs_root!();
    let store = Store::new();
    let (one, two) = (image("one"), image("two"));
    assert_eq!(
        store.load(docker(&one, &["r.example/app:1", "r.example/app:2"])).await.unwrap()[0].names.len(),
        2
    );
    store.load(gzip(&layout(&two, "r.example/other:1"))).await.unwrap();
    assert_eq!(store.layers(), 3, "the lower layer is shared");
    for form in FORMS {
        let names = ["r.example/app:1", "r.example/other:1", "r.example/app:2", "r.example/app:1"];
        let archive = store.save(&names, form).await.unwrap();
        assert_eq!(store.save(&names, form).await.unwrap(), archive, "the same bytes each time");
        let fresh = Store::new();
        let loaded = fresh.load(archive).await.unwrap();
        assert_eq!(loaded.len(), 2, "{form:?}: {loaded:?}");
        for (packed, names) in
            [(&one, &["r.example/app:1", "r.example/app:2"][..]), (&two, &["r.example/other:1"])]
        {
            let found = fresh.images.status(names[0]).unwrap().unwrap();
            assert_eq!(
                (found.id.to_string(), &found.repo_tags[..]),
                (packed.id(), &names.map_strings()[..]),
                "{form:?}"
            );
            let config = fresh.images.config_json(&found.id).await.unwrap();
            assert_eq!(config.as_bytes(), packed.config, "word for word");
        }
        assert_eq!((fresh.layers(), fresh.leftovers()), (3, vec![]));
    }
}

trait MapStrings {
    fn map_strings(&self) -> Vec<String>;
}

impl MapStrings for &[&str] {
    fn map_strings(&self) -> Vec<String> {
        self.iter().map(|name| (*name).to_owned()).collect()
    }
}

/// By SHA-512, whose digits make names longer than a header of tar holds; and for no platform that it names.
#[tokio::test]
async fn odd_images_go_out_and_in_too() {
    needs_root!();
    let mut long = image("long");
    let digest = |bytes: &[u8]| {
        let mut digester = Digester::new(Algorithm::Sha512);
        digester.update(bytes);
        digester.finish().to_string()
    };
    let config = String::from_utf8(long.config.clone()).unwrap();
    let ids = long.layers.iter().map(|layer| (Digest::of(layer).to_string(), digest(layer)));
    long.config = ids.fold(config, |config, (old, new)| config.replace(&old, &new)).into_bytes();
    let anywhere = Packed::new("", image("anywhere").layers);
    for packed in [long, anywhere] {
        let store = Store::new();
        store.load(docker(&packed, &["r.example/odd:1"])).await.unwrap();
        for form in FORMS {
            let archive = store.save(&["r.example/odd:1"], form).await.unwrap();
            let fresh = Store::new();
            let loaded = fresh.load(archive).await.unwrap();
            assert_eq!((loaded.len(), loaded[0].id.to_string()), (1, packed.id()), "{form:?}");
        }
    }
}

/// Whoever else reads tar finds the same names.
#[tokio::test]
async fn long_names_are_those_of_the_standard() {
    needs_root!();
    needs_program!("tar");
    let mut packed = image("standard");
    packed.layers.truncate(1);
    let mut digester = Digester::new(Algorithm::Sha512);
    digester.update(&packed.layers[0]);
    let long = digester.finish();
    let config = format!(r#"{{"rootfs":{{"diff_ids":["{long}"]}}}}"#);
    packed.config = config.into_bytes();
    let store = Store::new();
    store.load(docker(&packed, &["r.example/long:1"])).await.unwrap();
    std::fs::write(store.path("a.tar"), store.save(&["r.example/long:1"], FORMS[0]).await.unwrap()).unwrap();
    let listed = std::process::Command::new("tar").arg("-tf").arg(store.path("a.tar")).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.lines().any(|name| name == format!("blobs/sha512/{}", long.hex())), "{listed}");
}

/// A layer that came with one image is back for all that had lost it.
#[tokio::test]
async fn what_an_archive_brings_back_is_back_for_all() {
    needs_root!();
    let store = Store::new();
    let (one, two) = (image("one"), image("two"));
    store.load(docker(&one, &["r.example/one:1"])).await.unwrap();
    store.load(docker(&two, &["r.example/two:1"])).await.unwrap();
    store.lose(&one.layers[0]);
    let store = store.reopen();
    assert!(store.images.list(None).is_empty());
    store.load(docker(&one, &[])).await.unwrap();
    assert_eq!(store.images.list(None).len(), 2);
}

#[tokio::test]
async fn an_image_without_a_name_stays_until_it_is_removed() {
    needs_root!();
    let store = Store::new();
    let packed = image("nameless");
    let loaded = store.load(docker(&packed, &[])).await.unwrap();
    assert_eq!((loaded[0].id.to_string(), loaded[0].names.len()), (packed.id(), 0));
    let store = store.reopen();
    let archive = store.save(&[&packed.id()], FORMS[0]).await.unwrap();
    let fresh = Store::new();
    assert_eq!(fresh.load(archive.clone()).await.unwrap(), loaded);
    let named = fresh.load_as(zstd(&archive), Some("r.example/named:3")).await.unwrap();
    assert_eq!(named[0].names, ["r.example/named:3"]);
    store.images.remove(&packed.id()).await.unwrap();
    assert!(store.images.list(None).is_empty() && store.layers() == 0);
}

#[tokio::test]
async fn a_tag_alone_needs_a_name_before_it() {
    needs_root!();
    let store = Store::new();
    let packed = image("tagged");
    assert!(store.load(layout(&packed, "v7")).await.unwrap()[0].names.is_empty());
    let named = store.load_as(layout(&packed, "v7"), Some("r.example/team/app")).await.unwrap();
    assert_eq!(named[0].names, ["r.example/team/app:v7"]);
    let error = store.load_as(layout(&packed, "v7"), Some("UPPER")).await.unwrap_err();
    assert!(matches!(error, Error::BadReference { .. }), "{error}");
}

#[tokio::test]
async fn what_cannot_be_saved_is_told_before_the_first_byte() {
    needs_root!();
    let store = Store::new();
    let packed = image("old");
    store.load(docker(&packed, &["r.example/old:1"])).await.unwrap();
    let error = store.save(&["r.example/old:1", "r.example/none:1"], FORMS[0]).await.unwrap_err();
    assert!(matches!(error, Error::ImageMissing { .. }), "{error}");
    let upper = image_service::Digest::of(&packed.layers[1]);
    std::fs::remove_file(store.path("root/images/layers/sha256").join(upper.hex()).join("archive")).unwrap();
    let error = store.save(&["r.example/old:1"], FORMS[0]).await.unwrap_err();
    assert!(matches!(&error, Error::NoRecipe { diff_id } if *diff_id == upper), "{error}");
}

#[tokio::test]
async fn layers_that_are_here_need_not_come_again() {
    needs_root!();
    let store = Store::new();
    let packed = image("thin");
    store.load(docker(&packed, &["r.example/thin:1"])).await.unwrap();
    let without = Packed { config: packed.config.clone(), layers: packed.layers.clone() };
    let mut layout = crate::packed::Layout::default();
    let manifest = layout.image(&without);
    layout.entry(manifest, serde_json::json!({}));
    layout.blobs.retain(|(_, bytes)| !packed.layers.contains(bytes));
    let archive = layout.tar().bytes();
    assert_eq!(store.load(archive.clone()).await.unwrap()[0].id.to_string(), packed.id());
    let error = Store::new().load(archive).await.unwrap_err().to_string();
    assert!(error.contains("it lacks the layer"), "{error}");
}
