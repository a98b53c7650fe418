//! What becomes of damage.

use std::time::Duration;

use image_service::layers::{Condition, LayerForm};
use image_service::{CareSettings, Error, PullRequest};

use crate::archive::{Tar, dir, file};
use crate::image::{Content, ImageBytes, LayerBytes};
use crate::registry::Registry;
use crate::{World, is_root, open, until};

fn only_on_demand() -> CareSettings {
    CareSettings { period: None, ..CareSettings::default() }
}

/// Tests of both forms.
macro_rules! in_both_forms {
    ($($test:ident)+) => {
        mod images {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                if super::is_root() {
                    super::$test(super::LayerForm::Auto).await;
                }
            })+
        }
        mod directories {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                if super::is_root() {
                    super::$test(super::LayerForm::Directory).await;
                }
            })+
        }
    };
}

in_both_forms!(
    a_damaged_layer_is_found_on_demand_and_only_it_is_fetched_again
    what_cannot_be_fetched_is_not_listed_until_the_next_pull
);

async fn a_damaged_layer_is_found_on_demand_and_only_it_is_fetched_again(form: LayerForm) {
    let world = World::in_form(form).await;
    let [shared, own] = [&world.images[0].layers[0], &world.images[0].layers[1]];
    let checked = world.service.check(&world.name("a")).await.unwrap();
    assert!(checked.layers.iter().all(|(_, condition)| *condition == Condition::Whole), "{checked:?}");
    assert!(checked.repaired.is_none());
    world.damage(own);
    let checked = world.service.check(&world.name("a")).await.unwrap();
    assert_eq!(checked.layers[0], (shared.diff_id.clone(), Condition::Whole));
    let told = if form == LayerForm::Directory { "has the digest" } else { "from 1048576 on" };
    assert!(matches!(&checked.layers[1].1, Condition::Damaged(why) if why.contains(told)), "{checked:?}");
    assert!(matches!(checked.repaired, Some(Ok(()))), "{checked:?}");
    assert_eq!((world.fetched(shared), world.fetched(own)), (1, 2));
    world.is_good(0, "c").await;
    let checked = world.service.check(&world.name("a")).await.unwrap();
    assert_eq!(checked.layers[1].1, Condition::Whole);
}

async fn what_cannot_be_fetched_is_not_listed_until_the_next_pull(form: LayerForm) {
    let world = World::in_form(form).await;
    let [shared, own] = [&world.images[0].layers[0], &world.images[0].layers[1]];
    world.service.prepare_rootfs("runs", &world.name("a"), None).await.unwrap();
    let runs = world.mount("runs").await.unwrap();
    world.away.store(true, std::sync::atomic::Ordering::Relaxed);
    world.damage(own);
    let checked = world.service.check(&world.name("a")).await.unwrap();
    assert!(matches!(&checked.repaired, Some(Err(_))), "{checked:?}");
    assert!(!world.has("a") && world.has("b"));
    assert!(world.service.prepare_rootfs("new", &world.name("a"), None).await.is_err());
    // What runs goes on with what it has.
    assert_eq!(runs.read(&crate::name_of(shared)).len(), crate::SIZE);
    assert_eq!(runs.read(&crate::name_of(own)).len(), crate::SIZE);
    world.service.collect().await.unwrap();
    assert_eq!(runs.read(&crate::name_of(own)).len(), crate::SIZE);
    world.away.store(false, std::sync::atomic::Ordering::Relaxed);
    world.pull("a").await.unwrap();
    assert_eq!((world.fetched(shared), world.has("a")), (1, true));
    world.is_good(0, "new").await;
    // Kept aside as long as a container may have it mounted.
    let aside = || std::fs::read_dir(world.dir.path().join("root/images/damaged")).map_or(0, Iterator::count);
    assert_eq!(aside(), usize::from(form == LayerForm::Directory));
    // The container that was there before gets the good layer when it is mounted again.
    drop(runs);
    assert_eq!(
        world.mount("runs").await.unwrap().read(&crate::name_of(own)),
        crate::image::noise("own-a", crate::SIZE)
    );
    for container in ["runs", "new"] {
        world.service.release_rootfs(container).await.unwrap();
    }
    world.service.collect().await.unwrap();
    assert_eq!(aside(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_two_images_have_lost_comes_back_for_both() {
    if !is_root() {
        return;
    }
    let world = World::new().await;
    let shared = &world.images[0].layers[0];
    world.damage(shared);
    let checked = world.service.check(&world.name("a")).await.unwrap();
    assert!(matches!(checked.repaired, Some(Ok(()))), "{checked:?}");
    assert!(world.has("a") && world.has("b"));
    assert_eq!(world.fetched(shared), 2);
    world.is_good(1, "c").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_at_the_start_is_fetched_without_being_asked() {
    if !is_root() {
        return;
    }
    let world = World::new().await;
    world.service.prepare_rootfs("before", &world.name("a"), None).await.unwrap();
    let own = world.images[0].layers[1].clone();
    std::fs::remove_dir_all(world.layer(&own)).unwrap();
    let world = world.reopened(only_on_demand());
    assert!(!world.has("a") && world.has("b"));
    let service = world.service.clone();
    let care = tokio::spawn(async move { service.take_care().await });
    until("the layer isn't fetched", || world.has("a")).await;
    world.is_good(0, "c").await;
    // The container of before the restart has its layer again too.
    assert_eq!(
        world.mount("before").await.unwrap().read(&crate::name_of(&own)),
        crate::image::noise("own-a", crate::SIZE)
    );
    care.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_to_be_mounted_is_looked_at_and_fetched() {
    if !is_root() {
        return;
    }
    let world = World::new().await;
    let service = world.service.clone();
    let care = tokio::spawn(async move { service.take_care().await });
    let own = &world.images[0].layers[1];
    std::fs::remove_dir_all(world.layer(own)).unwrap();
    world.service.prepare_rootfs("c", &world.name("a"), None).await.map_or_else(
        |error| assert!(matches!(error, Error::LayerMissing { .. }), "{error:?}"),
        |_| panic!("prepared without a layer"),
    );
    until("the layer isn't fetched", || world.fetched(own) == 2 && world.has("a")).await;
    world.is_good(0, "d").await;
    care.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_that_nobody_asks_for_is_found_in_time() {
    if !is_root() {
        return;
    }
    let often = CareSettings { period: Some(Duration::ZERO), ..CareSettings::default() };
    let world = World::with((LayerForm::Auto, CareSettings { bytes_per_second: 1 << 30, ..often })).await;
    world.pull("b").await.unwrap();
    let own = &world.images[1].layers[1];
    let service = world.service.clone();
    let care = tokio::spawn(async move { service.take_care().await });
    world.damage(own);
    until("the damage isn't found", || world.fetched(own) == 2 && world.has("b")).await;
    world.is_good(1, "c").await;
    care.abort();
}

/// Without a name by digest, what the manifest's digest means in the repository of its tag is the same image.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_with_tags_alone_is_fetched_by_its_manifest() {
    if !is_root() {
        return;
    }
    let world = World::new().await;
    let image = world.service.status(&world.name("a")).unwrap().unwrap();
    assert!(world.service.untag(&image.repo_digests[0]).await.unwrap());
    assert!(world.service.status(&world.name("a")).unwrap().unwrap().repo_digests.is_empty());
    let own = &world.images[0].layers[1];
    world.damage(own);
    let checked = world.service.check(&world.name("a")).await.unwrap();
    assert!(matches!(checked.repaired, Some(Ok(()))), "{checked:?}");
    assert_eq!(world.fetched(own), 2);
    world.is_good(0, "c").await;
}

/// The kernel says that something in the root can't be read, and not in which layer.
#[tokio::test(flavor = "multi_thread")]
async fn damage_that_no_layer_is_named_for_is_looked_for_in_all() {
    if !is_root() {
        return;
    }
    // The upper layer uses a directory that the lower one describes.
    let lower = Tar::new().with(dir("d").mode(0o700)).with(file("d/f", "content"));
    let image = ImageBytes::new(vec![LayerBytes::of_archive(&lower.bytes()), LayerBytes::new("d/upper", 10)]);
    let mut content = Content::default();
    image.publish(&mut content, "a", "1");
    let registry = Registry::start(move |request| content.reply(request)).await;
    let root = tempfile::tempdir().unwrap();
    let service = open(&root, (LayerForm::Auto, only_on_demand()));
    let name = format!("{}/a:1", registry.host());
    let request = || PullRequest { reference: name.clone(), credentials: None };
    service.pull(request()).await.unwrap();
    let lower = &image.layers[0];
    let path = root.path().join("root/images/layers/sha256").join(lower.diff_id.hex()).join("layer.erofs");
    let Ok(file) = std::fs::File::options().write(true).open(&path) else {
        println!("skipped: layers are no images here");
        return;
    };
    // All but the first block: it can be mounted, and its root be read.
    let zeros = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap() - 4096];
    std::os::unix::fs::FileExt::write_all_at(&file, &zeros, 4096).unwrap();
    let care = tokio::spawn({
        let service = service.clone();
        async move { service.take_care().await }
    });
    let error = service.prepare_rootfs("c", &name, None).await.unwrap_err();
    assert!(error.to_string().contains("set the attributes of"), "{error}");
    let fetched = || registry.requests_for(lower.digest.hex()).len();
    until("the layer isn't fetched", || fetched() == 2 && service.status(&name).unwrap().is_some()).await;
    service.prepare_rootfs("c", &name, None).await.unwrap();
    care.abort();
}
