//! The catalogue over restarts and damage, with images that have no layers.

use super::*;

const CONFIG: &str = r#"{"os":"linux","architecture":"amd64","config":{"User":"7"}}"#;

struct Fixture {
    dir: tempfile::TempDir,
    layers: Layers,
}

impl Fixture {
    fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let layers = Layers::open(&dir.path().join("store")).unwrap();
        Fixture { dir, layers }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("catalog")
    }

    fn open(&self) -> Catalog {
        Catalog::open(&self.path(), &["pinned.example/x".to_owned()], &self.layers).unwrap()
    }
}

fn image(config: &str, names: &[&str]) -> NewImage {
    NewImage {
        id: Digest::of(config.as_bytes()),
        config: config.to_owned(),
        manifest: Some(manifest(config)),
        size_bytes: 5,
        names: names.iter().map(|name| name.parse().unwrap()).collect(),
        nameless: false,
    }
}

fn manifest(text: &str) -> KeptManifest {
    let text = format!("{{\"of\": {text:?}}}");
    KeptManifest { media_type: "a/b".to_owned(), digest: Digest::of(text.as_bytes()), text }
}

fn digest_name(repository: &str) -> String {
    format!("{repository}@{}", Digest::of(repository.as_bytes()))
}

#[test]
fn an_image_is_found_by_each_of_its_names_also_after_a_restart() {
    let fixture = Fixture::new();
    let by_digest = digest_name("r.example/a");
    let added = fixture.open().add(image(CONFIG, &["r.example/a:1", &by_digest, "busybox"])).unwrap();
    let catalog = fixture.open();
    for text in
        ["r.example/a:1", &by_digest, "busybox", "docker.io/library/busybox:latest", &added.id.to_string()]
    {
        assert_eq!(catalog.find(text).unwrap().as_ref(), Some(&added), "{text}");
    }
    for text in [added.id.hex(), &added.id.hex()[..13], &added.id.to_string()[..20]] {
        assert_eq!(catalog.find(text).unwrap().as_ref(), Some(&added), "{text}");
    }
    assert!(catalog.find(&added.id.hex()[..7]).unwrap().is_none());
    assert!(catalog.find("r.example/a:2").unwrap().is_none());
    assert!(matches!(catalog.find("UPPER"), Err(Error::BadReference { .. })));
    assert_eq!(added.repo_tags, ["docker.io/library/busybox:latest", "r.example/a:1"]);
    assert_eq!(added.repo_digests, std::slice::from_ref(&by_digest));
    assert_eq!(added.reference(), by_digest);
    assert_eq!((&added.user, added.size_bytes, added.pinned), (&ImageUser::Uid(7), 5, false));
    assert_eq!(catalog.config_text(&added.id).unwrap(), CONFIG);
}

#[test]
fn a_moved_tag_leaves_the_old_image_its_other_names() {
    let fixture = Fixture::new();
    let catalog = fixture.open();
    let (one, two) = (digest_name("r.example/one"), digest_name("r.example/two"));
    let old = catalog.add(image("{}", &["r.example/a:1", &one])).unwrap().id.clone();
    let new = catalog.add(image(CONFIG, &["r.example/a:1", &two])).unwrap().id.clone();
    for catalog in [catalog, fixture.open()] {
        assert_eq!(catalog.find("r.example/a:1").unwrap().unwrap().id, new);
        let old = catalog.get(&old).unwrap();
        assert!(old.repo_tags.is_empty());
        assert_eq!(old.repo_digests, std::slice::from_ref(&one));
        assert_eq!(catalog.all().len(), 2);
    }
}

#[test]
fn removing_an_image_takes_all_its_names() {
    let fixture = Fixture::new();
    let catalog = fixture.open();
    let id = catalog.add(image(CONFIG, &["r.example/a:1", "r.example/b:1"])).unwrap().id.clone();
    catalog.add(image("{}", &["pinned.example/x"])).unwrap();
    catalog.remove(&id).unwrap();
    catalog.remove(&id).unwrap();
    for catalog in [catalog, fixture.open()] {
        assert!(catalog.find("r.example/b:1").unwrap().is_none());
        let left = catalog.all();
        assert_eq!(left.len(), 1);
        assert!(left[0].pinned);
    }
    assert_eq!(fs::read_dir(fixture.path().join("images")).unwrap().count(), 1);
}

/// As on a full disk: the record of the image could be written, that of the names not.
#[test]
fn an_image_whose_names_cannot_be_written_is_not_there() {
    let fixture = Fixture::new();
    let catalog = fixture.open();
    let known = catalog.add(image("{}", &["r.example/known:1"])).unwrap().id.clone();
    let in_the_way = fixture.path().join("references.json.tmp");
    fs::create_dir(&in_the_way).unwrap();
    assert!(catalog.add(image(CONFIG, &["r.example/a:1"])).is_err());
    assert!(catalog.add(image("{}", &["r.example/more:1"])).is_err());
    fs::remove_dir(&in_the_way).unwrap();
    catalog.add(image("{}", &["r.example/later:1"])).unwrap();
    for catalog in [catalog, fixture.open()] {
        assert_eq!(catalog.all().iter().map(|image| &image.id).collect::<Vec<_>>(), [&known]);
    }
}

#[test]
fn what_is_wanted_by_now_is_not_removed() {
    let fixture = Fixture::new();
    let catalog = fixture.open();
    let id = catalog.add(image(CONFIG, &[&digest_name("r.example/a")])).unwrap().id.clone();
    let untagged = |image: &Image| image.repo_tags.is_empty();
    catalog.add(image(CONFIG, &["r.example/a:1"])).unwrap();
    assert!(!catalog.remove_if(&id, untagged).unwrap() && catalog.get(&id).is_some());
    assert!(catalog.remove_if(&id, |image| !untagged(image)).unwrap() && catalog.get(&id).is_none());
    assert!(!catalog.remove_if(&id, |_| true).unwrap());
}

#[test]
fn a_broken_record_is_set_aside() {
    let fixture = Fixture::new();
    let catalog = fixture.open();
    let broken = catalog.add(image("{}", &["r.example/broken"])).unwrap().id.clone();
    let changed = catalog.add(image("{\"os\":\"linux\"}", &["r.example/changed"])).unwrap().id.clone();
    let good = catalog.add(image(CONFIG, &["r.example/good"])).unwrap().id.clone();
    let file = |id: &Digest| record::image_file(&fixture.path(), id);
    fs::write(file(&broken), "{").unwrap();
    let text = fs::read_to_string(file(&changed)).unwrap();
    fs::write(file(&changed), text.replace("linux", "Linux")).unwrap();
    fs::write(fixture.path().join("images/sha256-1.json.tmp"), "half").unwrap();
    let catalog = fixture.open();
    assert_eq!(catalog.all().iter().map(|image| image.id.clone()).collect::<Vec<_>>(), [good]);
    assert!(catalog.find("r.example/broken").unwrap().is_none());
    assert_eq!(fs::read_dir(fixture.path().join("images")).unwrap().count(), 3);
    assert!(catalog.add(image("{}", &["r.example/broken"])).is_ok());
    assert!(fixture.open().find("r.example/broken").unwrap().is_some());
}

#[test]
fn without_the_names_images_are_still_there() {
    let fixture = Fixture::new();
    let id = fixture.open().add(image(CONFIG, &["r.example/a"])).unwrap().id.clone();
    fs::write(record::references_file(&fixture.path()), "not json").unwrap();
    for _ in 0..2 {
        let image = fixture.open().get(&id).unwrap();
        assert!(image.repo_tags.is_empty() && image.repo_digests.is_empty());
        assert_eq!(image.reference(), id.to_string());
    }
}

#[test]
fn an_image_that_no_name_means_is_what_a_crash_left() {
    let fixture = Fixture::new();
    let id = fixture.open().add(image(CONFIG, &["r.example/a"])).unwrap().id.clone();
    record::remove(&record::references_file(&fixture.path())).unwrap();
    assert!(fixture.open().get(&id).is_none());
    assert_eq!(fs::read_dir(fixture.path().join("images")).unwrap().count(), 0);
}

#[test]
fn an_image_without_all_its_layers_is_not_listed() {
    let fixture = Fixture::new();
    let catalog = fixture.open();
    let config = format!(r#"{{"rootfs":{{"diff_ids":["{}"]}}}}"#, Digest::of(b"nowhere"));
    let id = catalog.add(image(&config, &["r.example/a"])).unwrap().id.clone();
    assert!(catalog.get(&id).is_some());
    let catalog = fixture.open();
    assert!(catalog.get(&id).is_none() && catalog.find("r.example/a").unwrap().is_none());
    catalog.add(image(&config, &["r.example/a"])).unwrap();
    assert!(catalog.find("r.example/a").unwrap().is_some());
}

#[test]
fn the_manifest_is_kept_word_for_word_and_is_that_of_the_last_pull() {
    let fixture = Fixture::new();
    let catalog = fixture.open();
    let id = catalog.add(image(CONFIG, &["r.example/a"])).unwrap().id.clone();
    assert_eq!(catalog.texts(&id).unwrap(), (CONFIG.to_owned(), Some(manifest(CONFIG))));
    let other = NewImage { manifest: Some(manifest("other")), size_bytes: 6, ..image(CONFIG, &[]) };
    assert_eq!(catalog.add(other).unwrap().size_bytes, 6);
    let without = NewImage { manifest: None, size_bytes: 7, ..image(CONFIG, &[]) };
    catalog.add(without).unwrap();
    for catalog in [catalog, fixture.open()] {
        assert_eq!(catalog.texts(&id).unwrap().1, Some(manifest("other")));
        assert_eq!(catalog.get(&id).unwrap().size_bytes, 6);
    }
}

/// Word for word what the first version wrote.
#[test]
fn an_image_of_the_first_version_is_read_and_gets_its_manifest_by_the_next_pull() {
    let fixture = Fixture::new();
    let id = fixture.open().add(image(CONFIG, &["r.example/a"])).unwrap().id.clone();
    let config = CONFIG.replace('"', "\\\"");
    let text = format!("{{\"version\":1,\"id\":\"{id}\",\"size_bytes\":5,\"config\":\"{config}\"}}");
    fs::write(record::image_file(&fixture.path(), &id), text).unwrap();
    let catalog = fixture.open();
    assert_eq!(catalog.texts(&id).unwrap(), (CONFIG.to_owned(), None));
    catalog.add(image(CONFIG, &["r.example/a"])).unwrap();
    assert_eq!(fixture.open().texts(&id).unwrap().1, Some(manifest(CONFIG)));
}

#[test]
fn a_manifest_that_is_not_what_its_digest_says_is_set_aside_with_its_image() {
    let fixture = Fixture::new();
    let id = fixture.open().add(image(CONFIG, &["r.example/a"])).unwrap().id.clone();
    let file = record::image_file(&fixture.path(), &id);
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("\\\"of\\\"", "\\\"Of\\\"")).unwrap();
    assert_ne!(fs::read_to_string(&file).unwrap(), text);
    assert!(fixture.open().get(&id).is_none());
}

#[test]
fn a_loaded_image_needs_no_name() {
    let fixture = Fixture::new();
    let catalog = fixture.open();
    let pulled = catalog.add(image("{}", &["r.example/a"])).unwrap().id.clone();
    let loaded = catalog.add(NewImage { nameless: true, ..image(CONFIG, &[]) }).unwrap().id.clone();
    for catalog in [catalog, fixture.open()] {
        assert_eq!(catalog.all().len(), 2);
        assert_eq!(catalog.get(&loaded).unwrap().reference(), loaded.to_string());
    }
    // One that was pulled first, and one whose name has moved away.
    fixture.open().add(NewImage { nameless: true, ..image("{}", &[]) }).unwrap();
    fixture.open().add(image(CONFIG, &["r.example/a"])).unwrap();
    assert!(fixture.open().get(&pulled).unwrap().repo_tags.is_empty());
}

#[test]
fn a_tag_is_taken_away_if_another_is_left() {
    let fixture = Fixture::new();
    let catalog = fixture.open();
    let id =
        catalog.add(image(CONFIG, &["r.example/a:1", "r.example/a:2", &digest_name("r.example/a")])).unwrap();
    assert!(catalog.untag(&"r.example/a:1".parse().unwrap()).unwrap());
    assert!(!catalog.untag(&"r.example/a:2".parse().unwrap()).unwrap());
    assert!(!catalog.untag(&"r.example/a:3".parse().unwrap()).unwrap());
    assert_eq!(fixture.open().get(&id.id).unwrap().repo_tags, ["r.example/a:2"]);
}
