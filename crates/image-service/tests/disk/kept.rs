//! What is kept of layers for a later attempt never takes the room that a pull needs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use image_service::ErrorKind;

use crate::breaking::{Breaking, Manner};
use crate::filesystem::{Kind, Mounted};
use crate::full::{fill, free, small_ext4};
use crate::image::{Content, ImageBytes, LayerBytes, noise};
use crate::{Service, in_own_mounts};

pub(crate) const MIB: u64 = 1 << 20;

/// Bytes that are kept of layers.
pub(crate) fn kept(disk: &Mounted) -> u64 {
    let dir: PathBuf = disk.path().join("root/images/ingest/blobs");
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

/// Takes so much of a disk that `leave` bytes are free.
pub(crate) fn fill_but(at: &Path, leave: u64) {
    let file = std::fs::File::create(at.join("taken")).unwrap();
    let take = free(at).checked_sub(leave).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, take).unwrap();
    file.sync_all().unwrap();
    // The last of what was removed before may just be going.
    assert!(free(at).abs_diff(leave) <= 64 << 10, "{} bytes are free, not {leave}", free(at));
}

/// A registry of images of one layer each.
pub(crate) async fn registry(images: Vec<(&str, LayerBytes)>, manner: Manner) -> Breaking {
    let mut content = Content::default();
    for (name, layer) in images {
        ImageBytes::new(vec![layer]).publish(&mut content, name, "1");
    }
    Breaking::start(content, manner).await
}

async fn reached(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), waiting).await.is_ok(), "{what}");
}

#[test]
fn a_disk_that_fills_while_bytes_are_kept_costs_only_these() {
    if !Kind::Ext4.is_here() {
        return;
    }
    in_own_mounts(|dir| async move {
        let disk = small_ext4(&dir, 112);
        let manner = Manner { gives: 9 * MIB, ..Manner::default() };
        let registry = registry(vec![("one", LayerBytes::new("one", 12 << 20))], manner).await;
        let service = Service::at(disk.path(), registry.address.to_string());
        let pull = async {
            service.pull("one").await.unwrap();
        };
        let others = async {
            reached("nothing was kept", || kept(&disk) >= 8 * MIB).await;
            fill(disk.path());
            assert_eq!(free(disk.path()), 0);
            registry.change(Manner::default());
        };
        tokio::join!(pull, others);
        assert_eq!((registry.answers(), kept(&disk)), (1, 0), "answers and bytes kept");
        assert!(service.has("one"));
        drop(service);
    });
}

#[test]
fn a_layer_that_needs_the_room_of_its_own_bytes_gets_it() {
    if !Kind::Ext4.is_here() {
        return;
    }
    in_own_mounts(|dir| async move {
        let disk = small_ext4(&dir, 64);
        // 4 MiB that unpack to 40.
        let content = [noise("one", 4 << 20), noise("line", 1 << 10).repeat(36 << 10)].concat();
        let layer = LayerBytes::of("one", &content);
        assert!((4 << 20..6 << 20).contains(&layer.blob.len()), "{}", layer.blob.len());
        let registry = registry(vec![("one", layer)], Manner::default()).await;
        let service = Service::at(disk.path(), registry.address.to_string());
        fill_but(disk.path(), 42 * MIB);
        service.pull("one").await.unwrap();
        assert_eq!((registry.answers(), kept(&disk)), (2, 0), "answers and bytes kept");
        drop(service);
    });
}

/// Has a pull of the image "one" broken off by a registry that goes away. The answer is how much is kept of it, from 4 MiB on.
pub(crate) async fn break_off(service: &Service, registry: &mut Breaking, disk: &Mounted) -> u64 {
    let before = free(disk.path());
    let goes_away = async {
        reached("nothing was kept", || kept(disk) >= 4 * MIB).await;
        registry.stop().await;
    };
    let (pulled, ()) = tokio::join!(service.pull("one"), goes_away);
    assert_eq!(pulled.unwrap_err().kind(), ErrorKind::Unavailable);
    let left = kept(disk);
    assert!(left >= 4 * MIB, "{left} bytes are kept");
    reached("more is left", || free(disk.path()) + left + MIB / 2 >= before).await;
    left
}

#[test]
fn what_failed_pulls_left_is_given_up_for_one_that_needs_the_room() {
    if !Kind::Ext4.is_here() {
        return;
    }
    in_own_mounts(|dir| async move {
        let disk = small_ext4(&dir, 64);
        let layers =
            vec![("one", LayerBytes::new("one", 8 << 20)), ("next", LayerBytes::new("next", 6 << 20))];
        let mut registry = registry(layers, Manner { gives: 5 * MIB, ..Manner::default() }).await;
        let service = Service::at(disk.path(), registry.address.to_string());
        let left = break_off(&service, &mut registry, &disk).await;
        registry.change(Manner::default());
        registry.restart().await;
        fill_but(disk.path(), 9 * MIB - left);
        service.pull("next").await.unwrap();
        assert_eq!(kept(&disk), 0);
        // It had to go, and is fetched anew when there is room for it.
        assert_eq!(service.pull("one").await.unwrap_err().kind(), ErrorKind::NoSpace);
        std::fs::remove_file(disk.path().join("taken")).unwrap();
        service.pull("one").await.unwrap();
        drop(service);
    });
}
